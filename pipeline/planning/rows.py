"""What a plan can know of the data without reading them as records: how many rows a local file has, and how many answers a ranking."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

# Rankings that are looked at for the largest number of answers.
LOOKED_AT = 1000


def rows_of(source: str, limit: int | None) -> int | None:
    """Lines with something in them, at most `limit`; None where `source` is no JSON-lines file that is there."""
    lines = _lines(source)
    return None if lines is None else sum(1 for _ in islice(lines, limit))


def answers_of(source: str) -> int | None:
    """The most answers of one ranking in the format `ranked`, of the first `LOOKED_AT`; None where that cannot be seen."""
    most = 0
    for line in islice(_lines(source) or (), LOOKED_AT):
        try:
            answers = json.loads(line).get("responses")
        except (ValueError, AttributeError):
            continue
        most = max(most, len(answers) if isinstance(answers, list) else 0)
    return most or None


def _lines(source: str) -> Iterator[str] | None:
    file = Path(source).expanduser()
    if file.suffix != ".jsonl" or not file.is_file():
        return None
    return _filled(file)


def _filled(file: Path) -> Iterator[str]:
    # Line by line: other characters than a newline end no row.
    with file.open(encoding="utf-8", errors="replace", newline="\n") as lines:
        yield from (line for line in lines if line.strip())
