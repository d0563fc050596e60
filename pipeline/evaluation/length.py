"""How much of what was gained is length? (Singhal et al. 2023; Dubois et al. 2024)"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import numpy as np

from pipeline.evaluation.statistics import DRAWS, Estimate, Floats, cluster_share, finite_ends

BUCKET = 20
_CELLS = 4_000_000


def normalised_reward_gain(
    own: Sequence[tuple[Hashable, int, float]],
    other: Sequence[tuple[Hashable, int, float]],
    *,
    width: int = BUCKET,
    draws: int = DRAWS,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[Estimate, float]:
    """Share of a gain in reward that is there between answers of like length (Singhal et al. 2023, section 3).

        NRG = [Σ_b n_b (r̄_b − r̄'_b) / Σ_b n_b] / (r̄ − r̄')

    over buckets b of `width` tokens that hold answers of both policies, n_b of both together. 1: the gain has nothing to do
    with length. 0: answers of one length are worth what they were, and the gain is that there are more of the dear length.

    Args:
        own, other: (question, tokens, reward) of every answer.
        draws: bootstrap resamples of the questions.

    Returns:
        (value, low, high) and the share of answers that lie in shared buckets. All of it is NaN where the reward did not rise or
        no bucket is shared; the ends are NaN where more resamples than the interval leaves out have no such ratio.
    """
    prompts = {p: k for k, p in enumerate(dict.fromkeys(p for p, _, _ in [*own, *other]))}
    buckets = 1 + max(tokens // width for _, tokens, _ in [*own, *other])
    sums, counts = (np.zeros((2, len(prompts), buckets)) for _ in range(2))
    for side, answers in enumerate((own, other)):
        for prompt, tokens, reward in answers:
            sums[side, prompts[prompt], tokens // width] += reward
            counts[side, prompts[prompt], tokens // width] += 1
    ones = np.ones((1, len(prompts)))
    value, shared = (float(x[0]) for x in _ratio(ones, sums, counts))
    if not math.isfinite(value):
        return Estimate(value, math.nan, math.nan), shared
    rng = np.random.default_rng(seed)
    drawn = np.empty(draws)
    step = max(1, _CELLS // (len(prompts) + 4 * buckets))
    for start in range(0, draws, step):
        part = min(step, draws - start)
        times = rng.multinomial(len(prompts), np.full(len(prompts), 1 / len(prompts)), size=part).astype(np.float64)
        drawn[start : start + part] = _ratio(times, sums, counts)[0]
    low, high = finite_ends(drawn, len(prompts), level)
    return Estimate(value, float(low), float(high)), shared


def _ratio(times: Floats, sums: Floats, counts: Floats) -> tuple[Floats, Floats]:
    """NRG and the share of answers in shared buckets for each row of prompt weights (draws, prompts)."""
    total, number = times @ sums, times @ counts
    both = (number > 0).all(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        within = np.where(both, total[0] / number[0] - total[1] / number[1], 0.0)
        weight = np.where(both, number.sum(0), 0.0)
        gain = total[0].sum(-1) / number[0].sum(-1) - total[1].sum(-1) / number[1].sum(-1)
        found = (within * weight).sum(-1) / weight.sum(-1) / gain
        shared = weight.sum(-1) / number.sum((0, -1))
    return np.where((gain > 0) & both.any(-1), found, math.nan), shared


def within_prompt_correlation(
    values: Sequence[Sequence[float]], lengths: Sequence[Sequence[float]], clusters: Sequence[Hashable], draws: int = 2_000
) -> Estimate:
    """Pearson's correlation of value and length among answers to one prompt, all prompts together, bootstrapped over clusters of them.

        Σ_p Σ_i (v − v̄_p)(ℓ − ℓ̄_p) / √(Σ Σ (v − v̄_p)² · Σ Σ (ℓ − ℓ̄_p)²)

    Args:
        values, lengths: for each prompt, one number an answer.
        clusters: of each prompt, what it is drawn with.

    Returns:
        (value, low, high). NaN where values or lengths never differ within a prompt; the ends as in `finite_ends`.
    """
    moments: dict[Hashable, Floats] = {}
    for v, n, cluster in zip(values, lengths, clusters, strict=True):
        a, b = np.asarray(v, dtype=np.float64), np.asarray(n, dtype=np.float64)
        a, b = a - a.mean(), b - b.mean()
        moments[cluster] = moments.get(cluster, 0.0) + np.array([a @ b, a @ a, b @ b])
    table, count = np.array(list(moments.values())), len(moments)
    rng = np.random.default_rng(0)
    times = rng.multinomial(count, np.full(count, 1 / count), size=draws).astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        cross, own, other = (times @ table).T
        drawn = cross / np.sqrt(own * other)
        whole = table.sum(0)
        value = float(whole[0] / np.sqrt(whole[1] * whole[2]))
    low, high = finite_ends(drawn, count, 0.95)
    return Estimate(value, float(low), float(high))


def accuracy_by_length(
    outcomes: Sequence[float], longer: Sequence[float], clusters: Sequence[Hashable]
) -> tuple[tuple[Estimate, int], ...]:
    """Share right in each third of the pairs by (length of the better − length of the worse answer), shortest first.

    Pairs of one difference stay in one third, so the thirds may differ in size; with the number of clusters behind each.
    """
    outcomes, longer = np.asarray(outcomes, dtype=np.float64), np.asarray(longer, dtype=np.float64)
    low, high = np.quantile(longer, [1 / 3, 2 / 3], method="inverted_cdf")
    third = np.where(longer <= low, 0, np.where(longer <= high, 1, 2))
    found = []
    for k in range(3):
        rows = np.flatnonzero(third == k)
        names = [clusters[i] for i in rows]
        estimate = cluster_share(outcomes[rows], names) if len(rows) else Estimate(math.nan, math.nan, math.nan)
        found.append((estimate, len(set(names))))
    return tuple(found)
