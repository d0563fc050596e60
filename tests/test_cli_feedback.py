"""The `feedback` verbs as the door calls them."""

import json
from pathlib import Path

import pytest

from data.errors import UserError
from data.feedback import FeedbackStore
from data.loading import load
from pipeline.cli_feedback import consent, delete, export, import_, preview, stats
from pipeline.cli_standings import standings
from pipeline.config import dump, load_config
from pipeline.run import Run


@pytest.fixture
def db(tmp_path):
    """Ann finds one answer bad and its retry good; Bob finds a third answer good and takes it back; Eve skips."""
    path = tmp_path / "votes.sqlite"
    store = FeedbackStore.open(path)
    conversation = store.start_conversation(rater="ann")
    asked = store.add_message(conversation, parent=None, author="human", content="How?")
    one, two, three = (
        store.add_message(conversation, parent=asked, author="model", content=text, finish="stop")
        for text in ("so", "thus\x1b[31m", "hm")
    )
    store.rate(one, rater="ann", value=-1)
    store.rate(two, rater="ann", value=1)
    store.rate(three, rater="bob", value=1)
    store.rate(three, rater="bob", value=0)
    store.compare(one, two, rater="eve", winner="skip", blind=True, shown_ms=1)
    store.close()
    return path


def test_stats_count_raters_and_what_cannot_be_used(db, capsys):
    stats(db=db)
    said = capsys.readouterr().out.splitlines()
    assert "3 judgements stand ('both bad' is two), of 2 raters:" in said
    assert ["ann", "2", "67%", "consent:", "publish,", "not", "asked"] in [line.split() for line in said]
    assert said[-3:] == [
        "2 of 3 judgements used",
        "  left out: choice skipped: 1",
        "  no judgements any more: thumbs changed or taken back: 1",
    ]


def test_stats_count_thumbs_by_the_checkpoint_that_wrote(tmp_path, capsys):
    """Twelve answers, counted by hand: those that stand, of whom, and none that was taken back; the interval from Wilson's formula."""
    path = tmp_path / "votes.sqlite"
    store = FeedbackStore.open(path)
    assert store.stats()["wordings"] == 0
    models = [store.add_model(run="r", stage=s, weights_sha256=s, template_sha256="t") for s in ("sft", "ppo")]
    asked = store.add_message(store.start_conversation(rater="ann"), parent=None, author="human", content="How?")
    talk = store.rows("SELECT conversation FROM message")[0][0]
    for number in range(12):
        model = models[number % 2]
        answer = store.add_message(talk, parent=asked, author="model", content=f"a{number}", model=model, finish="stop")
        store.rate(answer, rater="bob" if number == 3 else "ann", value=1 if number < 8 else -1)
        if number == 0:
            store.rate(answer, rater="ann", value=0)
    store.edit(answer, rater="ann", content="better")
    store.close()
    stats(db=path)
    said = capsys.readouterr().out
    # Of SFT's six: 0 taken back, 2, 4, 6 up, 8, 10 down. Of PPO's: 1, 3, 5, 7 up, 9, 11 down.
    assert "r (sft): 3 up, 2 down: 60% [23%, 88%] of 1 person" in said
    assert "r (ppo): 4 up, 2 down: 67% [30%, 90%] of 2 people" in said
    assert ["wordings", "1"] in [line.split() for line in said.splitlines()]


def test_preview_shows_what_a_round_would_learn(db, capsys):
    preview(db=db)
    said = capsys.readouterr().out
    assert "1 ranking with 1 pair," in said and "better: " in said and "worse: so" in said and "1 demonstration\n" in said
    # What a model said cannot write to the terminal what the terminal would obey.
    assert "\x1b" not in said


def test_an_export_is_noted_and_a_deletion_names_it(db, tmp_path, capsys):
    out = tmp_path / "sft.jsonl"
    export("sft", out, db=db)
    assert [d.response for d in load(out, "messages")] == ["thus\x1b[31m"]
    assert out.stat().st_mode & 0o777 == 0o600
    with pytest.raises(UserError, match="is there already"):
        export("sft", out, db=db)
    capsys.readouterr()
    delete("ann", db=db, yes=True)
    said = capsys.readouterr().out
    # All three answers stand in her conversation, and with them goes what Bob and Eve said of them.
    assert "removed: thumbs 4, choices 1, messages 4, edits 0, conversations 1, consents 0, raters 1" in said
    assert f"still in {out} (sha256 " in said
    stats(db=db)
    assert "0 judgements stand" in capsys.readouterr().out


def test_import_says_how_many_came_in(tmp_path, capsys):
    row = {
        "type": "upvote", "ip": "x", "tstamp": 1,
        "state": {"roles": ["user", "assistant"], "messages": [["user", "q"], ["assistant", "a"]], "offset": 0},
    }  # fmt: skip
    (tmp_path / "log.json").write_text(json.dumps(row) + "\n" + json.dumps({"type": "chat"}), encoding="utf-8")
    import_("fastchat", tmp_path / "log.json", db=tmp_path / "new.sqlite")
    said = capsys.readouterr().out
    assert said == "1 vote added, here already: 0\n  left out: lines of type 'chat': 1\n"


def test_slips_are_one_line(db, tmp_path):
    with pytest.raises(UserError, match="no votes there yet"):
        stats(db=tmp_path / "none.sqlite")
    with pytest.raises(UserError, match="there are kto, preference, sft"):
        export("dpo", tmp_path / "x.jsonl", db=db)
    with pytest.raises(UserError, match="no rater 'zoe'"):
        delete("zoe", db=db, yes=True)


def test_a_slip_makes_no_database_and_leaves_an_empty_file_as_it_is(tmp_path):
    path = tmp_path / "votes.sqlite"
    for slip in (("foo", tmp_path / "x.json"), ("fastchat", tmp_path / "x.json")):
        with pytest.raises(UserError, match="no such format|cannot be read"):
            import_(*slip, db=path)
    assert not path.exists()
    path.touch()
    with pytest.raises(UserError, match="no votes there yet"):
        preview(db=path)
    assert path.stat().st_size == 0


def test_consent_is_noted_by_hand_and_shown_and_says_where_words_already_are(db, tmp_path, capsys):
    export("preference", tmp_path / "pairs.jsonl", db=db)
    capsys.readouterr()
    consent("ann", "local", db=db)
    said = capsys.readouterr().out
    assert said.startswith("ann: local from now on\nwritten before, and so still in ") and "pairs.jsonl" in said
    preview(db=db)
    said = capsys.readouterr().out
    assert "0 rankings" in said and "left out: by raters who keep what they say in the chat (consent): 2" in said
    with pytest.raises(UserError, match=r"none.jsonl: not written: no votes make"):
        export("preference", tmp_path / "none.jsonl", db=db)
    # Why there are none is said, and no empty file left.
    assert "by raters who keep what they say" in capsys.readouterr().out and not (tmp_path / "none.jsonl").exists()
    stats(db=db)
    assert "consent: local\n" in capsys.readouterr().out
    with pytest.raises(UserError, match="consent should be local, train or publish"):
        consent("ann", "all", db=db)
    with pytest.raises(UserError, match="no rater 'nobody'"):
        consent("nobody", "train", db=db)


def test_standings_say_that_there_are_none_and_why(db, capsys):
    standings(db=db)
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 2 and said[0].startswith("no blind votes between two checkpoints yet")
    assert said[1] == "  not counted: 1 skipped"


def test_standings_of_a_run_go_into_its_report_and_out_of_it_again(db, tmp_path, capsys):
    run = Run.open(load_config(Path("configs/smoke.yaml"), [f"runs_dir={tmp_path}", "run_name=r"]))
    run.path.mkdir(exist_ok=True)
    (run.path / "config.yaml").write_text(dump(run.config), encoding="utf-8")
    store = FeedbackStore.open(db)
    models = [
        store.add_model(run="r", stage=stage, weights_sha256=stage, template_sha256="t") for stage in ("sft", "ppo")
    ]
    for number in range(4):
        talk = store.start_conversation(rater="zoe")
        asked = store.add_message(talk, parent=None, author="human", content=f"q{number}")
        sides = [
            store.add_message(talk, parent=asked, author="model", content=m, model=m, finish="stop") for m in models
        ]
        store.compare(*sides, rater="zoe", winner="left" if number else "right", blind=True, shown_ms=1)
    standings(run_name=str(run.path), db=db)
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "4 blind votes between 2 checkpoints, of 1 person in 4 conversations"
    assert (
        said[1].split("  ")[1] == "ppo over sft"
        and "25% (too few for an interval)" in said[1]
        and "p = 0.625" in said[1]
    )
    assert "1 won, 3 lost, 0 ties, 0 both bad; 1 person, 4 conversations" in said[1]
    assert said[2].startswith("left side chosen in 75% [") and said[2].endswith(" of 4 choices of a side")
    assert "no two of them judged the same two answers" in said[3] and said[-1] == f"Report: {run.path}/report.html"
    assert "ppo over sft" in (run.path / "report.md").read_text() and "zoe" not in (run.path / "report.md").read_text()
    store.forget("zoe")
    store.close()
    standings(run_name=str(run.path), db=db)
    assert "no blind votes" in capsys.readouterr().out
    assert "ppo over sft" not in (run.path / "report.md").read_text()
