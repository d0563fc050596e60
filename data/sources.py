"""Rows of a file, with the number of each, so that every later complaint can name it."""

from __future__ import annotations

import json
from codecs import BOM_UTF8
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data.errors import UserError

Row = tuple[int, dict[str, Any]]


def read_rows(path: Path) -> Iterator[Row | tuple[int, str]]:
    """(row number from 1, row) for every row; (row number, problem) where a row cannot be read.

    Reads .jsonl (one object a line, lines end with "\\n" alone, since texts may hold other line separators), .json (a list),
    .csv and .parquet.

    Raises:
        UserError: the file does not exist, may not be read, is empty, or is of another kind.
    """
    readers = {".jsonl": _jsonl, ".json": _json, ".csv": _csv, ".parquet": _parquet}
    if not path.exists():
        raise UserError(f"{path}: no such file. Check the path; it is taken from where the command runs.")
    if path.is_dir():
        raise UserError(f"{path}: is a directory. Name the file in it.")
    kind = path.suffix.lower()
    if kind not in readers:
        raise UserError(f"{path}: cannot read '{path.suffix}' files. Use one of {', '.join(readers)}.")
    seen = False
    try:
        for row in readers[kind](path):
            seen = True
            yield row
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}. Check its permissions.") from None
    if not seen:
        raise UserError(f"{path}: the file has no rows. Give at least one.")


def _jsonl(path: Path) -> Iterator[Row | tuple[int, str]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            line = line.rstrip(b"\r\n")
            mark = len(BOM_UTF8) if number == 1 and line.startswith(BOM_UTF8) else 0
            if line[mark:].strip():
                yield number, _object(line[mark:], skipped=mark)


def _object(line: bytes, *, skipped: int) -> dict[str, Any] | str:
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return f"not UTF-8 at byte {skipped + error.start + 1} of the line. Save the file as UTF-8."
    except json.JSONDecodeError as error:
        return f"not JSON: {error.msg} at column {error.colno}. Each line must be one whole object."
    except (RecursionError, ValueError) as error:
        return f"not usable JSON: {error}."
    return row if isinstance(row, dict) else f"is {_kind(row)}, expected an object with named fields."


def _json(path: Path) -> Iterator[Row | tuple[int, str]]:
    try:
        rows = json.loads(path.read_bytes().decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 at byte {error.start + 1}. Save the file as UTF-8.") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: not JSON: {error.msg} at line {error.lineno} column {error.colno}.") from None
    except (RecursionError, ValueError) as error:
        raise UserError(f"{path}: not usable JSON: {error}.") from None
    if not isinstance(rows, list):
        raise UserError(
            f"{path}: holds {_kind(rows)}, expected a list of objects. For one object a line, name it .jsonl."
        )
    for number, row in enumerate(rows, start=1):
        yield number, row if isinstance(row, dict) else f"is {_kind(row)}, expected an object with named fields."


def _csv(path: Path) -> Iterator[Row | tuple[int, str]]:
    import csv

    # The library's own limit of 128 KiB a field would refuse long answers.
    csv.field_size_limit(2**31 - 1)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for number, row in enumerate(csv.DictReader(file, strict=True), start=1):
                if None in row or None in row.values():
                    yield number, "has another number of fields than the header. Quote texts that hold commas."
                else:
                    yield number, row
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8 at byte {_first_bad_byte(path)}. Save the file as UTF-8.") from None
    except csv.Error as error:
        raise UserError(f"{path}: not CSV: {error}.") from None


def _parquet(path: Path) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        for batch in pyarrow.parquet.ParquetFile(path).iter_batches():
            for row in batch.to_pylist():
                number += 1
                yield number, row
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        # Arrow explains itself over several lines.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path}: not a readable Parquet file: {reason:.200}.") from None


def _first_bad_byte(path: Path) -> int:
    """Its place in the file from 1: a decoder that reads in blocks knows it only within its block."""
    try:
        path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start + 1
    return 1


def _kind(value: object) -> str:
    names = {
        dict: "an object",
        list: "a list",
        str: "text",
        bool: "true or false",
        int: "a number",
        float: "a number",
        type(None): "null",
    }
    return names.get(type(value), type(value).__name__)
