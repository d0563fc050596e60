"""Every format reads its own rows, and says what is wrong with any other."""

import json
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.errors import UserError
from data.formats import FORMATS
from data.inspect import guess
from data.loading import load
from data.records import Demonstration, Message, Prompt, Ranking, ScoredAnswer, Several, Thumb
from data.sources import read_rows

U, A = (lambda text: {"role": "user", "content": text}), (lambda text: {"role": "assistant", "content": text})
TREE = {
    "message_id": "m",
    "text": "q",
    "role": "prompter",
    "replies": [
        {"message_id": "r", "text": "b", "role": "assistant", "rank": 1},
        {"message_id": "s", "text": "a", "role": "assistant", "rank": 0, "replies": []},
    ],
}
ROWS = {
    "messages": {"messages": [U("q"), A("a")]},
    "prompt_completion": {"prompt": "q", "completion": "a"},
    "alpaca": {"instruction": "q", "input": "", "output": "a"},
    "sharegpt": {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
    "hh": {"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant: b"},
    "ultrafeedback": {
        "chosen": [U("q"), A("a")],
        "rejected": [U("q"), A("b")],
        "score_chosen": 8.0,
        "score_rejected": 3.0,
    },
    "pairs": {"prompt": "q", "chosen": "a", "rejected": "b"},
    "ranked": {"prompt": "q", "responses": ["a", "b"], "ranks": [0, 1]},
    "prompts": {"prompt": [U("q")]},
    "scored": {"prompt": "q", "responses": [{"text": "b", "score": 1}, {"text": "a", "score": 7.5}]},
    "scored_rows": {"prompt": "q", "response": "a", "score": 3},
    "summaries": {
        "info": {"subreddit": "pets", "title": "My cat", "post": "It sleeps."},
        "summaries": [{"text": " Cat.", "policy": "x"}, {"text": " It sleeps."}],
        "choice": 1,
    },
    "oasst_demonstrations": {"message_tree_id": "t", "prompt": TREE},
    "oasst_rankings": {"message_tree_id": "t", "prompt": TREE},
    "thumbs": {"prompt": "q", "completion": "a", "label": True},
    "thumbs_ranked": {"prompt": "q", "completion": "a", "label": True},
}
# One record of these is spread over rows.
SECOND = {
    "scored_rows": {"prompt": "q", "response": "b", "score": 1},
    "thumbs_ranked": {"prompt": "q", "completion": "b", "label": False},
}
Q = (Message("user", "q"),)


def file_of(tmp_path: Path, *rows, name="rows.jsonl") -> Path:
    path = tmp_path / name
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", FORMATS)
def test_each_format_reads_its_row(tmp_path, name):
    rows = [ROWS[name], *([SECOND[name]] if name in SECOND else [])]
    (record,) = load(file_of(tmp_path, *rows), name)
    summary = "SUBREDDIT: r/pets\n\nTITLE: My cat\n\nPOST: It sleeps.\n\nTL;DR:"
    expected = {
        "scored": Ranking("rows-1", Q, ("b", "a"), (1, 0), (True, True)),
        "scored_rows": Ranking("rows-1", Q, ("a", "b"), (0, 1), (True, True)),
        "thumbs_ranked": Ranking("rows-1", Q, ("a", "b"), (0, 1), (True, True)),
        "summaries": Ranking("rows-1", (Message("user", summary),), ("Cat.", "It sleeps."), (1, 0), (True, True)),
        "oasst_demonstrations": Demonstration("s", Q, "a"),
        "oasst_rankings": Ranking("m", Q, ("b", "a"), (1, 0), (True, True)),
        "thumbs": Thumb("rows-1", Q, "a", up=True),
        "prompts": Prompt("rows-1", Q),
        "hh": Ranking("rows-1", Q, ("a", "b"), (0, 1), (True, True)),
        "ultrafeedback": Ranking("rows-1", Q, ("a", "b"), (0, 1), (True, True)),
        "pairs": Ranking("rows-1", Q, ("a", "b"), (0, 1), (True, True)),
        "ranked": Ranking("rows-1", Q, ("a", "b"), (0, 1), (True, True)),
    }.get(name, Demonstration("rows-1", Q, "a"))
    assert record == expected


Q_A = ROWS["hh"]["chosen"]
SAME = {"chosen": Q_A, "rejected": Q_A}
BAD = [
    ("messages", {"messages": [A("a"), U("q")]}, "turn 1 is 'assistant', expected 'user'"),
    ("messages", {"messages": [U("q"), U("q2"), A("a")]}, "turn 2 is 'user', expected 'assistant'"),
    ("messages", {"messages": [{"role": "bot", "content": "q"}, A("a")]}, "turn 1: role 'bot' is not one of"),
    ("messages", {"messages": [U(5), A("a")]}, "turn 1: content is a number, expected text"),
    ("messages", {"messages": [U(None), A("a")]}, "turn 1: content is null, expected text"),
    ("messages", {"messages": [U("q")]}, "nothing to learn from"),
    ("messages", {"mesages": []}, r"unknown field 'mesages'; did you mean 'messages'\? Mend or drop the row\.$"),
    ("messages", {"messages": [U("q"), A("a")], "topik": "x"}, "unknown field 'topik'; did you mean 'topic'"),
    ("messages", {"messages": [U("a\x00b"), A("a")]}, "NUL character at offset 1"),
    ("messages", {"messages": [U("ab\ud800"), A("a")]}, "lone surrogate at offset 2"),
    ("messages", {"messages": [{"role": "user", "contnet": "q"}]}, "turn 1 has no 'content'; found 'role', 'contnet'"),
    ("messages", {"messages": ["q", "a"]}, "turn 1 is text, expected an object"),
    ("messages", {"messages": [U("q"), A("a")], "topic": 3}, "topic is a number, expected text"),
    ("prompt_completion", {"prompt": "q", "completion": [U("a")]}, "completion must be one assistant turn"),
    ("hh", SAME, "chosen and rejected are the same text; so it is in 1 of 2 rows, and at most 5% may be so"),
    ("hh", {"chosen": ROWS["hh"]["chosen"], "rejected": 7}, "rejected is a number, expected text"),
    ("hh", {"chosen": "\n\nHuman: q", "rejected": "\n\nHuman: q"}, "chosen does not end with an assistant turn"),
    ("hh", {"chosen": f"{Q_A}\n\nHuman: r\n\nAssistant: b", "rejected": Q_A}, "prompts .* differ at turn 2"),
    ("hh", {"chosen": f"{Q_A}\n\nAssistant: b", "rejected": Q_A}, "chosen: turn 3 is 'assistant', expected 'user'"),
    ("hh", {"chosen": "hello", "rejected": "x"}, "does not start with"),
    ("hh", {"chosen": "\n\nHuman: p\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant: a"}, "differ at turn 1"),
    ("ultrafeedback", {"chosen": [U("q"), A("a")], "rejected": None}, "rejected is null, expected a list of turns"),
    ("ultrafeedback", {**ROWS["ultrafeedback"], "rejected": None, "rejectd": []}, "'rejectd'; did you mean 'rejected'"),
    ("ultrafeedback", {**ROWS["ultrafeedback"], "score_chosen": 1}, "chosen has the lower score: 1, rejected 3"),
    (
        "ultrafeedback",
        {**ROWS["ultrafeedback"], "score_chosen": "8"},
        "score_chosen is text .*expected a finite number",
    ),
    ("ultrafeedback", {**ROWS["ultrafeedback"], "score_chosen": float("nan")}, "score_chosen is .*expected a finite"),
    (
        "ultrafeedback",
        {"prompt": "q", "completion": "a", "label": True},
        "no field 'chosen'; found 'prompt', 'completion', 'label'; that is the format thumbs; .* 'thumbs_ranked' ranks",
    ),
    ("pairs", {**ROWS["pairs"], **ROWS["hh"]}, "chosen is a whole transcript.*format hh"),
    ("pairs", {**ROWS["pairs"], "chosen": [U("q"), A("a")]}, "chosen must be one assistant turn, got 2 turns"),
    ("pairs", {**ROWS["pairs"], "score_chosen": 1, "score_rejected": 3}, "chosen has the lower score: 1, rejected 3"),
    ("pairs", {"chosen": "a", "rejected": "b"}, "no field 'prompt'"),
    ("ultrafeedback", ROWS["alpaca"], "no field 'chosen'.*that is the format alpaca"),
    ("messages", ROWS["ranked"], "no field 'messages'.*that is the format ranked"),
    ("prompts", {"prompt": "q", "act": "x"}, "unknown field 'act'; known are id, prompt, topic"),
    ("alpaca", {"instruction": "q", "output": "a", "inputt": "b"}, "unknown field 'inputt'; did you mean 'input'"),
    ("prompts", {"prompt": "q", "id": True}, "id is true or false, expected text or a whole number"),
    ("ranked", {"prompt": "q", "responses": ["a"], "ranks": [0]}, "at least 2"),
    ("ranked", {"prompt": "q", "responses": ["a", "b"], "ranks": [0]}, "2 responses but 1 ranks"),
    ("ranked", {**ROWS["ranked"], "finished": [True]}, "2 responses but 1 finished"),
    ("ranked", {**ROWS["ranked"], "ranks": [0, 0.5]}, "whole numbers"),
    ("ranked", {**ROWS["ranked"], "ranks": [1, 2]}, "the best rank is 1, expected 0"),
    ("ranked", {**ROWS["ranked"], "responses": ["a", 3]}, "response 2 is a number, expected text"),
    ("ranked", {**ROWS["ranked"], "prompt": [U("q"), A("a")]}, "ends with an assistant turn"),
    ("ranked", {"prompt": "q", "responses": ["a", "a"], "ranks": [0, 1]}, "same text but ranked apart"),
    ("ranked", {"prompt": "q", "responses": ["a", " "], "ranks": [0, 1]}, "response 2 is empty"),
    ("sharegpt", {"conversations": [{"from": "alien", "value": "q"}]}, "unknown speaker 'alien'"),
    ("alpaca", {"instruction": "q", "output": ""}, "output is empty"),
    ("alpaca", {"instruction": "q", "input": 0, "output": "a"}, "input is a number, expected text"),
]


@pytest.mark.parametrize(("name", "row", "said"), BAD)
def test_a_row_that_cannot_be_used_is_named_with_the_reason(tmp_path, name, row, said):
    with pytest.raises(UserError, match=said) as caught:
        load(file_of(tmp_path, ROWS[name], row), name)
    (problem,) = caught.value.problems
    assert problem.startswith(f"{tmp_path}/rows.jsonl row 2: ") and problem.endswith(".")


def test_all_mistakes_of_a_file_come_at_once(tmp_path):
    with pytest.raises(UserError) as caught:
        load(file_of(tmp_path, '{"prompt": ', {"prompt": ""}, {"prompt": "fine"}, "[1]"), "prompts")
    assert [p.split(": ")[0].split("row ")[1] for p in caught.value.problems] == ["1", "2", "4"]


def test_a_fault_that_every_row_has_is_told_once(tmp_path):
    with pytest.raises(UserError) as caught:
        load(file_of(tmp_path, *[{"text": "q"}] * 300), "prompts")
    (problem,) = caught.value.problems
    assert problem.startswith(
        f"{tmp_path}/rows.jsonl rows 1 to 300 (all): no field 'prompt'; found 'text'. Mend the file"
    )


def test_a_few_equal_answers_are_ties_and_many_are_refused(tmp_path):
    rows = [{"chosen": Q_A, "rejected": f"{Q_A}{i}"} for i in range(19)]
    records = load(file_of(tmp_path, *rows, SAME), "hh")
    assert [r.pairs() for r in records] == [[(0, 1)]] * 19 + [[]]
    with pytest.raises(UserError) as caught:
        load(file_of(tmp_path, SAME, *rows, SAME), "hh")
    assert [p.split("row ")[1].split(":")[0] for p in caught.value.problems] == ["1", "21"]


def test_plain_rows_need_no_heavy_library(tmp_path):
    path = file_of(tmp_path, ROWS["hh"])
    code = f"import sys; from data.loading import load; load({str(path)!r}, 'hh'); print(*sys.modules)"
    root = Path(__file__).resolve().parents[2]
    ran = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert not {"torch", "pandas", "datasets", "pyarrow", "numpy"} & set(ran.stdout.split())


def test_two_rows_under_one_id_are_refused(tmp_path):
    with pytest.raises(UserError, match="row 3: id '7' is that of row 1 too"):
        load(file_of(tmp_path, *({"id": i, "prompt": "q"} for i in (7, 8, "7"))), "prompts")


def test_a_row_without_an_id_is_named_by_its_place(tmp_path):
    rows = [{"prompt": "q"}, {"id": None, "prompt": "q"}, {"id": "", "prompt": "q"}, {"id": 5, "prompt": "q"}]
    assert [r.id for r in load(file_of(tmp_path, *rows), "prompts")] == ["rows-1", "rows-2", "rows-3", "5"]


def test_fields_that_public_sets_carry_do_no_harm(tmp_path):
    row = {**ROWS["ultrafeedback"], "prompt": "q", "prompt_id": "x", "idx": 3, "is_classification": False}
    assert len(load(file_of(tmp_path, row), "ultrafeedback")) == 1


def test_equal_scores_are_a_tie(tmp_path):
    (record,) = load(file_of(tmp_path, {**ROWS["ultrafeedback"], "score_rejected": 8.0}), "ultrafeedback")
    assert record.ranks == (0, 0) and record.pairs() == []


@pytest.mark.parametrize(
    "row",
    [
        ROWS["pairs"],
        {"prompt": [U("q")], "chosen": [A("a")], "rejected": [A("b")]},
        {**ROWS["pairs"], "score_chosen": 8.0, "score_rejected": 3.0, "source": "x"},
    ],
)
def test_a_question_with_two_answers_is_guessed_and_read_however_it_is_written(tmp_path, row):
    path = file_of(tmp_path, row)
    assert [g.format_name for g in guess(path)] == ["pairs"]
    assert load(path, "pairs") == [Ranking("rows-1", Q, ("a", "b"), (0, 1), (True, True))]


@pytest.mark.parametrize("name", ["hh", "ultrafeedback"])
def test_a_prompt_beside_whole_talks_makes_them_no_pairs(tmp_path, name):
    assert [g.format_name for g in guess(file_of(tmp_path, {**ROWS[name], "prompt": "q"}))] == [name]


def test_sharegpt_with_two_answers_is_a_ranking(tmp_path):
    row = {
        "conversations": [{"from": "human", "value": "q"}],
        "chosen": {"from": "gpt", "value": "a"},
        "rejected": {"from": "gpt", "value": "b"},
    }
    (record,) = load(file_of(tmp_path, row), "sharegpt")
    assert record == Ranking("rows-1", Q, ("a", "b"), (0, 1), (True, True))


def test_of_a_conversation_the_last_answer_is_learnt_and_the_rest_is_its_prompt(tmp_path):
    turns = [{"role": "system", "content": "s"}, U("q"), A("a"), U("r"), A("b"), U("unanswered")]
    (record,) = load(file_of(tmp_path, {"messages": turns}), "messages")
    assert [m.content for m in record.prompt] == ["s", "q", "a", "r"] and record.response == "b"


def test_a_transcript_is_cut_at_its_speakers(tmp_path):
    start = "\n\nHuman: p\nHuman: not a turn\n\nAssistant: x\n\nHuman: q\n\nAssistant:"
    (record,) = load(file_of(tmp_path, {"chosen": f"{start} a", "rejected": f"{start} b"}), "hh")
    assert [m.content for m in record.prompt] == ["p\nHuman: not a turn", "x", "q"] and record.responses == ("a", "b")


def test_broken_lines_say_where(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"prompt": "caf\xe9"}\n{"prompt": "a" "b"}\n')
    said = [row for _, row in read_rows(path)]
    assert "not UTF-8 at byte 16 of the line" in said[0] and "column 16" in said[1]


def test_only_newlines_end_a_row_and_bom_and_crlf_do_no_harm(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes('\ufeff{"prompt": "a\u2028b"}\r\n\r\n{"prompt": "c"}\r\n'.encode())
    records = load(path, "prompts")
    assert [r.messages[0].content for r in records] == ["a\u2028b", "c"] and records[1].id == "x-3"


def test_empty_missing_and_foreign_files_are_one_line(tmp_path):
    with pytest.raises(UserError, match="has no rows"):
        load(file_of(tmp_path), "prompts")
    with pytest.raises(UserError, match="no such file"):
        load(tmp_path / "absent.jsonl", "prompts")
    with pytest.raises(UserError, match=r"cannot read '\.txt' files"):
        load(file_of(tmp_path, "x", name="a.txt"), "prompts")
    with pytest.raises(UserError, match="unknown format 'rankd'.*did you mean 'ranked'"):
        load(file_of(tmp_path, "x"), "rankd")


def test_csv_json_and_parquet_hold_the_same_rows(tmp_path):
    import pyarrow
    import pyarrow.parquet

    rows = [{"prompt": "a, b", "completion": "c"}, {"prompt": "d", "completion": "e\nf"}]
    (tmp_path / "r.json").write_text(json.dumps(rows), encoding="utf-8")
    (tmp_path / "r.csv").write_text('prompt,completion\n"a, b",c\nd,"e\nf"\n', encoding="utf-8")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "r.parquet")
    found = [load(tmp_path / f"r.{kind}", "prompt_completion") for kind in ("json", "csv", "parquet")]
    assert found[0] == found[1] == found[2] and found[0][1].response == "e\nf"


def test_each_format_is_guessed_from_a_row_of_its_own(tmp_path):
    twin = {"oasst_demonstrations": "oasst_rankings", "thumbs_ranked": "thumbs"}
    for name in FORMATS:
        best = guess(file_of(tmp_path, ROWS[name]))[0].format_name
        assert best in (name, twin.get(name)), (name, best)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def bent(value):
    """A row's value with one part of it replaced by anything."""
    if isinstance(value, dict):
        return st.sampled_from(sorted(value)).flatmap(
            lambda key: (json_values | bent(value[key])).map(lambda new: {**value, key: new})
        )
    if isinstance(value, list) and value:
        return st.integers(0, len(value) - 1).flatmap(
            lambda at: (json_values | bent(value[at])).map(lambda new: [*value[:at], new, *value[at + 1 :]])
        )
    return st.just(value)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(FORMATS)), st.data())
def test_any_row_gives_a_record_or_a_reason(name, data):
    """The right fields with anything in them, or anything put somewhere inside, which reaches further than random objects do."""
    row = {key: data.draw(json_values | st.just(value) | bent(value)) for key, value in ROWS[name].items()}
    row |= data.draw(
        st.dictionaries(st.sampled_from(["id", "topic", "finished", "input", "chosen", "label"]), json_values)
    )
    try:
        assert isinstance(FORMATS[name](row, "x"), Prompt | Demonstration | Ranking | Thumb | Several | ScoredAnswer)
    except ValueError as error:
        # What the door prints must be printable and one line.
        assert "\n" not in str(error) and str(error).encode("utf-8")


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(FORMATS)), st.dictionaries(st.text(max_size=8), json_values, max_size=3), st.data())
def test_any_object_on_a_line_gives_a_record_or_one_line(tmp_path_factory, name, extra, data):
    path = tmp_path_factory.getbasetemp() / "object.jsonl"
    kept = data.draw(st.sets(st.sampled_from(sorted(ROWS[name]))))
    path.write_text(json.dumps({**{key: ROWS[name][key] for key in kept}, **extra}), encoding="utf-8")
    try:
        load(path, name)
    except UserError as error:
        (problem,) = error.problems
        assert len(problem.splitlines()) == 1 and len(problem) < 1000


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300), st.sampled_from([".jsonl", ".json", ".csv", ".parquet"]))
def test_any_bytes_give_rows_or_our_error(tmp_path_factory, content, suffix):
    path = tmp_path_factory.getbasetemp() / f"any{suffix}"
    path.write_bytes(content)
    for name in FORMATS:
        try:
            load(path, name)
        except UserError as error:
            # The door prints them: one line each, and nothing that an encoder refuses.
            assert all(len(p.splitlines()) == 1 and p.encode("utf-8") for p in error.problems)


REAL = Path(__file__).resolve().parents[3] / "shared" / "data"
# Rows of the files, and how many cannot be used: an empty turn, or one speaker twice in a row.
COUNTED = [
    ("hh_pairs", "hh", 1170, 10),
    ("ultrafeedback_pairs", "ultrafeedback", 741, 2),
    ("oasst_sft_messages", "messages", 252, 1),
    ("sharegpt_pairs", "sharegpt", 195, 0),
    ("self_instruct_seed_alpaca", "alpaca", 120, 0),
    ("gpteacher_alpaca", "alpaca", 934, 0),
    ("kto_thumbs", "thumbs", 180, 0),
    ("xstest_thumbs", "thumbs", 831, 0),
    ("oasst_thumbs", "thumbs", 284, 0),
]


@pytest.mark.parametrize(("file", "name", "rows", "odd"), COUNTED)
def test_real_rows_load_or_are_named(file, name, rows, odd):
    path = REAL / f"{file}.jsonl"
    if not path.is_file():
        warnings.warn(
            f"the real rows of {file} do not lie beside the checkout: {name} was not tried on them", stacklevel=1
        )
        pytest.skip(f"no {file}.jsonl beside the checkout")
    try:
        records, problems = load(path, name), ()
    except UserError as error:
        records, problems = [], error.problems
    assert len(problems) == odd, problems
    assert len(list(read_rows(path))) == rows and len(records) in (0, rows)
    if not odd:
        assert len(records) == rows


def test_every_format_stands_in_the_documentation():
    text = (Path(__file__).resolve().parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    assert [name for name in FORMATS if f"\n| `{name}` | " not in text] == []
