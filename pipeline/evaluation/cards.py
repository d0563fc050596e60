"""Report cards: what an evaluation measured, one JSON file a stage.

    {"stage": "sft", "entries": [{"metric": "gold", "value": 1.9, "n": 120, "ci_low": 1.8, "ci_high": 2.0,
                                  "unit": "points", "note": ""}, …]}

A number that could not be computed is `null` in the file and its note says what it was. It is never left out: a gate
that asks for it must be able to fail.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from data.errors import UserError
from pipeline.disk import write_json

# In the name of a number that is the difference of two policies' numbers.
SIGNED = "_minus_"


@dataclass(frozen=True)
class Entry:
    """One measured number.

    Args:
        metric: its name; a gate says `<stage>.<metric>`.
        value: the point estimate, None where there is none.
        n: the number of independent units behind it (prompts, unless the note says otherwise).
        ci_low, ci_high: 95 % interval, None where none was made.
        unit: "nats", "tokens", "share"…; empty for a pure number.
        note: anything a reader must know to read the number.
    """

    metric: str
    value: float | None
    n: int
    ci_low: float | None = None
    ci_high: float | None = None
    unit: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        if not self.metric or "." in self.metric:
            raise ValueError(f"metric name {self.metric!r}: must not be empty or hold a dot")
        if isinstance(self.n, bool) or not isinstance(self.n, int) or self.n < 0:
            raise ValueError(f"metric {self.metric!r}: n is {self.n!r}, must be a count")
        for name in ("value", "ci_low", "ci_high"):
            number = getattr(self, name)
            if number is not None and (isinstance(number, bool) or not isinstance(number, (int, float))):
                raise ValueError(f"metric {self.metric!r}: {name} is {number!r}, must be a number or null")


@dataclass(frozen=True)
class Card:
    """All entries of one evaluation, in the order in which the report shows them."""

    stage: str
    entries: tuple[Entry, ...]

    def __post_init__(self) -> None:
        names = self.names
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"card {self.stage!r}: metric {', '.join(twice)} stands there twice")

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(entry.metric for entry in self.entries)

    def get(self, metric: str) -> Entry | None:
        """The entry of that name, or None."""
        return next((entry for entry in self.entries if entry.metric == metric), None)

    def values(self) -> dict[str, float]:
        """The finite values by name: what a stage manifest keeps as its metrics."""
        return {e.metric: float(e.value) for e in self.entries if is_finite(e.value)}

    def to_dict(self) -> dict[str, Any]:
        """The JSON form. Non-finite numbers become None; the note then says what they were."""
        return {"stage": self.stage, "entries": [asdict(_finite(entry)) for entry in self.entries]}

    @staticmethod
    def from_dict(raw: Any) -> Card:
        """The card of a parsed JSON document.

        Keys that this version does not know are left alone, so that a newer card can still be read.

        Raises:
            ValueError: with the reason, when the document is no card.
        """
        if (
            not isinstance(raw, dict)
            or not isinstance(raw.get("stage"), str)
            or not isinstance(raw.get("entries"), list)
        ):
            raise ValueError("not a card: needs a 'stage' (text) and 'entries' (a list)")
        entries = []
        for number, item in enumerate(raw["entries"], start=1):
            missing = {"metric", "value", "n"} - set(item) if isinstance(item, dict) else {"metric", "value", "n"}
            if missing:
                raise ValueError(f"entry {number}: {', '.join(sorted(missing))} missing")
            if not all(isinstance(item.get(key, ""), str) for key in ("metric", "unit", "note")):
                raise ValueError(f"entry {number}: metric, unit and note must be text")
            entries.append(Entry(**{key: item[key] for key in Entry.__dataclass_fields__ if key in item}))
        return Card(raw["stage"], tuple(entries))


def is_finite(number: object) -> bool:
    """Whether `number` is a number that can be compared: not None, NaN or infinite."""
    return isinstance(number, (int, float)) and not isinstance(number, bool) and math.isfinite(number)


def _finite(entry: Entry) -> Entry:
    odd = {
        name: number
        for name in ("value", "ci_low", "ci_high")
        if (number := getattr(entry, name)) is not None and not is_finite(number)
    }
    if not odd:
        return entry
    ends = {"ci_low", "ci_high"}
    if odd.keys() == ends and all(map(math.isnan, odd.values())):
        # Too few behind it (`statistics.FEWEST`), or too many resamples without an answer.
        said = f"no interval could be made from n = {entry.n}"
    else:
        said = "; ".join(f"{name} was {number}" for name, number in odd.items())
    return replace(entry, **dict.fromkeys(odd), note=f"{entry.note}; {said}" if entry.note else said)


def write_card(path: Path, card: Card) -> None:
    """Write `card` as JSON to the file `path`, whole or not at all."""
    write_json(path, card.to_dict())


def read_card(path: Path) -> Card:
    """The card in the file `path`; a file that holds none is a UserError with its name and the reason."""
    try:
        return Card.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise UserError(f"{path}: no readable report card: {reason}. Run the evaluation again.") from error


def estimated(metric: str, estimate, n: int, unit: str = "", note: str = "") -> Entry:
    value, low, high = estimate
    return Entry(metric, value, n, low, high, unit, note)
