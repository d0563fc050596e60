"""What a file seems to hold: a guess at its format, to be confirmed by a person and then named in the config."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import quantiles

from data.errors import UserError
from data.fields import looks_like
from data.formats import FORMATS
from data.numbers import many
from data.records import Demonstration, Prompt, Ranking, Record, ScoredAnswer, Several, Thumb
from data.sources import files_of, read_rows

LOOKED_AT = 100


@dataclass(frozen=True)
class Guess:
    """A format, and how many of the rows looked at it reads."""

    format_name: str
    read: int
    looked_at: int


_REASONS = 4


def guess(path: Path) -> list[Guess]:
    """The formats that read any of the first rows, best first; of equal ones that which asks for more fields comes first.

    Raises:
        UserError: no format reads any row; or the file has none.
    """
    read = list(islice(read_rows(files_of(path)[0]), LOOKED_AT))
    rows = [row for _, row in read if isinstance(row, dict)]
    found = [Guess(name, sum(_reads(name, row) for row in rows), len(rows)) for name in FORMATS]
    found = sorted((g for g in found if g.read), key=lambda g: (-g.read, -_fields_asked(g.format_name)))
    if not found:
        broken = [f"{path} row {number}: {row}" for number, row in read if not isinstance(row, dict)]
        why = [*broken[:_REASONS], *_reasons(path, rows)]
        first = (
            _nothing_reads(path, rows, told_why=bool(why))
            if rows
            else f"{path}: nothing in it can be read ({many(len(read), 'row')} looked at)."
        )
        raise UserError([first, *why])
    return found


def _nothing_reads(path: Path, rows: list[dict], *, told_why: bool) -> str:
    columns = sorted({name for row in rows for name in row})
    shown = ", ".join(printable(name) for name in columns) or "none"
    return (
        f"{path}: no format reads it ({many(len(rows), 'row')} looked at); fields found: {shown:.300}"
        f"{looks_like(set(columns)) or ''}. Rename the fields to those of a format in docs/data.md"
        f"{', mend what stands below,' if told_why else ''} or name the format with --format."
    )


def _reasons(path: Path, rows: list[dict]) -> list[str]:
    """Why the first row is refused, by the formats that come furthest with it: their complaint is not about missing fields."""
    said = []
    for name, make in FORMATS.items() if rows else ():
        try:
            make(rows[0], "row")
        except ValueError as error:
            if not str(error).startswith("no field"):
                said.append(f"{path} row 1, read as {name}: {printable(str(error)).rstrip('.')}")
    return said[:_REASONS]


def printable(text: str) -> str:
    """On one line, without characters that steer a terminal."""
    return "".join(c if c.isprintable() else "\ufffd" for c in text)


def _reads(name: str, row: dict) -> bool:
    try:
        made = FORMATS[name](row, "row")
    except ValueError:
        return False
    return not isinstance(made, Several) or bool(made.records)


# Of two formats that read a row, the one that asks for more says more about it. `prompts` asks least.
_ASKS = {"prompts": 0, "thumbs_ranked": 1, "oasst_rankings": 3, "scored": 3, "ranked": 3, "thumbs": 3, "scored_rows": 3, "pairs": 3}


def _fields_asked(name: str) -> int:
    return _ASKS.get(name, 2)


def config_keys(records: list[Record]) -> list[str]:
    """The keys under `data:` that take records of this kind, that which more configs need first; none where they are of several kinds."""
    kinds = {type(record) for record in records}
    if len(kinds) != 1:
        return []
    keys = {
        Demonstration: ["demonstrations"],
        Ranking: ["rankings", "heldout_rankings"],
        Prompt: ["heldout_prompts", "prompts"],
        Thumb: ["thumbs"],
    }
    return keys.get(kinds.pop(), [])


def texts_of(record: Record | ScoredAnswer) -> tuple[str, tuple[str, ...]]:
    """The conversation before the answers, and the answers."""
    turns = record.messages if isinstance(record, Prompt) else record.prompt
    asked = "\n".join(message.content for message in turns)
    if isinstance(record, Ranking):
        return asked, record.responses
    return asked, () if isinstance(record, Prompt) else (record.response,)


def spread(lengths: list[int]) -> str:
    """Shortest, middle, the 95th of 100, longest."""
    if len(lengths) == 1:
        return f"{lengths[0]}"
    cuts = quantiles(lengths, n=20, method="inclusive")
    return f"{min(lengths)} to {max(lengths)}, half up to {cuts[9]:.0f}, 95 % up to {cuts[18]:.0f}"
