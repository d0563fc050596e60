"""Models fitted to comparisons: Bradley–Terry over several policies, and a win rate with the effect of length taken out.

As in statistics.py the question is the unit: intervals draw whole questions, with all their comparisons, and fit again.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse.csgraph import connected_components

from pipeline.evaluation.statistics import FEWEST, Estimate, Floats, end_shares, finite_ends, sign_test

DRAWS = 2_000
_STEPS = 100
_LONGEST_STEP = 2.0  # nats; Newton's first steps may overshoot where wins are lopsided
_LENGTH_PRIOR = 3.0  # standard deviation of φ in nats; keeps φ finite where length separates wins from losses
_CELLS = 2_000_000  # numbers held at once while bootstrapping, about 16 MB each


def mcnemar(correct_a: ArrayLike, correct_b: ArrayLike) -> float:
    """Two-sided exact p-value that two models are right equally often on the same pairs (McNemar 1947).

    Only pairs on which exactly one of them is right say anything; given these, each is a fair coin under the hypothesis.
    The pairs must be independent: give one pair a prompt, or a single outcome for each list.

    Args:
        correct_a, correct_b: (pairs,) 1 right, 0 wrong.

    Raises:
        ValueError: another number than 0 or 1, or lists of different length.
    """
    a, b = np.asarray(correct_a, dtype=np.float64), np.asarray(correct_b, dtype=np.float64)
    if a.shape != b.shape or not (np.isin(a, (0, 1)).all() and np.isin(b, (0, 1)).all()):
        raise ValueError("mcnemar: needs two equally long lists of 0 (wrong) and 1 (right)")
    return sign_test(a - b)


def bradley_terry(
    comparisons: Sequence[tuple[Hashable, Hashable, float]],
    clusters: Sequence[Hashable],
    draws: int = DRAWS,
    seed: int = 0,
    level: float = 0.95,
) -> dict[Hashable, Estimate]:
    """Strength of each player in nats by maximum likelihood, mean 0 over the players (Bradley & Terry 1952).

        P(i beats j) = σ(sᵢ − sⱼ)

    Args:
        comparisons: (i, j, outcome): 1 where i won, 0 where j won, 1/2 for a tie.
        clusters: the prompt of each comparison.
        draws: bootstrap resamples of the prompts.

    Returns:
        (strength, low, high) by player. The ends are NaN with fewer than `FEWEST` prompts, and where more resamples than the
        interval leaves out have no finite answer.

    Raises:
        ValueError: the players fall into groups of which one never lost to the other; their distance is then infinite.
    """
    if not comparisons or len(comparisons) != len(clusters):
        raise ValueError(f"bradley_terry: {len(comparisons)} comparisons but {len(clusters)} clusters")
    players = list(dict.fromkeys(name for i, j, _ in comparisons for name in (i, j)))
    place = {name: k for k, name in enumerate(players)}
    prompts = {cluster: k for k, cluster in enumerate(dict.fromkeys(clusters))}
    won = np.zeros((len(prompts), len(players), len(players)))
    for (i, j, outcome), cluster in zip(comparisons, clusters, strict=True):
        if i == j or not 0 <= outcome <= 1:
            raise ValueError(f"bradley_terry: {i!r} against {j!r} with outcome {outcome} is no comparison")
        won[prompts[cluster], place[i], place[j]] += outcome
        won[prompts[cluster], place[j], place[i]] += 1 - outcome
    total = won.sum(0)
    groups, member = connected_components(total > 0, directed=True, connection="strong")
    if groups > 1:
        first = [str(name) for name in players if member[place[name]] == member[0]]
        raise ValueError(
            f"bradley_terry: between {', '.join(first)} and the others one side never lost, so their distance is infinite. "
            "Compare more answers, or fewer players."
        )
    strengths = _strengths(total[None])[0]
    ends = finite_ends(_drawn_strengths(won, draws, seed), len(prompts), level)
    return {name: Estimate(float(strengths[k]), float(ends[0, k]), float(ends[1, k])) for k, name in enumerate(players)}


def elo(strength: float) -> float:
    """A Bradley–Terry strength in nats on the scale of Elo: 400 points are odds of 10 to 1."""
    return 400 * strength / math.log(10)


def length_controlled_win_rate(
    outcomes: ArrayLike,
    length_differences: ArrayLike,
    clusters: Sequence[Hashable],
    draws: int = DRAWS,
    seed: int = 0,
    level: float = 0.95,
) -> Estimate:
    """The win rate that two answers of equal length would have (Dubois et al. 2024, without their term for the prompt).

        logit P(win) = θ + φ · tanh(Δ / sd(Δ))          reported: σ(θ), at Δ = 0

    Fitted by maximum likelihood with φ ~ N(0, 3²), which only matters where length alone separates wins from losses. It
    takes out what length explains whether or not length is what judges reward, so report it beside the raw win rate.

    Args:
        outcomes: (n,) 1 won, 0 lost, 1/2 a tie.
        length_differences: (n,) own length minus the other's, in tokens or words.
        clusters: (n,) the question of each comparison.
    """
    won, lengths = np.asarray(outcomes, dtype=np.float64), np.asarray(length_differences, dtype=np.float64)
    if won.ndim != 1 or not len(won) or won.shape != lengths.shape or len(won) != len(clusters):
        raise ValueError("length_controlled_win_rate: needs as many outcomes as length differences and clusters")
    if not (((won >= 0) & (won <= 1)).all() and np.isfinite(lengths).all()):
        raise ValueError("length_controlled_win_rate: outcomes must lie in 0 to 1, length differences must be finite")
    spread = lengths.std()
    x = np.tanh(lengths / spread) if spread > 0 else np.zeros_like(lengths)
    value = float(_intercepts(won, x, np.ones((1, len(won))))[0])
    places = {cluster: k for k, cluster in enumerate(dict.fromkeys(clusters))}
    if len(places) < FEWEST:
        return Estimate(value, math.nan, math.nan)
    index = np.array([places[cluster] for cluster in clusters])
    rng = np.random.default_rng(seed)
    found = []
    for part in _parts(draws, len(won)):
        times = rng.multinomial(len(places), np.full(len(places), 1 / len(places)), size=part)
        found.append(_intercepts(won, x, times[:, index].astype(np.float64)))
    low, high = np.quantile(np.concatenate(found), end_shares(len(places), level))
    return Estimate(value, float(low), float(high))


def _drawn_strengths(won: Floats, draws: int, seed: int) -> Floats:
    """(draws, players) strengths of resampled prompts; a row is NaN where maximum likelihood has no finite answer."""
    rng = np.random.default_rng(seed)
    count, players = won.shape[0], won.shape[1]
    found = []
    for part in _parts(draws, max(count, players * players)):
        times = rng.multinomial(count, np.full(count, 1 / count), size=part).astype(np.float64)
        resampled = np.einsum("dc,cij->dij", times, won)
        strengths = np.full((part, players), math.nan)
        whole = [connected_components(w > 0, directed=True, connection="strong")[0] == 1 for w in resampled]
        if any(whole):
            strengths[whole] = _strengths(resampled[whole])
        found.append(strengths)
    return np.concatenate(found)


def _strengths(won: Floats) -> Floats:
    """(d, players) maximum-likelihood strengths of d win matrices (d, players, players), each with mean 0, by Newton."""
    played = won + won.transpose(0, 2, 1)
    players = won.shape[1]
    strengths = np.zeros(won.shape[:2])
    for _ in range(_STEPS):
        p = _sigmoid(strengths[:, :, None] - strengths[:, None, :])
        slope = (won - played * p).sum(2)
        weight = played * p * (1 - p)
        # The likelihood does not see a common shift; 1 in every place makes the mean 0 and the matrix invertible.
        bend = weight.sum(2)[:, :, None] * np.eye(players) - weight + 1.0
        step = np.clip(np.linalg.solve(bend, slope[:, :, None])[:, :, 0], -_LONGEST_STEP, _LONGEST_STEP)
        strengths = strengths + step
        if np.abs(step).max() < 1e-12:
            break
    return strengths - strengths.mean(1, keepdims=True)


def _intercepts(won: Floats, x: Floats, weights: Floats) -> Floats:
    """(d,) σ(θ) of the length model for each row of weights (d, n), by Newton in (θ, φ)."""
    theta, phi = np.zeros(len(weights)), np.zeros(len(weights))
    for _ in range(_STEPS):
        p = _sigmoid(theta[:, None] + phi[:, None] * x)
        off, curve = weights * (won - p), weights * p * (1 - p)
        slope_t, slope_p = off.sum(1), off @ x - phi / _LENGTH_PRIOR**2
        tt, tp, pp = curve.sum(1) + 1e-9, curve @ x, curve @ (x * x) + 1 / _LENGTH_PRIOR**2
        scale = tt * pp - tp * tp
        step_t = np.clip((pp * slope_t - tp * slope_p) / scale, -_LONGEST_STEP, _LONGEST_STEP)
        step_p = np.clip((tt * slope_p - tp * slope_t) / scale, -_LONGEST_STEP, _LONGEST_STEP)
        # Where every comparison is won θ has no end; beyond this σ(θ) is 1 anyway.
        moved = np.clip(theta + step_t, -40, 40) - theta
        theta, phi = theta + moved, phi + step_p
        if max(np.abs(moved).max(), np.abs(step_p).max()) < 1e-12:
            break
    return _sigmoid(theta)


def _parts(draws: int, width: int) -> list[int]:
    """Sizes of the portions in which `draws` rows of `width` numbers are made."""
    size = max(1, _CELLS // width)
    return [min(size, draws - start) for start in range(0, draws, size)]


def _sigmoid(x: Floats) -> Floats:
    return np.exp(-np.logaddexp(0.0, -x))
