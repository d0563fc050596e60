"""Statistics of small evaluations: intervals, paired comparisons, best-of-n, calibration.

The unit is the question (`data.quality.question_of`). Two answers to one prompt resemble each other, and so do those to two prompts that begin
with the same question, so they are drawn together or not at all; an interval that treats them as independent is too narrow. Comparisons are
paired: same prompts on both sides.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, stats

Floats = NDArray[np.float64]
DRAWS = 10_000
# Clusters that an interval needs. Five may all lie on one side by chance in 1 of 32 draws, more often than the 2.5 % that an end of a
# 95 % interval leaves out; of two, both lie above 0 in a quarter of all draws, and the bootstrap would call that sure.
FEWEST = 6
_CELLS = 4_000_000  # multinomial counts held at once while bootstrapping, about 32 MB


class Estimate(NamedTuple):
    """A number with its interval; unpacks as (value, low, high)."""

    value: float
    low: float
    high: float


def cluster_bootstrap(
    values: ArrayLike,
    clusters: Sequence[Hashable],
    draws: int = DRAWS,
    seed: int = 0,
    level: float = 0.95,
    fewest: int | None = None,
) -> Estimate:
    """Mean of all values with an expanded percentile interval that resamples whole clusters (Efron & Tibshirani 1993, ch. 13; `end_shares`).

        mean* = Σ_c k_c · sum_c / Σ_c k_c · size_c          k ~ Multinomial(C, 1/C)

    Args:
        values: (n,) finite numbers.
        clusters: (n,) the question to which each value belongs; order and type do not matter.
        draws: bootstrap resamples.
        seed: of the resampling; the same seed gives the same interval.
        level: coverage.
        fewest: clusters that an interval needs; None is `FEWEST`.

    Returns:
        (mean, low, high). With less than `fewest` clusters too little can be said about spread: low and high are NaN.
    """
    numbers, index = _grouped(values, clusters)
    sizes = np.bincount(index).astype(np.float64)
    sums = np.bincount(index, weights=numbers)
    count = len(sizes)
    mean = float(numbers.mean())
    if count < max(2, FEWEST if fewest is None else fewest):
        return Estimate(mean, math.nan, math.nan)
    rng = np.random.default_rng(seed)
    means = np.empty(draws)
    step = max(1, _CELLS // count)
    for start in range(0, draws, step):
        part = min(step, draws - start)
        times = rng.multinomial(count, np.full(count, 1 / count), size=part).astype(np.float64)
        means[start : start + part] = (times @ sums) / (times @ sizes)
    low, high = np.quantile(means, end_shares(count, level))
    return Estimate(mean, float(low), float(high))


def end_shares(clusters: int, level: float = 0.95) -> tuple[float, float]:
    """Which quantiles of the resamples are the ends of an interval: the expanded percentile interval (Hesterberg 2015, section 5.3).

        Φ(−√(n / (n−1)) · t(1 − α/2; n − 1))  and 1 minus that          n: clusters, α = 1 − level

    A resample of n draws spreads as if the variance were divided by n instead of n − 1, and few clusters hardly know their spread; for a mean of
    normal numbers the wider quantiles undo both. With 120 clusters they are 2.3 % and 97.7 % instead of 2.5 % and 97.5 %, with ten 0.9 % and 99.1 %.
    """
    reach = math.sqrt(clusters / (clusters - 1)) * stats.t.ppf((1 + level) / 2, clusters - 1)
    share = float(stats.norm.cdf(-reach))
    return share, 1 - share


def finite_ends(drawn: Floats, clusters: int, level: float) -> Floats:
    """Ends of an interval from resamples (draws, …), some of which may have no finite answer: NaN where there are fewer than `FEWEST` clusters, or
    where more resamples are without one than an end leaves out."""
    finite = np.isfinite(drawn.reshape(len(drawn), -1)).all(1)
    if clusters < FEWEST or (~finite).mean() > (shares := end_shares(clusters, level))[0]:
        return np.full((2, *drawn.shape[1:]), math.nan)
    return np.quantile(drawn[finite], shares, axis=0)


def cluster_share(
    values: ArrayLike, clusters: Sequence[Hashable], draws: int = DRAWS, seed: int = 0, level: float = 0.95
) -> Estimate:
    """`cluster_bootstrap` of a share, numbers in 0 to 1. Where every cluster says the same p, as where all are 0, every resample does, and an
    interval without width would be a lie. None of n clusters said another thing; with w, Wilson's upper end of none in n, for the share that
    do, and each of these as far away as shares can be:

        [p − w p, p + w (1 − p)]

    At 0 and 1 that is Wilson's interval, one trial a cluster.
    """
    found = cluster_bootstrap(values, clusters, draws, seed, level)
    return _with_width(found, clusters, level, 0.0)


def paired_difference(
    a: ArrayLike, b: ArrayLike, clusters: Sequence[Hashable], draws: int = DRAWS, seed: int = 0, level: float = 0.95
) -> Estimate:
    """Mean of aᵢ − bᵢ, where both come from the same prompt, bootstrapped over clusters of them.

    Args:
        a, b: (n,) numbers in the same order; samples of one prompt need not correspond, only their prompts.
        clusters: (n,) the question of each pair.
    """
    left, right = _same_length(a, b)
    return cluster_bootstrap(left - right, clusters, draws, seed, level)


def share_difference(
    a: ArrayLike, b: ArrayLike, clusters: Sequence[Hashable], draws: int = DRAWS, seed: int = 0, level: float = 0.95
) -> Estimate:
    """`paired_difference` of shares, numbers in 0 to 1. Where every cluster's difference is the same c, as where nothing changed, as in
    `cluster_share`; differences of shares lie in −1 to 1:

        [c − w (1 + c), c + w (1 − c)]
    """
    left, right = _same_length(a, b)
    if not ((left >= 0) & (left <= 1) & (right >= 0) & (right <= 1)).all():
        raise ValueError("share_difference: shares must lie in 0 to 1")
    return _with_width(paired_difference(left, right, clusters, draws, seed, level), clusters, level, -1.0)


def wins(a: ArrayLike, b: ArrayLike) -> Floats:
    """1 where a beats b, 1/2 where they tie, 0 where b beats a."""
    left, right = _same_length(a, b)
    return (np.sign(left - right) + 1) / 2


def win_rate(
    a: ArrayLike, b: ArrayLike, clusters: Sequence[Hashable], draws: int = DRAWS, seed: int = 0, level: float = 0.95
) -> Estimate:
    """Share of comparisons that a wins, a tie counted as half a win, bootstrapped over clusters."""
    return cluster_share(wins(a, b), clusters, draws, seed, level)


def wilson(successes: float, n: int, level: float = 0.95) -> Estimate:
    """Share with the score interval of Wilson (1927), for independent trials.

        (p + z²/2n ± z √(p(1−p)/n + z²/4n²)) / (1 + z²/n)

    Args:
        successes: may be fractional, where a tie counts as half.
        n: trials, at least 1.
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"wilson: {successes} successes in {n} trials")
    z = float(stats.norm.ppf((1 + level) / 2))
    share = successes / n
    centre = share + z * z / (2 * n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return Estimate(share, max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale))


def sign_test(differences: ArrayLike) -> float:
    """Two-sided exact p-value that positive and negative differences are equally likely; zeros are left out.

    Give it one difference a prompt: several from one prompt are not independent. Without any nonzero difference p is 1.
    """
    numbers = _finite(differences)
    above, below = int((numbers > 0).sum()), int((numbers < 0).sum())
    return float(stats.binomtest(above, above + below, 0.5).pvalue) if above + below else 1.0


def holm(p_values: ArrayLike) -> Floats:
    """Holm's (1979) adjusted p-values, in the order given.

    p̃₍ᵢ₎ = max_{j ≤ i} min(1, (m − j + 1) p₍ⱼ₎)
    """
    p = _finite(p_values)
    if ((p < 0) | (p > 1)).any():
        raise ValueError("holm: a p-value lies outside [0, 1]")
    order = np.argsort(p)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return adjusted


def best_of_n_expectation(proxy: ArrayLike, gold: ArrayLike, n: int) -> float:
    """Expected gold score of the answer that the proxy likes best among n, from one prompt's pool of N answers.

        Σᵢ C(i−1, n−1) / C(N, n) · gold₍ᵢ₎          gold sorted by proxy, lowest first

    The average over all subsets of size n, so no subset is drawn (Nakano et al. 2021, eq. 4 in this form). Answers with
    equal proxy are chosen from at random: each counts with the mean gold of its tie.

    Args:
        proxy: (N,) what chooses.
        gold: (N,) what is counted.
        n: 1 ≤ n ≤ N. At n = 1 this is the mean of gold.
    """
    chooser, counted = _same_length(proxy, gold)
    pool = len(chooser)
    if not 1 <= n <= pool:
        raise ValueError(f"best-of-{n} needs at least {n} answers to the prompt, got {pool}")
    order = np.argsort(chooser)
    levelled = _level_ties(chooser[order], counted[order])
    subsets = math.comb(pool, n)
    weights = np.array([math.comb(rank, n - 1) / subsets for rank in range(pool)])
    return float(weights @ levelled)


def best_of_n_kl(n: int) -> float:
    """KL(best-of-n ‖ the policy it samples from) in nats: ln n − (n−1)/n. Exact when no two answers tie."""
    return math.log(n) - (n - 1) / n


def ece(confidence: ArrayLike, correct: ArrayLike, bins: int) -> float:
    """Expected calibration error: mean over equal-mass bins of |mean confidence − share correct|, weighted by size.

    Answers of equal confidence share their mean correctness, so that their order cannot matter.

    Args:
        confidence: (n,) stated probability of being right.
        correct: (n,) 1 right, 0 wrong, 1/2 undecided.
        bins: at most n; bin sizes differ by one at most.
    """
    stated, right = _same_length(confidence, correct)
    order = np.argsort(stated)
    stated = stated[order]
    right = _level_ties(stated, right[order])
    gaps = [
        len(chunk) * abs(stated[chunk].mean() - right[chunk].mean())
        for chunk in np.array_split(np.arange(len(stated)), min(bins, len(stated)))
    ]
    return float(sum(gaps) / len(stated))


def pair_ece(margins: ArrayLike) -> float:
    """ECE in ten bins of a Bradley–Terry model on pairs: it claims σ(|margin|) for the answer that it prefers."""
    numbers = _finite(margins)
    return ece(_sigmoid(np.abs(numbers)), wins(numbers, np.zeros_like(numbers)), bins=10)


def fit_temperature(margins: ArrayLike) -> float:
    """The T > 0 that minimises the mean of −ln σ(margin / T) (Guo et al. 2017, for pairs).

    Above 1 the model is too sure. Without any wrong pair the best T is 0; when the margins do not even point the right
    way on average it is infinite. Both are returned as such.
    """
    numbers = _finite(margins)
    if numbers.mean() <= 0:
        return math.inf
    if (numbers >= 0).all():
        return 0.0

    def slope(sharpness: float) -> float:  # −d/ds of the mean loss at T = 1/s; positive while s is too small
        return float((numbers * _sigmoid(-sharpness * numbers)).mean())

    high = 1.0
    while slope(high) > 0:
        high *= 2
    return 1 / float(optimize.brentq(slope, 0.0, high, xtol=1e-12))


def _with_width(found: Estimate, clusters: Sequence[Hashable], level: float, lowest: float) -> Estimate:
    """As found, but where the ends are one number in `lowest` to 1, which all clusters then share: there as `cluster_share` says."""
    if not math.isclose(found.low, found.high, rel_tol=0.0, abs_tol=1e-12):
        return found
    others = wilson(0, len(set(clusters)), level).high
    return Estimate(found.value, found.value - others * (found.value - lowest), found.value + others * (1 - found.value))


def _level_ties(keys: Floats, values: Floats) -> Floats:
    """`values` with each run of equal (sorted) `keys` replaced by the mean of the run."""
    _, group = np.unique(keys, return_inverse=True)
    return (np.bincount(group, weights=values) / np.bincount(group))[group]


def _sigmoid(x: Floats) -> Floats:
    return np.exp(-np.logaddexp(0.0, -x))


def _finite(values: ArrayLike) -> Floats:
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.ndim != 1 or not len(numbers):
        raise ValueError(f"needs a list of at least one number, got shape {numbers.shape}")
    if not np.isfinite(numbers).all():
        raise ValueError(f"{int((~np.isfinite(numbers)).sum())} of {len(numbers)} numbers are not finite")
    return numbers


def _same_length(a: ArrayLike, b: ArrayLike) -> tuple[Floats, Floats]:
    left, right = _finite(a), _finite(b)
    if len(left) != len(right):
        raise ValueError(f"{len(left)} numbers on one side, {len(right)} on the other")
    return left, right


def _grouped(values: ArrayLike, clusters: Sequence[Hashable]) -> tuple[Floats, NDArray[np.intp]]:
    numbers = _finite(values)
    if len(clusters) != len(numbers):
        raise ValueError(f"{len(numbers)} values but {len(clusters)} clusters")
    places: dict[Hashable, int] = {}
    return numbers, np.array([places.setdefault(cluster, len(places)) for cluster in clusters])
