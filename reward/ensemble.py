"""One score from several reward models, against the errors that only one of them makes."""

from __future__ import annotations

from torch import Tensor


def combine_ensemble(member_scores: Tensor, *, how: str, coef: float) -> Tensor:
    """(m, b) → (b,): one score from m reward models, each in its own frozen scale (Coste et al. 2023).

    mean: the average.  worst: the lowest member (WCO).  uncertainty: mean − coef · variance between members (UWO).

    Raises:
        ValueError: `how` is none of them.
    """
    if how == "mean":
        return member_scores.mean(0)
    if how == "worst":
        return member_scores.min(0).values
    if how == "uncertainty":
        return member_scores.mean(0) - coef * member_scores.var(0, correction=0)
    raise ValueError(f"unknown way to combine {how!r}; there are mean, worst, uncertainty")
