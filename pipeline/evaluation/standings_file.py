"""`standings.json` of a run: what people had said when it was counted, without their names and words. The report is made from it."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from data.errors import UserError
from pipeline.disk import write_json
from pipeline.evaluation.standings import Pair, Standings
from pipeline.evaluation.statistics import Estimate

FILE = "standings.json"


def keep(run: Path, found: Standings) -> bool:
    """Writes the file, or removes an old one where no vote stands any more. False where there was none and is none."""
    file = run / FILE
    if not found.votes:
        was = file.exists()
        file.unlink(missing_ok=True)
        return was
    content = asdict(found)
    # Who agrees with whom is for the owner of the store; the report is handed on.
    del content["agreement_of"]
    write_json(file, {"counted_utc": f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S}", **_without_nan(content)})
    return True


def read(run: Path) -> tuple[Standings, str] | None:
    """What was counted last, and when; None where nothing was.

    Raises:
        UserError: the file is damaged.
    """
    file = run / FILE
    if not file.exists():
        return None
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
        counted = raw.pop("counted_utc")
        raw["pairs"] = tuple(Pair(**{**pair, "rate": _estimate(pair["rate"])}) for pair in raw["pairs"])
        raw["places"] = tuple(tuple((name, _estimate(at)) for name, at in group) for group in raw["places"])
        raw |= {name: _estimate(raw[name]) for name in ("first_side", "agreement")}
        return Standings(**{**raw, "agreement_of": {}}), counted
    except (ValueError, KeyError, TypeError):
        raise UserError(
            f"{file}: damaged. `feedback standings --run {run.name}` counts anew; without it, remove it."
        ) from None


def _estimate(numbers: list | None) -> Estimate | None:
    return None if numbers is None else Estimate(*(math.nan if n is None else n for n in numbers))


def _without_nan(content):
    # JSON has no NaN.
    if isinstance(content, dict):
        return {name: _without_nan(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [_without_nan(value) for value in content]
    return None if content != content else content
