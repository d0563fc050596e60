"""Votes out in TRL's shapes and in from other programs; and what is deleted is gone."""

import json
import shutil
from pathlib import Path

import pytest
from datasets import load_dataset
from trl import extract_prompt

from data.errors import UserError
from data.exports import SHAPES, write
from data.feedback import FeedbackStore
from data.imports import import_votes
from data.loading import load
from data.records import Message
from data.said import read_said
from data.votes import learn

FIXTURES = Path(__file__).parent / "fixtures"


@pytest.fixture
def store(tmp_path):
    store = FeedbackStore.open(tmp_path / "feedback.sqlite")
    yield store
    store.close()


def talk(store, question, *answers, rater="ann", finish="stop"):
    conversation = store.start_conversation(rater=rater, system_prompt="be brief")
    asked = store.add_message(conversation, parent=None, author="human", content=question)
    return [
        store.add_message(conversation, parent=asked, author="model", content=text, finish=finish) for text in answers
    ]


def some_votes(store):
    bad, good = talk(store, "q 1", "bad\nanswer", "good \u2028 answer")
    store.rate(bad, rater="ann", value=-1)
    store.rate(good, rater="ann", value=1)
    left, right = talk(store, "q 2", "left", "right")
    store.compare(left, right, rater="ann", winner="tie", blind=True, shown_ms=1)
    (old,) = talk(store, "q 3", "old")
    store.edit(old, rater="ann", content="new")
    return learn(read_said(store))


@pytest.mark.parametrize("shape", SHAPES)
def test_an_export_reads_back_as_the_records_it_was_made_of(store, tmp_path, shape):
    lesson = some_votes(store)
    count, _ = write(SHAPES[shape].rows(lesson), tmp_path / "out.jsonl")
    found = load(tmp_path / "out.jsonl", SHAPES[shape].reads_as)
    said = {(r.prompt, *getattr(r, "responses", (getattr(r, "response", None),))) for r in found}
    ask = lambda n: (Message("system", "be brief"), Message("user", f"q {n}"))  # noqa: E731
    expected = {
        "kto": {(ask(1), "bad\nanswer"), (ask(1), "good \u2028 answer")},
        "preference": {(ask(1), "good \u2028 answer", "bad\nanswer"), (ask(3), "new", "old")},
        "sft": {(ask(1), "good \u2028 answer"), (ask(3), "new")},
    }
    assert said == expected[shape] and count == len(found) == 2


def test_trl_takes_the_shapes_as_they_are(store, tmp_path):
    lesson = some_votes(store)
    columns = {
        "kto": {"id", "prompt", "completion", "label"},
        "preference": {"id", "chosen", "rejected"},
        "sft": {"id", "messages"},
    }
    for shape, names in columns.items():
        write(SHAPES[shape].rows(lesson), tmp_path / f"{shape}.jsonl")
        rows = load_dataset(
            "json", data_files=str(tmp_path / f"{shape}.jsonl"), split="train", cache_dir=str(tmp_path / "cache")
        )
        assert set(rows.column_names) == names
    pairs = [json.loads(line) for line in (tmp_path / "preference.jsonl").read_text(encoding="utf-8").split("\n")[:-1]]
    for row in pairs:
        # TRL finds the prompt as what both sides share.
        assert [m["role"] for m in extract_prompt(row)["prompt"]] == ["system", "user"]


def test_open_webuis_feedback_becomes_thumbs_and_choices(store):
    done = import_votes(store, "open-webui", FIXTURES / "open_webui.json")
    assert (done.votes, done.known) == (2, 0)
    assert done.left_out == {"rows without a rating": 1, "ratings without their conversation": 1}
    lesson = learn(read_said(store))
    (thumb,) = lesson.unpaired
    assert (thumb.response, thumb.up) == ("230 degrees.", True)
    assert [m.content for m in thumb.prompt] == ["Be brief.", "How do I bake bread?", "Flour, water, salt.", "How hot?"]
    (ranking,) = lesson.rankings
    assert (ranking.responses, ranking.ranks) == (("Black tea.", "Camomile."), (0, 1))
    assert set(lesson.given) == {"open-webui-u1", "open-webui-u2"}
    assert store.rows("SELECT tags, comment FROM rating") == [('["cooking", "accurate_information"]', "nice")]


def test_fastchats_votes_become_thumbs_and_choices_without_addresses(store):
    done = import_votes(store, "fastchat", FIXTURES / "fastchat-conv.json")
    assert done.votes == 3 and done.left_out == {
        "lines of type 'chat'": 1,
        "choices between conversations that parted earlier": 1,
        "conversations without an answer": 1,
    }
    lesson = learn(read_said(store))
    (ranking,) = lesson.rankings
    assert (ranking.prompt, ranking.responses) == ((Message("user", "Name a lake."),), ("Lake Constance.", "The Nile."))
    assert sorted((t.prompt[0].role, t.response, t.up) for t in lesson.unpaired) == [
        ("system", "The Rhine.", True),
        ("user", "No.", False),
        ("user", "The sea.", False),
    ]
    assert set(lesson.given) == {"fastchat-1", "fastchat-2"}
    assert not [row for table in ("rater", "message", "rating") for row in store.rows(f"SELECT * FROM {table}")
                if "203.0.113" in str(row)]  # fmt: skip


@pytest.mark.parametrize(("name", "file"), [("open-webui", "open_webui.json"), ("fastchat", "fastchat-conv.json")])
def test_a_second_import_adds_nothing(store, name, file):
    first = import_votes(store, name, FIXTURES / file)
    before = store.stats()
    again = import_votes(store, name, FIXTURES / file)
    assert (again.votes, again.known, store.stats()) == (0, first.votes, before)


def test_a_file_with_a_mistake_adds_nothing_and_every_mistake_is_told(store, tmp_path):
    rows = (FIXTURES / "fastchat-conv.json").read_text(encoding="utf-8").splitlines()
    (tmp_path / "bad.json").write_text("\n".join([*rows[:2], '{"type": "upvote"}', "{", "[1]"]), encoding="utf-8")
    with pytest.raises(UserError) as caught:
        import_votes(store, "fastchat", tmp_path / "bad.json")
    said = caught.value.problems
    assert [line.split(": ")[0].rpartition(" ")[2] for line in said] == ["3", "4", "5"] and "no field 'state'" in said[
        0
    ]
    assert store.stats()["conversations"] == 0
    with pytest.raises(UserError, match="no such format 'zulip'; there are open-webui, fastchat"):
        import_votes(store, "zulip", tmp_path / "bad.json")


def test_what_a_rater_said_and_voted_is_gone_and_counted(store):
    one, two = talk(store, "a secret question", "one", "two", rater="mallory")
    (other,) = talk(store, "q", "answer", rater="ann")
    store.rate(one, rater="mallory", value=1)
    store.rate(one, rater="ann", value=1)
    store.rate(other, rater="mallory", value=-1)
    store.rate(other, rater="ann", value=1)
    store.compare(one, two, rater="mallory", winner="left", blind=True, shown_ms=1)
    store.edit(other, rater="mallory", content="a secret wording")
    store.log_export("out.jsonl", "abc", ["ann", "mallory"])
    assert store.exports_with("mallory") == [("out.jsonl", "abc")]
    # Messages: Mallory's question, its two answers, and her wording of Ann's.
    assert store.forget("mallory") == {
        "thumbs": 3, "choices": 1, "messages": 4, "edits": 1, "conversations": 1, "consents": 0, "raters": 1,
    }  # fmt: skip
    store.wipe()
    assert store.exports_with("mallory") == [] and store.exports_with("ann") == [("out.jsonl", "abc")]
    left = learn(read_said(store))
    assert (left.given, len(left.unpaired)) == ({"ann": 1}, 1)
    assert store.rows("PRAGMA foreign_key_check") == []
    for file in store.path.parent.iterdir():
        assert b"secret" not in file.read_bytes() and b"mallory" not in file.read_bytes(), file


def test_an_import_that_is_interrupted_leaves_nothing(store, tmp_path, monkeypatch):
    monkeypatch.setattr(store, "compare", lambda *a, **k: 1 / 0)
    shutil.copy(FIXTURES / "fastchat-conv.json", tmp_path / "conv.json")
    with pytest.raises(ZeroDivisionError):
        import_votes(store, "fastchat", tmp_path / "conv.json")
    assert store.stats()["conversations"] == 0


def test_traces_that_somebody_still_reads_are_told(store):
    talk(store, "a secret question", "one", rater="mallory")
    reader = FeedbackStore.open(store.path)
    with reader.reading():
        reader.rows("SELECT * FROM message")
        store.forget("mallory")
        store._db.execute("PRAGMA busy_timeout = 10")
        with pytest.raises(UserError, match=r"rows are removed.*feedback.sqlite-wal \(.*VACUUM"):
            store.wipe()
    reader.close()
    store.wipe()
    assert all(b"secret" not in file.read_bytes() for file in store.path.parent.iterdir())
