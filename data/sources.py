"""Rows of a file, with the number of each, so that every later complaint can name it."""

from __future__ import annotations

import json
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
        UserError: the file does not exist, is empty, or is of another kind.
    """
    readers = {".jsonl": _jsonl, ".json": _json, ".csv": _csv, ".parquet": _parquet}
    if not path.is_file():
        raise UserError(f"{path}: no such file. Check the path; it is taken from where the command runs.")
    if path.suffix not in readers:
        raise UserError(f"{path}: cannot read '{path.suffix}' files. Use one of {', '.join(readers)}.")
    seen = False
    for row in readers[path.suffix](path):
        seen = True
        yield row
    if not seen:
        raise UserError(f"{path}: the file has no rows. Give at least one.")


def _jsonl(path: Path) -> Iterator[Row | tuple[int, str]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            line = line.rstrip(b"\r\n")
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            if line.strip():
                yield number, _object(line)


def _object(line: bytes) -> dict[str, Any] | str:
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return f"not UTF-8 at byte {error.start}. Save the file as UTF-8."
    except json.JSONDecodeError as error:
        return f"not JSON: {error.msg} at column {error.colno}. Each line must be one whole object."
    except (RecursionError, ValueError) as error:
        return f"not usable JSON: {error}."
    return row if isinstance(row, dict) else f"is {_kind(row)}, expected an object with named fields."


def _json(path: Path) -> Iterator[Row | tuple[int, str]]:
    try:
        rows = json.loads(path.read_bytes().decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 at byte {error.start}. Save the file as UTF-8.") from None
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

    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for number, row in enumerate(csv.DictReader(file, strict=True), start=1):
                if None in row or None in row.values():
                    yield number, "has another number of fields than the header. Quote texts that hold commas."
                else:
                    yield number, row
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 at byte {error.start} of a block. Save the file as UTF-8.") from None
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
        raise UserError(f"{path}: not a readable Parquet file: {str(error).splitlines()[0]}.") from None


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
