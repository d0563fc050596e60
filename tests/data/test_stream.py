"""A stream gives what loading gives, a row at a time, and tells of its faults when it ends."""

import csv
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.errors import UserError
from data.formats import FORMATS
from data.loading import attempt, load, stream


def write(path, rows):
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows))
    return path


def faults(path, name="prompts"):
    found = []
    with pytest.raises(UserError) as caught:
        for record in stream(path, name):
            found.append(record)
    return found, caught.value.problems


def test_a_stream_gives_what_loading_gives(tmp_path):
    import pyarrow
    import pyarrow.parquet

    rows = [{"prompt": f"q {i}", "completion": "a"} for i in range(50)]
    write(tmp_path / "r.jsonl", rows)
    (tmp_path / "r.csv").write_text("prompt,completion\n" + "".join(f"q {i},a\n" for i in range(50)))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "r.parquet")
    for kind in ("jsonl", "csv", "parquet"):
        path = tmp_path / f"r.{kind}"
        assert list(stream(path, "prompt_completion")) == load(path, "prompt_completion")


def test_a_record_comes_before_the_next_row_is_read(tmp_path):
    records = stream(write(tmp_path / "r.jsonl", [{"prompt": "q"}, "broken"]), "prompts")
    assert next(records).messages[0].content == "q"


def test_faults_come_at_the_end_and_beyond_a_thousand_as_a_number(tmp_path):
    path = write(tmp_path / "r.jsonl", [{"prompt": "q"}, {"prompt": ""}, {"prompt": "r"}])
    found, problems = faults(path)
    assert [r.messages[0].content for r in found] == ["q", "r"]
    assert problems == (f"{path} row 2: prompt: content is empty. Mend or drop the row.",)
    _, problems = faults(write(tmp_path / "s.jsonl", [{"prompt": ""}] * 1005))
    assert len(problems) == 1001 and problems[-1].endswith(": 5 more rows cannot be used.")


def test_too_many_equal_answers_are_refused_in_a_stream_too(tmp_path):
    said = "\n\nHuman: q\n\nAssistant: "
    pairs = [{"chosen": said + "a", "rejected": said + "b"}] * 19
    same = {"chosen": said + "a", "rejected": said + "a"}
    assert len(list(stream(write(tmp_path / "r.jsonl", [*pairs, same]), "hh"))) == 20
    _, (problem,) = faults(write(tmp_path / "s.jsonl", [*pairs, same, same]), "hh")
    assert "so it is in 2 of 21 rows" in problem


@pytest.mark.parametrize(
    ("name", "format_name", "said"),
    [("r.json", "prompts", "cannot be streamed"), ("r.jsonl", "scored_rows", "cannot be streamed. Join")],
)
def test_what_needs_the_whole_file_is_not_streamed_in_silence(tmp_path, name, format_name, said):
    path = tmp_path / name
    path.write_text('[{"prompt": "q"}]')
    with pytest.raises(UserError, match=said):
        next(stream(path, format_name))


cells = st.text(max_size=6) | st.sampled_from(["true", "False", "1", "-2.5", "nan", "inf", "1e999", ""])


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(FORMATS)), st.lists(st.tuples(cells, cells, cells), max_size=4), st.binary(max_size=20))
def test_any_csv_file_streams_and_loads_to_records_or_our_error(tmp_path_factory, name, rows, tail):
    """The columns of the formats that CSV can hold, with anything in them, and a file that may break off anywhere."""
    path = tmp_path_factory.getbasetemp() / "any.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("prompt", "response", "score") if name == "scored_rows" else ("prompt", "completion", "label"))
        writer.writerows(rows)
    path.write_bytes(path.read_bytes() + tail)
    for read in (load, lambda p, n: list(stream(p, n))):
        try:
            read(path, name)
        except UserError as error:
            assert all(len(p.splitlines()) == 1 and p.encode("utf-8") for p in error.problems)


@pytest.mark.parametrize("most", range(8))
def test_the_first_rows_are_counted_over_all_files_of_a_directory(tmp_path, most):
    for name, numbers in (("a", (0, 1)), ("b", (2, 3, 4)), ("c", (5,))):
        write(tmp_path / f"{name}.jsonl", [{"prompt": f"q {i}", "completion": "a"} for i in numbers])
    found, problems = attempt(tmp_path, "prompt_completion", most=most)
    assert [r.prompt[0].content for r in found.records] == [f"q {i}" for i in range(min(most, 6))]
    assert bool(problems) == (most == 0), "nothing read is a problem"
