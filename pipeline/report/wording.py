"""How the report writes numbers, intervals, bounds and names."""

from __future__ import annotations

import re

from pipeline.evaluation import gates as gating
from pipeline.evaluation.cards import SIGNED, Entry, is_finite
from pipeline.report.facts import WAITING, Gate

LABELS = {
    "gold": "gold score",
    "gold_minus_base": "gold minus base",
    "gold_minus_sft": "gold minus SFT",
    "eos_rate": "finished answers",
    "eos_rate_minus_sft": "finished answers minus SFT",
    "heldout_nll": "held-out loss",
    "base_heldout_nll": "held-out loss of base",
    "clean_accuracy": "accuracy on clean pairs",
    "observed_accuracy": "accuracy on observed pairs",
    "length_rule_accuracy": "accuracy of “shorter wins”",
    "bag_of_words_accuracy": "accuracy of a bag of words",
    "clean_accuracy_minus_best_floor": "clean accuracy minus the best simple rule’s",
    "observed_accuracy_minus_best_floor": "observed accuracy minus the best simple rule’s",
    "self_bleu": "self-BLEU",
    "ece": "calibration error",
    "kl_to_reference": "KL to the reference",
    "kl_at_start": "KL at the start",
    "win_rate_vs_sft": "win rate against SFT",
    "answer_tokens": "answer length",
    "proxy": "reward-model score",
    "general_perplexity_ratio": "perplexity of ordinary text",
    "ema_gold": "gold score, averaged",
    "heldout_prompts": "held-out prompts",
}


def number(value: float) -> str:
    """Three digits, or two decimals: 1,234 · 123 · 12.3 · 1.23 · 0.123 · 0.0012."""
    size = abs(value)
    if size >= 1000:
        said = f"{value:,.0f}"
    elif size >= 100:
        said = f"{value:.0f}"
    elif size >= 10:
        said = f"{value:.1f}"
    elif size >= 0.995 or size == 0:
        said = f"{value:.2f}"
    elif size >= 0.0995:
        said = f"{value:.3f}"
    else:
        said = f"{value:#.2g}"
    return said.replace("-", "−")


def quantity(value: float | None, unit: str = "", *, signed: bool = False, difference: bool = False) -> str:
    """A number with its unit. A share is written in per cent, a difference of shares in percentage points (pp)."""
    if not is_finite(value):
        return "no number"
    sign = "+" if signed and value > 0 else ""
    if unit == "share":
        return f"{sign}{100 * value:.1f}".replace("-", "−") + (" pp" if difference else " %")
    return sign + number(value) + (f" {unit}" if unit else "")


def figure(entry: Entry, *, signed: bool = True, absolute: bool = False) -> str:
    """The value of an entry with its unit; differences with their sign."""
    difference = SIGNED in entry.metric
    value = abs(entry.value) if absolute and is_finite(entry.value) else entry.value
    return quantity(value, entry.unit, signed=signed and difference, difference=difference)


def interval(entry: Entry | gating.GateResult) -> str:
    """The 95 % interval in words: 0.70 to 0.92; empty where there is none."""
    if not (is_finite(entry.ci_low) and is_finite(entry.ci_high)):
        return ""
    difference = SIGNED in entry.metric
    low, high = (
        quantity(end, entry.unit if entry.unit == "share" else "", difference=difference)
        for end in (entry.ci_low, entry.ci_high)
    )
    return f"{low} to {high}"


def estimate(entry: Entry) -> str:
    """The value with its interval in brackets, or the word that there is none."""
    return f"{figure(entry)} ({interval(entry) or 'no interval'})"


def gate_value(gate: Gate) -> str:
    """The number that the gate looked at, with its unit."""
    if gate.state in WAITING:
        return "–"
    return quantity(gate.result.value, gate.result.unit, difference=SIGNED in gate.result.metric)


def bound(result: gating.GateResult) -> str:
    """The bounds in words: at least 0.65 · at most 15 nats · 1 to 15 nats."""
    share = result.unit == "share"
    unit = (" pp" if SIGNED in result.metric else " %") if share else f" {result.unit}" if result.unit else ""

    def said(limit: float) -> str:
        return f"{100 * limit if share else limit:.6g}".replace("-", "−")

    if result.low is not None and result.high is not None:
        return f"{said(result.low)} to {said(result.high)}{unit}"
    if result.low is not None:
        return f"at least {said(result.low)}{unit}"
    return f"at most {said(result.high)}{unit}" if result.high is not None else "none"


def label(metric: str) -> str:
    return LABELS.get(metric, metric.replace("_", " "))




def duration(seconds: float | None) -> str:
    if not is_finite(seconds):
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    whole = round(seconds)
    return (
        f"{whole // 60} min {whole % 60:02d} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    )


def clean(text: str) -> str:
    """Text that every viewer can hold: control characters, lone surrogates and bidi overrides become U+FFFD."""
    odd = r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202d\u202e\ud800-\udfff\ufffe\uffff]"
    return re.sub(odd, "\ufffd", text)
