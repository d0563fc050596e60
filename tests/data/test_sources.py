"""Files of every kind give the same rows, and say where they break."""

import json
import os

import pytest

from data.errors import UserError
from data.inspect import guess
from data.loading import load
from data.sources import read_rows


def written(tmp_path, name: str, content: bytes):
    path = tmp_path / name
    path.write_bytes(content)
    return path


def refusal(path) -> str:
    with pytest.raises(UserError) as caught:
        list(read_rows(path))
    (problem,) = caught.value.problems
    assert problem.startswith(f"{path}: ")
    return problem


def test_a_mark_at_the_start_is_no_text_but_counts_as_bytes(tmp_path):
    mark = b"\xef\xbb\xbf"
    path = written(tmp_path, "x.jsonl", mark + b'{"a": 1}\n')
    assert list(read_rows(path)) == [(1, {"a": 1})]
    # Hand count: 3 bytes of mark, then {"a": " is 7, so the bad byte is the 11th.
    ((_, problem),) = read_rows(written(tmp_path, "y.jsonl", mark + b'{"a": "\xff"}\n'))
    assert "byte 11 of the line" in problem


def test_rows_are_numbered_as_an_editor_numbers_lines(tmp_path):
    path = written(tmp_path, "x.jsonl", b'\n{"a": 1}\n\n \r\n{"a": "\xe2\x80\xa8 \xc2\x85"}')
    assert list(read_rows(path)) == [(2, {"a": 1}), (5, {"a": "\u2028 \x85"})]


def test_a_truncated_last_line_is_told_with_its_column(tmp_path):
    ((_, first), (number, problem)) = read_rows(written(tmp_path, "x.jsonl", b'{"a": 1}\n{"a": 1, "b": "cu'))
    assert first == {"a": 1} and number == 2 and "column 15" in problem


def test_jsonl_and_parquet_are_read_as_they_are_asked_for(tmp_path):
    import pyarrow
    import pyarrow.parquet

    rows = [{"a": i} for i in range(200_000)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "x.parquet")
    assert next(iter(read_rows(tmp_path / "x.parquet"))) == (1, {"a": 0})
    # Were the whole file read first, the broken second line would be decoded before the first is given.
    lazy = read_rows(written(tmp_path, "x.jsonl", b'{"a": 1}\n' + b"\xff" * 100))
    assert next(lazy) == (1, {"a": 1})


def test_a_csv_byte_is_counted_from_the_start_of_the_file(tmp_path):
    # Past the first block that a text file decodes at once (8 KiB).
    head = b"prompt\n" + b"a" * 20_000 + b"\n"
    assert f"byte {len(head) + 1}." in refusal(written(tmp_path, "x.csv", head + b"\xff\n"))


def test_a_csv_field_may_be_longer_than_the_library_allows_by_itself(tmp_path):
    ((_, row),) = read_rows(written(tmp_path, "x.csv", b"prompt\n" + b"a" * 200_000 + b"\n"))
    assert len(row["prompt"]) == 200_000


def test_a_csv_row_with_a_field_too_many_or_too_few_is_named(tmp_path):
    found = dict(read_rows(written(tmp_path, "x.csv", b"a,b\n1,2\n1,2,3\n1\n")))
    assert found[1] == {"a": "1", "b": "2"}
    assert "number of fields" in found[2] and "number of fields" in found[3]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("x.json", b'{"a": 1}', "holds an object, expected a list"),
        ("x.json", b'[{"a": 1},\n {"a" 1}]', "line 2 column 7"),
        ("x.json", b'["\xff"]', "byte 3"),
        ("x.json", b"[]", "no rows"),
        ("x.csv", b"a,b\n", "no rows"),
        ("x.jsonl", b"\n\n", "no rows"),
        ("x.parquet", b"PAR1 but no more", "not a readable Parquet file"),
        ("x.txt", b"a", "Use one of .jsonl, .json, .csv, .parquet"),
    ],
)
def test_a_file_that_gives_nothing_says_why(tmp_path, name, content, said):
    assert said in refusal(written(tmp_path, name, content))


def test_an_upper_case_ending_is_the_same_kind(tmp_path):
    assert list(read_rows(written(tmp_path, "X.JSON", json.dumps([{"a": 1}]).encode()))) == [(1, {"a": 1})]


def test_a_directory_and_a_file_without_permission_are_told_apart(tmp_path, monkeypatch):
    (tmp_path / "x.jsonl").mkdir()
    assert "is a directory" in refusal(tmp_path / "x.jsonl")
    path = written(tmp_path, "y.jsonl", b'{"a": 1}\n')
    os.chmod(path, 0)
    if os.access(path, os.R_OK):  # root reads everything: say no in its stead

        def refuse(*args, **kwargs):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(type(path), "open", refuse)
    assert "cannot be read: Permission denied" in refusal(path)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("x.json", b"", "the file has no rows"),
        (
            "x.json",
            b'{"a": 1}\n{"a": 2}',
            "not JSON: Extra data at line 2 column 1. For one object a line, name the file .jsonl",
        ),
        ("x.csv", b"a,b,a\n1,2,3\n", "two columns are named 'a'"),
        ("x.csv", b"prompt;completion\nq;a\n", "its columns are separated by ';'. Save it with commas between them."),
        ("x.csv", b"prompt\tcompletion\nq\ta\n", "its columns are separated by '\\t'. Save it with commas"),
        ("noending", b'{"a": 1}\n', "cannot read a file whose name has no ending. Use one of .jsonl"),
        ("x.parquet", b"none of it", "parquet file."),
    ],
)
def test_a_file_of_the_wrong_shape_says_which(tmp_path, name, content, said):
    assert said in refusal(written(tmp_path, name, content))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b'{"a": 1, "a": 2}', "field 'a' stands twice in one object"),
        (b'{"a": "cut', "Unterminated string starting at line 2 column 7"),
        (b"[1]", "is a list, expected an object"),
        (b"[" * 100_000, "not usable JSON: lists or objects stand one in another too deeply to be read."),
        (b'{"a": ' + b"9" * 5000 + b"}", "not usable JSON: a number has more than 4,300 digits."),
    ],
)
def test_a_line_that_is_no_object_says_why_and_the_next_is_read(tmp_path, line, said):
    found = list(read_rows(written(tmp_path, "x.jsonl", b'{"a": 0}\n' + line + b'\n{"a": 3}\n')))
    assert [number for number, _ in found] == [1, 2, 3] and found[2][1] == {"a": 3} and said in found[1][1]


def test_a_file_that_breaks_off_also_tells_of_the_rows_before(tmp_path):
    path = written(tmp_path, "x.csv", b'prompt\n" "\nfine\n"never closed\n')
    with pytest.raises(UserError) as caught:
        load(path, "prompts")
    row, end = caught.value.problems
    assert row == f"{path} row 1: prompt: content is empty. Mend or drop the row."
    assert end.startswith(f"{path}: not CSV")


def test_a_parquet_text_that_is_not_utf8_names_its_row(tmp_path):
    import pyarrow
    import pyarrow.parquet

    offsets = b"".join(n.to_bytes(4, "little") for n in (0, 2, 5))
    column = pyarrow.Array.from_buffers(
        pyarrow.utf8(), 2, [None, pyarrow.py_buffer(offsets), pyarrow.py_buffer(b"okab\xe9")]
    )
    pyarrow.parquet.write_table(pyarrow.table({"a": column}), tmp_path / "x.parquet")
    (first, (number, problem)) = read_rows(tmp_path / "x.parquet")
    assert first == (1, {"a": "ok"}) and number == 2 and "not UTF-8 at its byte 3" in problem


def test_a_guess_at_a_file_of_which_no_row_can_be_read_gives_no_advice_on_fields(tmp_path):
    with pytest.raises(UserError) as caught:
        guess(written(tmp_path, "x.jsonl", '{"prompt": "a"}\n'.encode("utf-16")))
    first, *rows = caught.value.problems
    assert first == f"{tmp_path}/x.jsonl: nothing in it can be read (2 rows looked at)." and "row 1: not UTF-8 at byte 1" in rows[0]


def test_what_a_prompt_may_be_is_told_in_full(tmp_path):
    path = written(tmp_path, "x.jsonl", b'{"prompt": null}\n')
    with pytest.raises(UserError, match="row 1: prompt is null, expected text or a list of turns. Mend or drop the row."):
        load(path, "prompts")
