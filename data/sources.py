"""Rows of a file, with the number of each, so that every later complaint can name it."""

from __future__ import annotations

import json
import sys
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from data.errors import UserError
from data.hub import is_hub, read_hub
from data.records import kind_of

Row = tuple[int, dict[str, Any]]
Unreadable = tuple[int, str]
# Rows of a Parquet file that are Python objects at one time.
PARQUET_ROWS = 4096


def files_of(path: Path | str) -> list[Path]:
    """The files of a source in the order of reading: itself, or those of a directory by name.

    A directory holds data files of one kind; README, LICENSE and names that start with . or _ may lie beside them.

    Raises:
        UserError: the directory holds no data file, files of two kinds, or something else.
    """
    path = Path(path)
    with _told(path):
        if not path.is_dir():
            return [path]
        found = sorted(f for f in path.iterdir() if not f.name.startswith((".", "_")) and not _is_paper(f))
    if strange := next((f for f in found if f.is_dir() or f.suffix.lower() not in READERS), None):
        what = "a directory" if strange.is_dir() else "no data file"
        raise UserError(
            f"{path}: a directory with {strange.name} in it, which is {what}. Name a file, or a directory with only "
            f"{', '.join(READERS)} files of one kind."
        )
    if not found:
        raise UserError(f"{path}: the directory holds no data file. Use one of {', '.join(READERS)}.")
    kinds = sorted({f.suffix.lower() for f in found})
    if len(kinds) > 1:
        raise UserError(f"{path}: holds files of more than one kind, {' and '.join(kinds)}. Keep one kind.")
    return found


def _is_paper(file: Path) -> bool:
    return file.is_file() and file.name.upper().startswith(("README", "LICENSE"))


def read_rows(path: Path) -> Iterator[Row | Unreadable]:
    """(row number from 1, row) for every row; (row number, problem) where a row cannot be read.

    Reads .jsonl (one object a line, lines end with "\n" alone, since texts may hold other line separators), .json (a list),
    .csv, .parquet and `hub:` names. All but .json hold a bounded part of the rows at a time.

    Raises:
        UserError: the file does not exist, may not be read, is empty, or is of another kind.
    """
    if is_hub(path):
        yield from _some(read_hub(path), path)
        return
    with _told(path):
        there, folder = path.exists(), path.is_dir()
    if not there:
        raise UserError(f"{path}: no such file. Check the path; it is taken from where the command runs.")
    if folder:
        raise UserError(f"{path}: is a directory. Name the file in it.")
    kind = path.suffix.lower()
    if kind not in READERS:
        what = f"'{path.suffix}' files" if kind else "a file whose name has no ending"
        raise UserError(f"{path}: cannot read {what}. Use one of {', '.join(READERS)}.")
    with _told(path):
        yield from _some(READERS[kind](path), path)


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """What the system refuses about a file, in one line."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path!s:.200}: cannot be read: {error.strerror or error}. Check its permissions.") from None


def _some(rows: Iterator[Row | Unreadable], path: Path) -> Iterator[Row | Unreadable]:
    seen = False
    for row in rows:
        seen = True
        yield row
    if not seen:
        raise UserError(f"{path}: the file has no rows. Give at least one.")


def _jsonl(path: Path) -> Iterator[Row | Unreadable]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            line = line.rstrip(b"\r\n")
            mark = len(BOM_UTF8) if number == 1 and line.startswith(BOM_UTF8) else 0
            if line[mark:].strip():
                yield number, _object(line[mark:], number, skipped=mark)


def _object(line: bytes, number: int, *, skipped: int) -> dict[str, Any] | str:
    try:
        row = _parse(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return f"not UTF-8 at byte {skipped + error.start + 1} of the line. Save the file as UTF-8."
    except json.JSONDecodeError as error:
        return f"not JSON: {_break(error, number)}. Each line must be one whole object."
    except (RecursionError, ValueError) as error:
        return f"not usable JSON: {_unusable(error)}."
    return row if isinstance(row, dict) else f"is {kind_of(row)}, expected an object with named fields."


def _json(path: Path) -> Iterator[Row | Unreadable]:
    try:
        text = path.read_bytes().decode("utf-8").removeprefix("\ufeff")
        rows = _parse(text) if text.strip() else []
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 at byte {error.start + 1}. Save the file as UTF-8.") from None
    except json.JSONDecodeError as error:
        hint = " For one object a line, name the file .jsonl." if error.msg == "Extra data" else ""
        raise UserError(f"{path}: not JSON: {_break(error, error.lineno)}.{hint}") from None
    except (RecursionError, ValueError) as error:
        raise UserError(f"{path}: not usable JSON: {_unusable(error)}.") from None
    if not isinstance(rows, list):
        raise UserError(
            f"{path}: holds {kind_of(rows)}, expected a list of objects. For one object a line, name it .jsonl."
        )
    for number, row in enumerate(rows, start=1):
        yield number, row if isinstance(row, dict) else f"is {kind_of(row)}, expected an object with named fields."


def _parse(text: str) -> Any:
    return json.loads(text, object_pairs_hook=_once)


def _unusable(error: RecursionError | ValueError) -> str:
    """Python's words are about Python's settings."""
    if isinstance(error, RecursionError):
        return "lists or objects stand one in another too deeply to be read"
    if "integer string conversion" in str(error):
        return f"a number has more than {sys.get_int_max_str_digits():,} digits"
    return str(error)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Python keeps the last of two fields of one name; which was meant is the user's to say."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"field {next(n for n in names if names.count(n) > 1)!r:.60} stands twice in one object")
    return fields


def _break(error: json.JSONDecodeError, line: int) -> str:
    return f"{error.msg.removesuffix(' at')} at line {line} column {error.colno}"


def _csv(path: Path) -> Iterator[Row | Unreadable]:
    import csv

    # The library's own limit of 128 KiB a field would refuse long answers.
    csv.field_size_limit(2**31 - 1)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            header = list(reader.fieldnames or [])
            if len(header) == 1 and (mark := next((m for m in ";\t|" if m in header[0]), None)):
                raise UserError(f"{path}: its columns are separated by {mark!r}. Save it with commas between them.")
            if twice := next((name for name in header if header.count(name) > 1), None):
                raise UserError(f"{path}: two columns are named {twice!r:.60}. Rename one.")
            for number, row in enumerate(reader, start=1):
                if None in row or None in row.values():
                    yield number, "has another number of fields than the header. Quote texts that hold commas."
                else:
                    yield number, row
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8 at byte {_first_bad_byte(path)}. Save the file as UTF-8.") from None
    except csv.Error as error:
        raise UserError(f"{path}: not CSV: {error}.") from None


def _parquet(path: Path) -> Iterator[Row | Unreadable]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        # Buffered or threaded, the library reads row groups ahead, and memory grows with the file.
        file = pyarrow.parquet.ParquetFile(path, pre_buffer=False)
        for batch in file.iter_batches(PARQUET_ROWS, use_threads=False):
            for row in _rows_of(batch):
                number += 1
                yield number, row
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        # Arrow explains itself over several lines.
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise UserError(f"{path}: not a readable Parquet file: {reason:.200}.") from None


def _rows_of(batch) -> list[dict[str, Any] | str]:
    try:
        return batch.to_pylist()
    except UnicodeDecodeError as error:
        if batch.num_rows == 1:
            return [f"a text is not UTF-8 at its byte {error.start + 1}. Write the file from decoded text."]
        return [row for index in range(batch.num_rows) for row in _rows_of(batch.slice(index, 1))]
    except (OverflowError, ValueError) as error:
        # A date beyond what Python counts, for one.
        if batch.num_rows == 1:
            return [f"holds a value that cannot be read ({error}). Leave its column out."]
        return [row for index in range(batch.num_rows) for row in _rows_of(batch.slice(index, 1))]


def _first_bad_byte(path: Path) -> int:
    """Its place in the file from 1: a decoder that reads in blocks knows it only within its block."""
    try:
        path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start + 1
    return 1


READERS: dict[str, Callable[[Path], Iterator[Row | Unreadable]]] = {
    ".jsonl": _jsonl,
    ".json": _json,
    ".csv": _csv,
    ".parquet": _parquet,
}
