"""What stands on the card of a policy: figures of its answers, and its answers beside another policy's."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from data.numbers import many
from pipeline.evaluation import judges
from pipeline.evaluation.answers import AnswerRow
from pipeline.evaluation.cards import Entry, estimated
from pipeline.evaluation.comparisons import length_controlled_win_rate
from pipeline.evaluation.diversity import self_bleu_change, self_bleu_entry
from pipeline.evaluation.judges import Comparison, Judged
from pipeline.evaluation.length import normalised_reward_gain
from pipeline.evaluation.metrics import NOTES, Answer, measure
from pipeline.evaluation.statistics import (
    Estimate,
    best_of_n_expectation,
    best_of_n_kl,
    cluster_bootstrap,
    cluster_share,
    paired_difference,
    share_difference,
    win_rate,
    wins,
)


def by_prompt(rows: Sequence[AnswerRow]) -> dict[str, list[AnswerRow]]:
    grouped: dict[str, list[AnswerRow]] = defaultdict(list)
    for row in rows:
        grouped[row.prompt_id].append(row)
    return grouped


def clusters_of(answers: dict[str, list[AnswerRow]], prompts: Iterable[str]) -> list[str]:
    """What an interval draws each of the prompts with."""
    return [answers[p][0].cluster for p in prompts]


def paired_by_prompt(
    own: dict[str, list[AnswerRow]],
    theirs: dict[str, list[AnswerRow]],
    of: Callable[[AnswerRow], float],
    difference: Callable[..., Estimate] = paired_difference,
) -> Estimate:
    """`of` of own answers less theirs, on the prompts that both answered; each side's samples are averaged first.

    `difference` is `share_difference` where `of` lies in 0 to 1.
    """
    prompts = [p for p in own if p in theirs]
    a, b = ([float(np.mean([of(r) for r in side[p]])) for p in prompts] for side in (own, theirs))
    return difference(a, b, clusters_of(own, prompts))


def answer_entries(rows: Sequence[AnswerRow], config) -> list[Entry]:
    """Figures of a policy's answers by themselves."""
    clusters = [r.cluster for r in rows]
    n = len(set(clusters))
    entries = []
    if rows[0].gold is not None:
        entries.append(estimated("gold", cluster_bootstrap([r.gold for r in rows], clusters), n, gold_unit(rows)))
        for name in rows[0].parts or ():
            entries.append(estimated(f"gold_{name}", cluster_share([r.parts[name] for r in rows], clusters), n, "share"))
    if rows[0].proxy is not None:
        entries.append(estimated("proxy", cluster_bootstrap([r.proxy for r in rows], clusters), n, "reward"))
    entries.append(estimated("eos_rate", cluster_share([float(r.finished) for r in rows], clusters), n, "share"))
    entries.append(estimated("answer_tokens", cluster_bootstrap([float(r.tokens) for r in rows], clusters), n, "tokens"))
    done = {e.metric for e in entries}
    for name, value in measure([Answer(r.answer, r.finished, r.tokens) for r in rows]).items():
        if name not in done:
            entries.append(Entry(name, value, len(rows), note=NOTES.get(name, "")))
    entries.append(self_bleu_entry(rows))
    return entries


def compare_entries(rows: Sequence[AnswerRow], other: Sequence[AnswerRow], name: str) -> list[Entry]:
    """Differences per prompt; each side's samples are averaged first."""
    entries = []
    own, theirs = by_prompt(rows), by_prompt(other)
    prompts = [p for p in own if p in theirs]
    n = len(set(clusters_of(own, prompts)))
    if rows[0].gold is not None:
        change = paired_by_prompt(own, theirs, lambda r: r.gold)
        entries.append(estimated(f"gold_minus_{name}", change, n, gold_unit(rows)))
        for part in rows[0].parts or ():
            change = paired_by_prompt(own, theirs, lambda r, part=part: r.parts[part], share_difference)
            entries.append(estimated(f"gold_{part}_minus_{name}", change, n, "share"))
        pairs = [(x.gold, y.gold, x.cluster) for p in prompts for x in own[p] for y in theirs[p]]
        a, b, clusters = (list(column) for column in zip(*pairs, strict=True))
        entries.append(
            estimated(
                f"win_rate_vs_{name}",
                win_rate(a, b, clusters),
                n,
                "share",
                f"by the {'rubric' if rows[0].parts else 'test model'}; a tie counts half",
            )
        )
        longer = [x.tokens - y.tokens for p in prompts for x in own[p] for y in theirs[p]]
        entries.append(
            estimated(
                f"lc_win_rate_vs_{name}",
                length_controlled_win_rate(wins(a, b), longer, clusters),
                n,
                "share",
                "the same at equal length, by a logistic model",
            )
        )
    change = paired_by_prompt(own, theirs, lambda r: r.finished, share_difference)
    entries.append(estimated(f"eos_rate_minus_{name}", change, n, "share"))
    d = [
        measure([Answer(r.answer, r.finished, r.tokens) for r in _same_count(side, prompts)], ["distinct_2"])[
            "distinct_2"
        ]
        for side in (own, theirs)
    ]
    entries.append(
        Entry(
            f"distinct_2_ratio_{name}" if name != "sft" else "distinct_2_ratio",
            d[0] / d[1] if d[1] else math.nan,
            len(prompts),
            note=f"over {name}'s, one answer a prompt on both sides",
        )
    )
    entries.append(self_bleu_change(rows, other, name))
    return entries


def gold_unit(rows: Sequence[AnswerRow]) -> str:
    """Of the gold score: the rubric's points, or the test model's reward in spreads of its training answers."""
    return "points" if rows[0].parts else "reward"


def _same_count(side: dict[str, list[AnswerRow]], prompts: Sequence[str]) -> list[AnswerRow]:
    """One answer a prompt: distinct-n falls with the amount of text, so both sides must hold as much."""
    return [side[p][0] for p in prompts]


def length_gain_entries(rows: Sequence[AnswerRow], sft: Sequence[AnswerRow], entries: Sequence[Entry]) -> list[Entry]:
    """Is the gain a matter of length? And is the gain in reward one that this distance from SFT can give?"""
    n = len({r.cluster for r in rows})
    sides = [[(r.cluster, r.tokens, r.proxy) for r in side] for side in (rows, sft)]
    gain, shared = normalised_reward_gain(*sides)
    note = (
        f"share of the reward gained between answers of like length; {shared:.0%} of answers lie in shared buckets"
        if math.isfinite(gain.value)
        else "the reward did not rise, or no answers are of like length"
    )
    out = [estimated("normalised_reward_gain", gain, n, "share", note)]
    by_name = {e.metric: e for e in entries}
    raw, level = by_name.get("win_rate_vs_sft"), by_name.get("lc_win_rate_vs_sft")
    if raw and level:
        note = "length-controlled less raw win rate: what length adds to it counts against it"
        out.append(Entry("lc_minus_raw_win_rate", level.value - raw.value, n, unit="share", note=note))
    return out


def best_of_entries(rows: Sequence[AnswerRow], sft: Sequence[AnswerRow], config) -> list[Entry]:
    """Best-of-n by the same reward model: what one gets without any training, at n times the cost of an answer."""
    entries = []
    own, pool = by_prompt(rows), by_prompt(sft)
    for n in config.evaluation.best_of:
        prompts = [p for p, answers in pool.items() if len(answers) >= n and p in own]
        if not prompts or rows[0].gold is None:
            continue
        best = [best_of_n_expectation([r.proxy for r in pool[p]], [r.gold for r in pool[p]], n) for p in prompts]
        proxy = [best_of_n_expectation([r.proxy for r in pool[p]], [r.proxy for r in pool[p]], n) for p in prompts]
        mine = [float(np.mean([r.gold for r in own[p]])) for p in prompts]
        clusters = clusters_of(own, prompts)
        counted = len(set(clusters))
        entries += [
            estimated(
                f"best_of_{n}_gold",
                cluster_bootstrap(best, clusters),
                counted,
                gold_unit(rows),
                "of SFT answers, chosen by the reward model",
            ),
            estimated(f"best_of_{n}_proxy", cluster_bootstrap(proxy, clusters), counted, "reward"),
            Entry(f"best_of_{n}_kl", best_of_n_kl(n), counted, unit="nats/sequence", note="ln n − (n−1)/n"),
            estimated(f"gold_minus_best_of_{n}", paired_difference(mine, best, clusters), counted, gold_unit(rows)),
        ]
    before, clusters = [float(np.mean([r.proxy for r in pool[p]])) for p in own], clusters_of(own, own)
    entries.append(estimated("sft_proxy", cluster_bootstrap(before, clusters), len(set(clusters)), "reward"))
    return entries


def limit_entry(rows: Sequence[AnswerRow], sft: Sequence[AnswerRow], kl: float) -> Entry:
    """Gain in reward over σ √(2 KL), which no policy can exceed where SFT's rewards are sub-Gaussian with parameter σ.

    From E_π[r] − E_ref[r] ≤ σ √(2 KL(π ‖ ref)) (Donsker & Varadhan); the standard deviation stands in for σ. Above 1 the KL or
    the scoring is wrong.
    """
    gain = float(np.mean([r.proxy for r in rows]) - np.mean([r.proxy for r in sft]))
    limit = float(np.std([r.proxy for r in sft])) * math.sqrt(2 * max(0.0, kl))
    note = "reward gained over σ √(2 KL); above 1 the KL or the scoring is wrong"
    return Entry("gain_over_limit", gain / limit if limit > 0 else math.nan, len({r.cluster for r in rows}), note=note)


def judged_by_prompt(
    own: dict[str, list[AnswerRow]], theirs: dict[str, list[AnswerRow]], prompts: Sequence[str], ask: judges.Ask, progress
) -> tuple[Judged, list[tuple[str, float]]]:
    """A judge's word on both sides' first answers; and (prompt, outcome for `own`) where both orders agree."""
    pairs = [Comparison(own[p][0].prompt, own[p][0].answer, theirs[p][0].answer) for p in prompts]
    with progress(len(pairs), "judging", unit="comparisons") as bar:
        found = judges.judge(pairs, ask, on_done=bar.advance)
    return found, [(p, outcome) for p, outcome in zip(prompts, found.outcomes, strict=True) if outcome is not None]


def judge_entries(rows: Sequence[AnswerRow], sft: Sequence[AnswerRow], judge, ask, progress) -> list[Entry]:
    """A language model's comparison of PPO with SFT, one answer a prompt, in both orders; and how far to trust it."""
    own, theirs = by_prompt(rows), by_prompt(sft)
    prompts = [p for p in own if p in theirs][: judge.prompts]
    found, kept = judged_by_prompt(own, theirs, prompts, ask, progress)
    counted = (
        f"{len(kept)} of {many(len(prompts), 'comparison')}: {found.inconsistent} changed with the order, {found.refused} refused"
    )
    entries = [
        Entry("judge_first_share", found.first_share, len(prompts), unit="share", note="without a bias of place 50 %"),
        Entry("judge_agreement", found.agreement, len(prompts), unit="share", note="with itself, in the other order"),
        Entry("judge_refused_share", found.refused / len(prompts), len(prompts), unit="share"),
    ]
    if not kept:
        none = [Entry(f"judge_{kind}win_rate_vs_sft", math.nan, 0, unit="share", note=counted) for kind in ("", "lc_")]
        return [*none, *entries]
    names, outcomes = zip(*kept, strict=True)
    longer = [own[p][0].tokens - theirs[p][0].tokens for p in names]
    clusters = clusters_of(own, names)
    n, level = len(set(clusters)), length_controlled_win_rate(outcomes, longer, clusters)
    return [
        estimated("judge_win_rate_vs_sft", cluster_share(outcomes, clusters), n, "share", counted),
        estimated("judge_lc_win_rate_vs_sft", level, n, "share", "the same at equal length, by a logistic model"),
        *entries,
    ]
