"""Self-BLEU: how much the answers of one policy resemble each other (Zhu et al. 2018, Texygen)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from pipeline.evaluation.answers import AnswerRow
from pipeline.evaluation.cards import Entry, estimated
from pipeline.evaluation.metrics import words
from pipeline.evaluation.statistics import cluster_bootstrap, paired_difference

ORDER = 4
# Answers compared on a card, at most: self-BLEU rises with their number, and the time with their words.
MOST = 200
# In place of no match among the n-grams of an order: method 1 of Chen & Cherry (2014), with their ε.
EPSILON = 0.1


def self_bleu(texts: Sequence[str], order: int = ORDER) -> list[float]:
    """BLEU of each text with all the others as its references (Papineni et al. 2002), in 0 to 1; 1 where another says the same.

        BLEUᵢ = BP · exp(Σₙ ln pₙ / N)          pₙ = Σ_g min(cᵢ(g), max_{j≠i} cⱼ(g)) / Σ_g cᵢ(g)
        BP = min(1, exp(1 − r/|i|))             r: the length among the others that is nearest, the shorter of two

    g runs over the n-grams of words. Where none of an order matches, ε stands for the count; where not even a word matches, or
    there is none, BLEU is 0. A text of fewer than N words cannot reach 1. The mean is self-BLEU: the more texts, the higher, so
    compare equal numbers.

    The time is linear in the words: the two highest counts of an n-gram say what the highest among the others is.

    Raises:
        ValueError: fewer than two texts.
    """
    if len(texts) < 2:
        raise ValueError(f"self_bleu: {len(texts)} texts; at least 2 are needed")
    tokens = [words(text) for text in texts]
    logs = [0.0] * len(texts)
    for n in range(1, order + 1):
        counts = [Counter(zip(*(found[start:] for start in range(n)), strict=False)) for found in tokens]
        highest = _two_highest(counts)
        for i, own in enumerate(counts):
            matched = sum(min(count, _among_others(highest[gram], i)) for gram, count in own.items())
            total = max(1, sum(own.values()))
            if matched:
                logs[i] += math.log(matched / total) / order
            else:
                logs[i] += math.log(EPSILON / total) / order if n > 1 else -math.inf
    lengths = Counter(map(len, tokens))
    return [math.exp(log) * _brevity(len(found), lengths) for log, found in zip(logs, tokens, strict=True)]


def self_bleu_entry(rows: Sequence[AnswerRow]) -> Entry:
    """Self-BLEU of one answer a prompt; NaN where there are fewer than two prompts."""
    first = _first_answers(rows)
    prompts = _spread_out(list(first))
    if len(prompts) < 2:
        return Entry("self_bleu", math.nan, len(prompts), note="needs answers to two prompts")
    clusters = [first[p].cluster for p in prompts]
    found = cluster_bootstrap(self_bleu([first[p].answer for p in prompts]), clusters)
    note = f"how alike {len(prompts)} answers to as many prompts are, each against the others"
    return estimated("self_bleu", found, len(set(clusters)), note=note)


def self_bleu_change(rows: Sequence[AnswerRow], other: Sequence[AnswerRow], name: str) -> Entry:
    """How much more alike a policy's answers are than another's, over the same prompts."""
    own, theirs = _first_answers(rows), _first_answers(other)
    prompts = _spread_out([p for p in own if p in theirs])
    metric = f"self_bleu_minus_{name}"
    if len(prompts) < 2:
        return Entry(metric, math.nan, len(prompts), note="needs answers to two prompts")
    clusters = [own[p].cluster for p in prompts]
    found = paired_difference(*(self_bleu([side[p].answer for p in prompts]) for side in (own, theirs)), clusters)
    return estimated(metric, found, len(set(clusters)), note=f"{len(prompts)} answers on both sides, to the same prompts")


def _first_answers(rows: Sequence[AnswerRow]) -> dict[str, AnswerRow]:
    """One answer a prompt: two answers to one prompt resemble each other in any policy."""
    return {row.prompt_id: row for row in rows if row.sample == 0}


def _spread_out(prompts: Sequence[str]) -> list[str]:
    """At most MOST at even steps: the same ones on every call, and as many on every card of a run."""
    taken = min(MOST, len(prompts))
    return [prompts[k * len(prompts) // taken] for k in range(taken)]


def _two_highest(counts: Iterable[Counter]) -> dict[tuple[str, ...], tuple[int, int, int]]:
    """By n-gram: its highest count in a text, which text that is, and the highest count in any other."""
    found: dict[tuple[str, ...], tuple[int, int, int]] = {}
    for i, own in enumerate(counts):
        for gram, count in own.items():
            best, holder, second = found.get(gram, (0, -1, 0))
            found[gram] = (count, i, best) if count > best else (best, holder, max(second, count))
    return found


def _among_others(highest: tuple[int, int, int], i: int) -> int:
    best, holder, second = highest
    return second if holder == i else best


def _brevity(length: int, lengths: Counter) -> float:
    others = (n for n, texts in lengths.items() if texts > (n == length))
    nearest = min(others, key=lambda n: (abs(n - length), n))
    return 1.0 if length > nearest else math.exp(1 - nearest / length) if length else 0.0
