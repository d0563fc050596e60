"""Every format reads its own rows, and says what is wrong with any other."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.errors import UserError
from data.formats import FORMATS, load
from data.records import Demonstration, Message, Prompt, Ranking
from data.sources import read_rows

U, A = (lambda text: {"role": "user", "content": text}), (lambda text: {"role": "assistant", "content": text})
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
    "ranked": {"prompt": "q", "responses": ["a", "b"], "ranks": [0, 1]},
    "prompts": {"prompt": [U("q")]},
}
Q = (Message("user", "q"),)


def file_of(tmp_path: Path, *rows, name="rows.jsonl") -> Path:
    path = tmp_path / name
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", FORMATS)
def test_each_format_reads_its_row(tmp_path, name):
    (record,) = load(file_of(tmp_path, ROWS[name]), name)
    expected = {
        "prompts": Prompt("rows-1", Q),
        "hh": Ranking("rows-1", Q, ("a", "b"), (0, 1), (True, True)),
        "ultrafeedback": Ranking("rows-1", Q, ("a", "b"), (0, 1), (True, True)),
        "ranked": Ranking("rows-1", Q, ("a", "b"), (0, 1), (True, True)),
    }.get(name, Demonstration("rows-1", Q, "a"))
    assert record == expected


BAD = [
    ("messages", {"messages": [A("a"), U("q")]}, "no assistant turn|expected 'user'|no user turn"),
    ("messages", {"messages": [U("q"), U("q2"), A("a")]}, "turn 2 is 'user', expected 'assistant'"),
    ("messages", {"messages": [{"role": "bot", "content": "q"}, A("a")]}, "turn 1: role 'bot' is not one of"),
    ("messages", {"messages": [U(5), A("a")]}, "content is int, expected text"),
    ("messages", {"messages": [U(None), A("a")]}, "content is NoneType"),
    ("messages", {"messages": [U("q")]}, "nothing to learn from"),
    ("messages", {"mesages": []}, "no field 'messages'; found 'mesages'; did you mean 'mesages'"),
    ("messages", {"messages": [U("q"), A("a")], "topik": "x"}, "unknown field 'topik'; did you mean 'topic'"),
    ("messages", {"messages": [U("a\x00b"), A("a")]}, "NUL character at offset 1"),
    ("messages", {"messages": [U("ab\ud800"), A("a")]}, "lone surrogate at offset 2"),
    ("hh", {"chosen": ROWS["hh"]["chosen"], "rejected": ROWS["hh"]["chosen"]}, "the same text"),
    ("hh", {"chosen": "hello", "rejected": "x"}, "does not start with"),
    ("hh", {"chosen": "\n\nHuman: p\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant: a"}, "differ at turn 1"),
    ("ultrafeedback", {"chosen": [U("q"), A("a")], "rejected": None}, "rejected is NoneType"),
    (
        "ultrafeedback",
        {"prompt": "q", "completion": "a", "label": True},
        "no field 'chosen'; found 'prompt', 'completion', 'label'",
    ),
    ("ranked", {"prompt": "q", "responses": ["a"], "ranks": [0]}, "at least 2"),
    ("ranked", {"prompt": "q", "responses": ["a", "b"], "ranks": [0]}, "2 responses but 1 ranks"),
    ("ranked", {"prompt": "q", "responses": ["a", "b"], "ranks": [0, 0.5]}, "whole numbers"),
    ("ranked", {"prompt": "q", "responses": ["a", "a"], "ranks": [0, 1]}, "same text but ranked apart"),
    ("ranked", {"prompt": "q", "responses": ["a", " "], "ranks": [0, 1]}, "response 2 is empty"),
    ("sharegpt", {"conversations": [{"from": "alien", "value": "q"}]}, "unknown speaker 'alien'"),
    ("alpaca", {"instruction": "q", "output": ""}, "output is empty"),
]


@pytest.mark.parametrize(("name", "row", "said"), BAD)
def test_a_row_that_cannot_be_used_is_named_with_the_reason(tmp_path, name, row, said):
    with pytest.raises(UserError, match=said) as caught:
        load(file_of(tmp_path, ROWS[name], row), name)
    (problem,) = caught.value.problems
    assert problem.startswith(f"{tmp_path}/rows.jsonl row 2: ")


def test_all_mistakes_of_a_file_come_at_once(tmp_path):
    with pytest.raises(UserError) as caught:
        load(file_of(tmp_path, '{"prompt": ', {"prompt": ""}, {"prompt": "fine"}, "[1]"), "prompts")
    assert [p.split(": ")[0].split("row ")[1] for p in caught.value.problems] == ["1", "2", "4"]


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


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(FORMATS)), st.data())
def test_any_row_gives_a_record_or_a_reason(name, data):
    """The right fields with anything in them, which reaches further than random objects do."""
    row = {key: data.draw(json_values | st.just(value)) for key, value in ROWS[name].items()}
    try:
        assert isinstance(FORMATS[name](row, "x"), Prompt | Demonstration | Ranking)
    except ValueError:
        pass


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300), st.sampled_from([".jsonl", ".json", ".csv", ".parquet"]))
def test_any_bytes_give_rows_or_our_error(tmp_path_factory, content, suffix):
    path = tmp_path_factory.getbasetemp() / f"any{suffix}"
    path.write_bytes(content)
    try:
        load(path, "prompts")
    except UserError as error:
        assert all("\n" not in p for p in error.problems)


REAL = Path(__file__).resolve().parents[3] / "shared" / "data"


@pytest.mark.skipif(not REAL.is_dir(), reason="the real rows do not lie beside the checkout")
@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("hh_pairs", "hh"),
        ("ultrafeedback_pairs", "ultrafeedback"),
        ("oasst_sft_messages", "messages"),
        ("sharegpt_pairs", "sharegpt"),
        ("self_instruct_seed_alpaca", "alpaca"),
    ],
)
def test_real_rows_load_or_are_named(file, name):
    usable, reasons = 0, []
    for number, row in read_rows(REAL / f"{file}.jsonl"):
        try:
            FORMATS[name]({k: v for k, v in row.items() if name != "messages" or k in ("messages", "id")}, str(number))
            usable += 1
        except ValueError as error:
            reasons.append(str(error))
    assert usable >= 0.97 * (usable + len(reasons)), reasons[:5]
