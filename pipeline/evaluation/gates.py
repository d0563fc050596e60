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
import re
from collections.abc import Iterable, Mapping
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


def check(card: dict[str, Any], gates: Mapping[str, Any], stage: str, where: str) -> list[str]:
    """One line for each gate of `stage` that the card misses, those that only warn left out; an empty list lets the next
    stage start.

    Args:
        card: the parsed card.json.
        gates: "stage.metric" -> {"min": …, "max": …} (or an object with these attributes); other stages' are skipped.
        stage: the evaluation whose gates are held, such as "sft".
        where: the card's file as the user should see it.
    """
    return [result.problem for result in results(card, gates, stage, where) if not (result.passed or result.warns)]


def results(card: dict[str, Any], gates: Mapping[str, Any], stage: str, where: str) -> list[GateResult]:
    """Every gate of `stage` with its number and bounds, in the order of the configuration."""
    parsed = Card.from_dict(card)
    return [_hold(parsed, gate, bounds, where) for gate, bounds in gates.items() if gate.split(".")[0] == stage]


def bounds_of(bounds: Any) -> tuple[float | None, float | None]:
    """(min, max) of one configured gate, a mapping or an object with these attributes; None where it has no bound."""
    if isinstance(bounds, Mapping):
        return bounds.get("min"), bounds.get("max")
    return bounds.min, bounds.max


def warns(bounds: Any) -> bool:
    """Whether a missed gate is said and stops nothing."""
    return bool(bounds.get("warn") if isinstance(bounds, Mapping) else getattr(bounds, "warn", False))


def unknown_stages(gates: Mapping[str, Any], stages: Iterable[str]) -> list[str]:
    """One line for each gate that names no stage with an evaluation: such a gate would never be held."""
    known = list(stages)
    lines = []
    for gate in gates:
        stage, dot, metric = gate.partition(".")
        if stage in known and dot and metric:
            continue
        near = difflib.get_close_matches(stage, known, n=1)
        guess = f"; did you mean '{near[0]}.{metric}'?" if near and metric else ""
        lines.append(f"gates.{gate}: a gate is <stage>.<metric>, and the stage is one of {', '.join(known)}{guess}")
    return lines


# What the harness puts on each card, as patterns; a custom metric (metrics.py) is added under its own name.
_ANSWERS = (
    r"gold(_\w+)?|proxy|eos_rate|answer_(tokens|words)|distinct_[12]|repeated_4gram_share|unique_first_8_share|speaker_share|self_bleu"
    r"|general_(perplexity|bits_per_byte)|wrong_(suggested|unprompted)|suggestion_shift"
)
METRICS: dict[str, str] = {
    "base": _ANSWERS,
    "sft": rf"{_ANSWERS}|base_heldout_nll|heldout_nll(_change)?|(gold(_\w+)?|eos_rate)_minus_base|(lc_)?win_rate_vs_base|distinct_2_ratio_base"
    r"|self_bleu_minus_base|rouge_l(_minus_base)?"
    r"|general_perplexity_ratio|wrong_suggested_minus_base",
    "reward": r"(observed|clean)_accuracy(_\w+)?|length_rule_accuracy|(observed_)?bag_of_words_accuracy|wrong_prompt_accuracy|facts_accuracy"
    r"|(observed_)?(pairs|mean_margin|ece|temperature|pair_loss|ece_after_temperature)|probe_\w+"
    r"|test_model_(clean_)?accuracy|accuracy_turn_(1|2_3|4_on)"
    r"|(gold_)?length_correlation|length_correlation_excess|accuracy_(shorter|middle|longer)_third",
    "ppo": rf"{_ANSWERS}|sft_proxy|(base|sft)_gold|((base|sft)_)?test_model|test_model_minus_sft|self_bleu_minus_sft"
    r"|(gold(_\w+)?|eos_rate)_minus_sft|(lc_)?win_rate_vs_sft|distinct_2_ratio|gold_minus_best_of_\d+"
    r"|best_of_\d+_(gold|proxy|kl)|kl_to_reference|kl_at_start|general_perplexity_ratio|wrong_suggested_minus_sft"
    r"|normalised_reward_gain|lc_minus_raw_win_rate|gain_over_limit"
    r"|ema_(gold(_minus_(sft|raw))?|eos_rate(_minus_raw)?|answer_tokens|win_rate_vs_sft|kl_to_reference)"
    r"|judge_(win_rate_vs_sft|lc_win_rate_vs_sft|first_share|agreement|refused_share)",
}
# <policy>_<task>_<metric>: which tasks and metrics there are, only lm-eval knows.
_OF_BENCHMARKS = r"(base|sft|ppo)_\w+_\w+"
# One name for each pattern above, to guess from.
_COMMON_NAMES = (
    *("gold", "eos_rate", "answer_tokens", "heldout_nll", "heldout_nll_change", "gold_minus_base", "win_rate_vs_base"),
    *("clean_accuracy", "observed_accuracy", "length_rule_accuracy", "wrong_prompt_accuracy", "pairs", "ece"),
    *(
        "gold_minus_sft",
        "win_rate_vs_sft",
        "gold_minus_best_of_2",
        "distinct_2_ratio",
        "kl_to_reference",
        "kl_at_start",
        "general_perplexity_ratio",
        "wrong_suggested_minus_sft",
    ),
)


def unknown_metrics(gates: Mapping[str, Any]) -> list[str]:
    """One line for each gate on a metric that no card of its stage ever has: found before anything is trained."""
    named = [(gate, *gate.split(".")[:2]) for gate in gates]
    lines = [
        f"gates.{gate}: a benchmark's number is <policy>_<task>_<metric>, the policy one of base, sft, ppo (got '{metric}')"
        for gate, stage, metric in named
        if stage == BENCHMARKS and not re.fullmatch(_OF_BENCHMARKS, metric)
    ]
    named = [row for row in named if row[1] != BENCHMARKS]
    strange = [(gate, stage, metric) for gate, stage, metric in named if not _on_card(stage, metric)]
    if not strange:
        return lines
    # Only now: the metrics' library takes seconds to import.
    from pipeline.evaluation.metrics import METRICS as CLASSES

    for gate, stage, metric in strange:
        if metric in CLASSES:
            continue
        fitting = [*(n for n in _COMMON_NAMES if _on_card(stage, n)), *CLASSES]
        near = difflib.get_close_matches(metric, fitting, n=1)
        guess = f"; did you mean '{stage}.{near[0]}'?" if near else f"; there are {', '.join(fitting)}."
        lines.append(f"gates.{gate}: the card of '{stage}' has no metric '{metric}'{guess}")
    return lines


def _on_card(stage: str, metric: str) -> bool:
    return re.fullmatch(METRICS.get(stage, ""), metric) is not None


def _hold(card: Card, gate: str, bounds: Any, where: str) -> GateResult:
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
            return result(f"gate {gate}: {got}{unit} {sign} {limit} ({where}). {hint(stage, metric, side)}")
    return result("")


def _apart(number: float, bound: float) -> tuple[str, str]:
    """Both numbers with as few digits as still show that they differ."""
    for digits in range(3, 18):
        got, limit = f"{number:.{digits}g}", f"{bound:.{digits}g}"
        if float(got) != float(limit):
            break
    return got, limit
