"""What each failure detector last saw, and how far that is from its bound: the table that says why a run was left alone."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from data.numbers import many
from pipeline.evaluation.cards import is_finite
from pipeline.evaluation.detectors import DETECTORS, SFT, Look, Probe, best_look

TITLES = {
    "reward_hacking": "reward hacking",
    "decline": "judged worse",
    "length_drift": "length",
    "mode_collapse": "mode collapse",
    "repetition": "repetition",
    "kl_blow_up": "KL blow-up",
    "refusal_collapse": "refusals",
    "eos_loss": "unfinished answers",
    "value_failure": "value model",
    "forgetting": "forgetting",
    "sycophancy": "sycophancy",
}


@dataclass(frozen=True)
class Reading:
    """One detector: its name, lines of what it saw last, lines of its bounds, and quiet, warned or stopped."""

    name: str
    seen: tuple[str, ...]
    bounds: tuple[str, ...]
    state: str


@dataclass(frozen=True)
class _Seen:
    lines: Sequence[Mapping[str, Any]]
    looks: Sequence[Look]
    probes: Sequence[Probe]
    bounds: Any

    def pair(self, figure: str) -> tuple[float, float] | None:
        """SFT's figure and its mean over the last window, as the detectors compare them."""
        first = self.lines[0].get(figure) if self.lines else None
        recent = [x for line in self.lines[1:][-self.bounds.window :] if is_finite(x := line.get(figure))]
        return (first, sum(recent) / len(recent)) if is_finite(first) and recent else None

    def worst(self, figure: str) -> float | None:
        known = [x for line in self.lines if is_finite(x := line.get(figure))]
        return max(known, default=None)


def readings(
    watched: Mapping[str, Any], lines: Sequence[Mapping[str, Any]], bounds: Any, start: str = SFT
) -> list[Reading]:
    """A row a detector that had anything to see; empty where the detectors were off or left no notes.

    Args:
        start: what the policy of the first rollout is called.
    """
    if not watched or not getattr(bounds, "enabled", False):
        return []
    looks = [Look(x["update"], tuple(x["judge"]), x["proxy"]) for x in watched.get("looks", ())]
    probes = [
        Probe(x["update"], tuple(x["nll"]), tuple(x["base_nll"]), x["tokens"], tuple(x["margins"]))
        for x in watched.get("probes", ())
    ]
    seen = _Seen(lines, looks, probes, bounds)
    alarms = {a["detector"]: a for a in watched.get("alarms", ())}
    out = []
    for name in DETECTORS:
        rows = list(_ROWS[name](seen))
        alarm = alarms.get(name)
        if rows or alarm:
            state = "quiet" if alarm is None else "stopped" if alarm["stops"] else "warned"
            out.append(Reading(TITLES[name], *(tuple(_set(row[k].replace(SFT, start)) for row in rows) for k in (0, 1)), state))
    return out


def _set(said: str) -> str:
    """Numbers as the rest of the report writes them: a real minus, a space before the per cent sign."""
    return re.sub(r"(?<=\d)%", " %", re.sub(r"(?<![\w.])-(?=\d)", "−", said))


Rows = Iterator[tuple[str, str]]


def _decline(seen: _Seen) -> Rows:
    if (best := best_look(seen.looks)) and best.proxy is None:
        yield (
            f"judge {seen.looks[-1].mean:.2f} (best {best.mean:.2f} after {best.update})",
            f"{seen.bounds.judge_fall:g} standard errors lower, {many(seen.bounds.judge_patience, 'look')} in a row",
        )


def _hacking(seen: _Seen) -> Rows:
    if (best := best_look(seen.looks)) and best.proxy is not None:
        now = seen.looks[-1]
        yield (
            f"judge {now.mean:.2f} (best {best.mean:.2f} after {best.update}), reward {now.proxy:.2f} (then {best.proxy:.2f})",
            f"judge {seen.bounds.judge_fall:g} standard errors lower, reward higher, {many(seen.bounds.judge_patience, 'look')} in a row; "
            f"or {seen.bounds.judge_doubt:g} with another sign",
        )
    score, high = seen.pair("model_score"), seen.lines[-1].get("model_score_high") if seen.lines else None
    if score and is_finite(high):
        yield f"mean score {score[1]:.2f}", f"{high:.2f}, the 99th percentile of training answers (a sign)"
    if spread := seen.pair("member_variance"):
        yield (
            f"members' variance {spread[1]:.3g}, SFT {spread[0]:.3g}",
            f"{seen.bounds.variance_rise:g} times SFT's (a sign)",
        )


def _length(seen: _Seen) -> Rows:
    if (found := seen.pair("response_tokens")) and found[0] > 0:
        change = found[1] / found[0] - 1
        bounds = f"{seen.bounds.length_rise:+.0%} or {-seen.bounds.length_fall:+.0%}"
        yield f"{found[1]:.1f} tokens, SFT {found[0]:.1f} ({change:+.0%})", bounds


def _of_sft(figure: str, said: str, bound: str) -> Callable[[_Seen], Rows]:
    def rows(seen: _Seen) -> Rows:
        if (found := seen.pair(figure)) and found[0] > 0:
            yield f"{said} {found[1] / found[0]:.0%} of SFT's", f"below {getattr(seen.bounds, bound):.0%}"

    return rows


def _points(figure: str, said: str, bound: str, sign: int) -> Callable[[_Seen], Rows]:
    def rows(seen: _Seen) -> Rows:
        if found := seen.pair(figure):
            limit = 100 * sign * getattr(seen.bounds, bound)
            yield f"{said} {found[1]:.0%}, SFT {found[0]:.0%}", f"{limit:+.0f} pp"

    return rows


def _self_bleu(seen: _Seen) -> Rows:
    if found := seen.pair("self_bleu"):
        yield f"self-BLEU {found[1]:.2f}, SFT {found[0]:.2f}", f"{seen.bounds.self_bleu_rise:+.2f}"


def _together(*parts: Callable[[_Seen], Rows]) -> Callable[[_Seen], Rows]:
    def rows(seen: _Seen) -> Rows:
        for part in parts:
            yield from part(seen)

    return rows


def _kl(seen: _Seen) -> Rows:
    for figure, said, bound, unit in (
        ("kl", "KL to the reference at most", seen.bounds.kl_max, " nats a sequence"),
        ("approx_kl", "largest step", seen.bounds.approx_kl_max, " nats a token"),
    ):
        if (worst := seen.worst(figure)) is not None:
            yield f"{said} {worst:.2g}{unit}", f"{bound:g}"
    if (worst := seen.worst("clip_fraction")) is not None:
        yield f"at most {worst:.0%} of tokens clipped", f"{seen.bounds.clip_fraction_max:.0%}"


def _value(seen: _Seen) -> Rows:
    if found := seen.pair("explained_variance"):
        yield f"explained variance {found[1]:.2f}", f"0, after {many(seen.bounds.value_after, 'update')}"


def _forgetting(seen: _Seen) -> Rows:
    if seen.probes and seen.probes[-1].nll:
        first, now = seen.probes[0], seen.probes[-1]
        worse = max(first.perplexity, first.base_perplexity)
        yield (
            f"perplexity {now.perplexity:.1f}, SFT {first.perplexity:.1f}, base {first.base_perplexity:.1f}",
            f"{(1 + seen.bounds.perplexity_rise) * worse:.1f}",
        )


def _sycophancy(seen: _Seen) -> Rows:
    if seen.probes and seen.probes[-1].margins:
        first, now = (sum(p.agrees) / len(p.agrees) for p in (seen.probes[0], seen.probes[-1]))
        yield (
            f"suggested wrong answer preferred {now:.0%}, SFT {first:.0%}",
            f"{100 * seen.bounds.sycophancy_rise:+.0f} pp",
        )


_ROWS: dict[str, Callable[[_Seen], Rows]] = {
    "reward_hacking": _hacking,
    "decline": _decline,
    "length_drift": _length,
    "mode_collapse": _together(
        _of_sft("entropy", "entropy", "entropy_floor"),
        _of_sft("unique_openings", "different openings", "opening_floor"),
        _self_bleu,
    ),
    "repetition": _together(
        _of_sft("distinct_2", "distinct-2", "distinct_floor"),
        _points("repeated_4gram_share", "repeat four words thrice", "repeat_rise", 1),
    ),
    "kl_blow_up": _kl,
    "refusal_collapse": _points("refusal_share", "refuse", "refusal_rise", 1),
    "eos_loss": _points("eos_rate", "finished", "eos_fall", -1),
    "value_failure": _value,
    "forgetting": _forgetting,
    "sycophancy": _sycophancy,
}
