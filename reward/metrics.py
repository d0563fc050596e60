"""Figures of a reward model, from scores alone."""

from __future__ import annotations

from collections.abc import Sequence


def pair_outcomes(scores: Sequence[float], pairs: Sequence[tuple[int, int]]) -> list[float]:
    """For each (better, worse) pair: 1 when the scores agree, 0 when they do not, 1/2 when they are equal."""
    return [(scores[b] > scores[w]) + 0.5 * (scores[b] == scores[w]) for b, w in pairs]


def pairs_by(values: Sequence[float], *, margin: float = 1e-9) -> list[tuple[int, int]]:
    """All (better, worse) index pairs that `values` tell apart by more than `margin`."""
    return [(i, j) for i in range(len(values)) for j in range(len(values)) if values[i] - values[j] > margin]


def margins(scores: Sequence[float], pairs: Sequence[tuple[int, int]]) -> list[float]:
    """s_better − s_worse of each pair, in reward units."""
    return [scores[b] - scores[w] for b, w in pairs]
