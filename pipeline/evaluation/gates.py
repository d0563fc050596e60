"""Gates: may the next stage start? Bounds live in YAML, numbers on the card, the answer is one line a miss.

    gates:
      reward.clean_accuracy: {min: 0.65}
      ppo.kl_to_reference: {min: 1.0, max: 15.0}
      ppo.gold_minus_sft.ci_low: {min: 0.0}      # the lower end of the 95 % interval instead of the point estimate
      reward.probe_shuffled: {min: 0.7, warn: true}    # said when it is missed, and stops nothing
      benchmarks.ppo_gsm8k_exact_match_minus_sft.ci_low: {min: -0.05}    # <policy>_<task>_<metric>; held by `evaluate --benchmarks`

A bound is inclusive: a value that equals it passes. A number that is missing, null or NaN never passes.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.evaluation.cards import Card, is_finite
from pipeline.evaluation.gate_hints import hint

# Beside each card: how its gates came out when they were held last, for other programs.
VERDICT_FILE = "gates.json"
BENCHMARKS = "benchmarks"

ENDS = ("ci_low", "ci_high")


@dataclass(frozen=True)
class GateResult:
    """One gate held against one card. `problem` is empty when it passed, else the line to show."""

    gate: str
    metric: str
    value: float | None
    ci_low: float | None
    ci_high: float | None
    unit: str
    low: float | None
    high: float | None
    problem: str
    warns: bool = False

    @property
    def passed(self) -> bool:
        return not self.problem


def state_of(result: GateResult, accepted: Mapping[str, str]) -> str:
    """ "passed", "missed", "accepted" by a person, or "warned": missed, and only to warn."""
    if result.passed:
        return "passed"
    return "accepted" if result.gate in accepted else "warned" if result.warns else "missed"


def verdict(result: GateResult, accepted: Mapping[str, str]) -> dict[str, Any]:
    """One line of `gates.json`: what was asked of which number, and "passed", "missed", "accepted" or "warned"."""
    state = state_of(result, accepted)
    number = result.value if is_finite(result.value) else None
    return {
        "gate": result.gate,
        "metric": result.metric,
        "value": number,
        "min": result.low,
        "max": result.high,
        "state": state,
        "why": accepted[result.gate] if state == "accepted" else result.problem,
    }


def check(card: dict[str, Any], gates: Mapping[str, Any], stage: str, where: str, learner: str = "ppo") -> list[str]:
    """One line for each gate of `stage` that the card misses, those that only warn left out; an empty list lets the next
    stage start.

    Args:
        card: the parsed card.json.
        gates: "stage.metric" -> {"min": …, "max": …} (or an object with these attributes); other stages' are skipped.
        stage: the evaluation whose gates are held, such as "sft".
        where: the card's file as the user should see it.
        learner: what trained the policy of the stage `ppo`, for the advice.
    """
    return [result.problem for result in results(card, gates, stage, where, learner) if not (result.passed or result.warns)]


def results(
    card: dict[str, Any], gates: Mapping[str, Any], stage: str, where: str, learner: str = "ppo"
) -> list[GateResult]:
    """Every gate of `stage` with its number and bounds, in the order of the configuration."""
    parsed = Card.from_dict(card)
    return [_hold(parsed, gate, bounds, where, learner) for gate, bounds in gates.items() if gate.split(".")[0] == stage]


def bounds_of(bounds: Any) -> tuple[float | None, float | None]:
    """(min, max) of one configured gate, a mapping or an object with these attributes; None where it has no bound."""
    if isinstance(bounds, Mapping):
        return bounds.get("min"), bounds.get("max")
    return bounds.min, bounds.max


def warns(bounds: Any) -> bool:
    """Whether a missed gate is said and stops nothing."""
    return bool(bounds.get("warn") if isinstance(bounds, Mapping) else getattr(bounds, "warn", False))


def _hold(card: Card, gate: str, bounds: Any, where: str, learner: str) -> GateResult:
    low, high = bounds_of(bounds)
    only_warns = warns(bounds)
    stage, _, rest = gate.partition(".")
    metric, _, end = rest.partition(".")
    entry = card.get(metric)
    number = None if entry is None else getattr(entry, end or "value", None)

    def result(problem: str) -> GateResult:
        if entry is None:
            return GateResult(gate, metric, None, None, None, "", low, high, problem, only_warns)
        return GateResult(gate, metric, number, entry.ci_low, entry.ci_high, entry.unit, low, high, problem, only_warns)

    if entry is None:
        near = difflib.get_close_matches(metric, card.names, n=1)
        guess = f"; did you mean '{near[0]}'?" if near else "."
        there = ", ".join(card.names) or "none"
        return result(f"gate {gate}: no metric '{metric}' ({where}){guess} The card has: {there}.")
    if end and end not in ENDS:
        return result(
            f"gate {gate}: '{end}' is no part of a metric ({where}). Use {stage}.{metric}, or add .ci_low or .ci_high."
        )
    if low is None and high is None:
        return result(f"gate {gate}: has neither min nor max ({where}). Give it a bound or remove it.")
    if not is_finite(number):
        note = f", {entry.note}" if entry.note else ""
        return result(f"gate {gate}: no number ({where}{note}). Nothing was measured, so the gate cannot pass.")
    unit = f" {entry.unit}" if entry.unit else ""
    for bound, side, sign in ((low, "min", "<"), (high, "max", ">")):
        if bound is not None and (number < bound if side == "min" else number > bound):
            got, limit = _apart(number, bound)
            return result(f"gate {gate}: {got}{unit} {sign} {limit} ({where}). {hint(stage, metric, side, learner)}")
    return result("")


def _apart(number: float, bound: float) -> tuple[str, str]:
    """Both numbers with as few digits as still show that they differ."""
    for digits in range(3, 18):
        got, limit = f"{number:.{digits}g}", f"{bound:.{digits}g}"
        if float(got) != float(limit):
            break
    return got, limit
