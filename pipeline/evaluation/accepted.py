"""Gates that a person lets pass although they were missed: what was accepted, at which number, and why.

    {"ppo.kl_to_reference": {"why": "looked at the answers", "value": 16.2, "min": 1.0, "max": 15.0}}

Who accepts a miss has seen one number against one bound. The acceptance covers that, and nothing that is worse, or held against
another bound: a stage that is made anew asks again. A round inherits what was accepted in the run that it grew out of, on the same terms.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
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
    return {gate: _reason(kept) for gate, kept in _kept(run_dir).items()}


def of(run_dir: Path) -> dict[str, dict[str, Any]]:
    """What another run may inherit: every acceptance of this one that is for a number, and in which run a person gave it."""
    return {gate: {"from": run_dir.name} | kept for gate, kept in _kept(run_dir).items() if "min" in kept}


def inherit(run_dir: Path, acceptances: Mapping[str, dict[str, Any]]) -> None:
    """Takes over acceptances of another run (`of`), in place of those inherited before, beside those that were given here."""
    kept = _kept(run_dir)
    new = {gate: one for gate, one in acceptances.items() if "from" in kept.get(gate, {"from": ""}) and kept.get(gate) != one}
    if new:
        write_json(run_dir / FILE, kept | new)


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
    return {r.gate: _reason(kept[r.gate]) for r in held if not r.passed and r.gate in kept and _covers(kept[r.gate], r)}


def outdated(run_dir: Path, result: GateResult) -> str:
    """What was accepted of a gate that is missed, where that does not cover the miss; else empty."""
    kept = _kept(run_dir).get(result.gate)
    if result.passed or kept is None or _covers(kept, result):
        return ""
    bounds = " and ".join(f"{side} {kept[side]:g}" for side in ("min", "max") if kept[side] is not None)
    number = "no number" if kept["value"] is None else f"{kept['value']:.4g}"
    where = f" in {kept['from']}" if "from" in kept else ""
    return f"What was accepted{where} is {number} against {bounds or 'no bound'}"


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


def _reason(kept: dict[str, Any]) -> str:
    return f"{kept['why']} (accepted in {kept['from']})" if "from" in kept else kept["why"]


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
