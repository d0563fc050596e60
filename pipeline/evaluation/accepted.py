"""Gates that a person lets pass although they were missed: what was accepted, at which number, and why.

    {"ppo.kl_to_reference": {"why": "looked at the answers", "value": 16.2, "min": 1.0, "max": 15.0}}

Who accepts a miss has seen one number against one bound. The acceptance covers that, and nothing that is worse, or held against
another bound: a stage that is made anew asks again.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data.errors import UserError
from pipeline.disk import write_json
from pipeline.evaluation.cards import is_finite
from pipeline.evaluation.gates import GateResult

FILE = "accepted_gates.json"
# Of the number: what a sum in another order moves.
_SLACK = 1e-6


def read(run_dir: Path) -> dict[str, str]:
    """The reason given for each gate that was ever accepted, whether or not that still covers it."""
    return {gate: kept["why"] for gate, kept in _kept(run_dir).items()}


def accept(run_dir: Path, gate: str, why: str) -> None:
    """Records that a person lets `gate` pass although it was missed, and why. At which number is noted when it is held next."""
    if not why.strip():
        raise ValueError(f"gate {gate}: accepting a missed gate needs a reason")
    write_json(run_dir / FILE, _kept(run_dir) | {gate: {"why": why.strip()}})


def note(run_dir: Path, held: Sequence[GateResult]) -> None:
    """Writes beside each acceptance that is new the number and the bounds which it is for."""
    kept = _kept(run_dir)
    new = {r.gate: kept[r.gate] | _held(r) for r in held if r.gate in kept and "min" not in kept[r.gate]}
    if new:
        write_json(run_dir / FILE, kept | new)


def covering(run_dir: Path, held: Sequence[GateResult]) -> dict[str, str]:
    """Of the gates held, those missed ones that a person let pass as they are: gate -> the reason given."""
    kept = _kept(run_dir)
    return {r.gate: kept[r.gate]["why"] for r in held if not r.passed and r.gate in kept and _covers(kept[r.gate], r)}


def outdated(run_dir: Path, result: GateResult) -> str:
    """A sentence on what was accepted of a gate that is missed, where that does not cover the miss; else empty."""
    kept = _kept(run_dir).get(result.gate)
    if result.passed or kept is None or _covers(kept, result):
        return ""
    bounds = " and ".join(f"{side} {kept[side]:g}" for side in ("min", "max") if kept[side] is not None)
    number = "no number" if kept["value"] is None else f"{kept['value']:.4g}"
    return f" What was accepted is {number} against {bounds or 'no bound'}; `run --accept {result.gate} --why …` if this too may pass."


def _kept(run_dir: Path) -> dict[str, dict[str, Any]]:
    path = run_dir / FILE
    if not path.exists():
        return {}
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        raw.items()
    except (OSError, ValueError, AttributeError):
        raise UserError(f"{path}: damaged. Remove it; every gate is then held again until it is accepted again.") from None
    # Earlier runs kept the reason alone.
    return {str(gate): kept if isinstance(kept, dict) else {"why": str(kept)} for gate, kept in raw.items()}


def _held(result: GateResult) -> dict[str, float | None]:
    return {"value": result.value if is_finite(result.value) else None, "min": result.low, "max": result.high}


def _covers(kept: dict[str, Any], result: GateResult) -> bool:
    now = _held(result)
    if "min" not in kept:
        return True
    if (kept["min"], kept["max"]) != (now["min"], now["max"]):
        return False
    if kept["value"] is None or now["value"] is None:
        return kept["value"] is now["value"]
    return _beyond(now) <= _beyond(kept) + _SLACK * max(1.0, abs(kept["value"]))


def _beyond(held: dict[str, Any]) -> float:
    """How far a number lies outside its bounds; 0 inside, so an acceptance that was not needed covers no miss."""
    below = held["min"] - held["value"] if held["min"] is not None else -math.inf
    above = held["value"] - held["max"] if held["max"] is not None else -math.inf
    return max(0.0, below, above)
