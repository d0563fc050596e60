"""Best-of-n curves with the unbiased estimator, and the form that Gao et al. (2022) fit to them."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.evaluation.statistics import best_of_n_expectation, best_of_n_kl, end_shares

Floats = NDArray[np.float64]
SIZES = (1, 2, 4, 8, 16, 32, 64)


def curve(chooser: ArrayLike, counted: ArrayLike, sizes: tuple[int, ...] = SIZES) -> Floats:
    """(prompts, sizes): expected `counted` of the answer that `chooser` likes best among n, for every prompt and n.

    Args:
        chooser, counted: (prompts, answers).
    """
    rows = zip(np.asarray(chooser, dtype=float), np.asarray(counted, dtype=float), strict=True)
    return np.array([[best_of_n_expectation(c, g, n) for n in sizes] for c, g in rows])


def distances(sizes: tuple[int, ...] = SIZES) -> Floats:
    """d = √KL of best-of-n, in √nats."""
    return np.sqrt([best_of_n_kl(n) for n in sizes])


def fit(d: Floats, gain: Floats) -> tuple[float, float]:
    """(α, β) of gain = d (α − β d) by least squares (Gao et al. 2022, eq. for best-of-n). β > 0 bends downwards; the peak is at α / 2β.

    Args:
        d: (k,) distances, gain: (k,) gold above that of one answer at random.
    """
    (alpha, minus_beta), *_ = np.linalg.lstsq(np.stack([d, d * d], axis=1), gain, rcond=None)
    return float(alpha), float(-minus_beta)


def fit_with_intervals(
    gains: Floats, d: Floats, draws: int = 2000, seed: int = 0
) -> dict[str, tuple[float, float, float]]:
    """α and β with 95 % intervals that resample prompts; `gains` is (prompts, k)."""
    rng = np.random.default_rng(seed)
    found = np.array([fit(d, gains[rng.integers(len(gains), size=len(gains))].mean(0)) for _ in range(draws)])
    low, high = np.quantile(found, end_shares(len(gains)), axis=0)
    best = fit(d, gains.mean(0))
    return {name: (best[i], float(low[i]), float(high[i])) for i, name in enumerate(("alpha", "beta"))}
