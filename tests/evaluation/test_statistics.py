import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pipeline.evaluation import statistics as s

# --- bootstrap -------------------------------------------------------------------------------------------------------


def exact_bootstrap_quantiles(groups, level):
    """Quantiles of the mean over all C**C equally likely resamples of C clusters, at the tails of an expanded interval.

    By Student's table t = 1.6377 (0.9; 3) and 1.8856 (0.9; 2), times √(4/3) and √(3/2): the normal's tails beyond 1.8911 and 2.3094.
    """
    means = sorted(
        Fraction(sum(sum(group) for group in drawn)) / sum(len(group) for group in drawn)
        for drawn in itertools.product(groups, repeat=len(groups))
    )
    tail = {(4, 0.8): 0.02931, (3, 0.8): 0.01046}[len(groups), level]
    return tuple(float(means[math.floor(share * len(means))]) for share in (tail, 1 - tail))


@pytest.mark.usefixtures("few_prompts")
def test_the_bootstrap_interval_is_that_of_all_resamples_enumerated():
    groups = [[0, 1], [2], [7, 7, 8], [20, 1]]  # 256 resamples
    values = [v for group in groups for v in group]
    clusters = [name for name, group in zip("abcd", groups, strict=True) for _ in group]
    mean, low, high = s.cluster_bootstrap(values, clusters, draws=200_000, seed=3, level=0.8)
    assert mean == pytest.approx(46 / 8)
    assert (low, high) == pytest.approx(exact_bootstrap_quantiles(groups, 0.8), abs=1e-12)


def test_the_bootstrap_of_single_values_agrees_with_the_normal_interval():
    values = np.random.default_rng(5).normal(size=400)
    mean, low, high = s.cluster_bootstrap(values, range(400), draws=20_000)
    half = 1.959964 * values.std() / 20
    # The 2.5 % quantile of 20,000 normal draws has a standard error of √(.025·.975/20000)/φ(1.96) = 0.019 sd.
    assert (low, high) == pytest.approx((mean - half, mean + half), abs=5 * 0.019 * half / 1.96)


def test_answers_repeated_within_a_prompt_add_no_certainty():
    values = np.random.default_rng(0).normal(size=40)
    once = s.cluster_bootstrap(values, list(range(40)))
    nine_times = s.cluster_bootstrap(np.repeat(values, 9), list(np.repeat(np.arange(40), 9)))
    assert nine_times == pytest.approx(once)


def test_the_interval_depends_on_the_seed_only():
    values, clusters = np.random.default_rng(8).normal(size=40), list(range(20)) * 2
    assert s.cluster_bootstrap(values, clusters, 500, 1) == s.cluster_bootstrap(values, clusters, 500, 1)
    assert s.cluster_bootstrap(values, clusters, 500, 1) != s.cluster_bootstrap(values, clusters, 500, 2)


@pytest.mark.usefixtures("few_prompts")
def test_many_draws_in_parts_equal_the_enumeration_too(monkeypatch):
    monkeypatch.setattr(s, "_CELLS", 40)
    groups = [[0], [1], [5]]
    _, low, high = s.cluster_bootstrap([0, 1, 5], "abc", draws=20_000, level=0.8)
    assert (low, high) == pytest.approx(exact_bootstrap_quantiles(groups, 0.8), abs=1e-12)


def test_one_prompt_gives_a_mean_and_no_interval():
    mean, low, high = s.cluster_bootstrap([1, 2, 3], ["p", "p", "p"])
    assert mean == 2
    assert math.isnan(low)
    assert math.isnan(high)


def test_who_asks_for_an_interval_of_few_prompts_gets_it_and_of_one_nobody():
    low, high = s.cluster_bootstrap([1, 2, 4], "abc", fewest=3)[1:]
    assert 1 <= low < high <= 4
    assert math.isnan(s.cluster_bootstrap([1, 2, 4], "abc", fewest=4).low)
    assert math.isnan(s.cluster_bootstrap([1, 2], "aa", fewest=1).low)


def test_nine_intervals_in_ten_hold_the_truth_at_level_ninety():
    rng = np.random.default_rng(11)
    clusters = np.repeat(np.arange(60), 3)
    hits = 0
    for trial in range(300):
        values = (rng.normal(size=60)[:, None] + rng.normal(size=(60, 3))).ravel()
        _, low, high = s.cluster_bootstrap(values, clusters.tolist(), draws=400, seed=trial, level=0.9)
        hits += low <= 0 <= high
    # Binomial(300, .9): sd 5.2, so 250 is 3.8 sd below 270; treating the 180 values as independent covers about 78 %.
    assert hits >= 250


def test_ten_prompts_hold_the_truth_as_often_as_they_say():
    rng, hits = np.random.default_rng(12), 0
    for trial in range(600):
        _, low, high = s.cluster_bootstrap(rng.normal(size=10), range(10), draws=1000, seed=trial)
        hits += low <= 0 <= high
    # Binomial(600, .95): sd 5.3. A plain percentile interval holds it in about 90 % of draws, 540.
    assert 570 - 4 * 5.3 <= hits <= 570 + 4 * 5.3


@pytest.mark.parametrize(("clusters", "low"), [(6, 0.00243), (10, 0.00856), (120, 0.02338), (10**6, 0.025)])
def test_the_ends_are_further_out_where_prompts_are_few(clusters, low):
    """Φ(−√(n/(n−1)) t) by hand: t(0.975) = 2.5706 for 5, 2.2622 for 9, 1.9801 for 119 degrees of freedom."""
    assert s.end_shares(clusters) == pytest.approx((low, 1 - low), abs=2e-5)


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [1.0, math.inf], [[1.0], [2.0]]])
def test_numbers_that_are_none_are_refused(values):
    with pytest.raises(ValueError, match="number"):
        s.cluster_bootstrap(values, ["a"] * len(values))


def test_a_missing_cluster_is_refused():
    with pytest.raises(ValueError, match="2 values but 1 clusters"):
        s.cluster_bootstrap([1, 2], ["a"])


# --- comparisons -----------------------------------------------------------------------------------------------------


def test_a_paired_difference_does_not_see_what_both_sides_share():
    difficulty = np.random.default_rng(2).normal(scale=100, size=30)
    value, low, high = s.paired_difference(difficulty + 1, difficulty, list(range(30)))
    assert (value, low, high) == pytest.approx((1, 1, 1))


def test_a_paired_difference_is_antisymmetric_in_its_mean():
    a, b = [3, 1, 4, 1], [2, 7, 1, 8]
    assert s.paired_difference(a, b, "wxyz").value == -s.paired_difference(b, a, "wxyz").value == -2.25


def test_pairs_of_different_length_are_refused():
    with pytest.raises(ValueError, match="2 numbers on one side, 1 on the other"):
        s.paired_difference([1, 2], [1], ["a", "b"])


def test_a_tie_is_half_a_win():
    assert s.wins([1, 2, 3], [0, 2, 4]).tolist() == [1, 0.5, 0]
    assert s.win_rate([1, 2, 3, 9], [0, 2, 4, 1], "abcd").value == 0.625


def test_anything_against_itself_wins_half():
    x = np.random.default_rng(1).normal(size=50)
    assert s.win_rate(x, x, list(range(50))).value == 0.5


@pytest.mark.parametrize(("successes", "n"), [(0, 1), (0, 20), (7, 20), (20, 20), (311, 462)])
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_wilson_is_scipys(successes, n, level):
    expected = stats.binomtest(successes, n).proportion_ci(level, method="wilson")
    assert s.wilson(successes, n, level) == pytest.approx((successes / n, expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (1, 0), (-1, 5), (6, 5)])
def test_wilson_refuses_impossible_counts(successes, n):
    with pytest.raises(ValueError, match="successes"):
        s.wilson(successes, n)


@pytest.mark.parametrize(("above", "below"), [(0, 1), (5, 0), (8, 3), (6, 6), (3, 17)])
def test_the_sign_test_counts_the_binomial_tail(above, below):
    n = above + below
    tail = sum(math.comb(n, k) for k in range(max(above, below), n + 1)) / 2**n
    p = s.sign_test([1.5] * above + [-0.1] * below + [0.0] * 4)
    assert p == pytest.approx(min(1.0, 2 * tail))


def test_the_sign_test_without_differences_says_nothing():
    assert s.sign_test([0.0, 0.0]) == 1.0


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
@settings(max_examples=60, deadline=None)
def test_holm_is_the_closed_bonferroni_test(p):
    """p̃ᵢ is the largest Bonferroni p-value |S|·min(S) of any set S that holds i."""
    indices = range(len(p))
    sets = [c for size in range(1, len(p) + 1) for c in itertools.combinations(indices, size)]
    expected = [min(1.0, max(len(c) * min(p[j] for j in c) for c in sets if i in c)) for i in indices]
    assert s.holm(p) == pytest.approx(expected)


def test_holm_refuses_what_is_no_probability():
    with pytest.raises(ValueError, match="outside"):
        s.holm([0.2, 1.1])


# --- best of n -------------------------------------------------------------------------------------------------------


def best_of_n_by_enumeration(proxy, gold, n):
    """Mean over all subsets of n; a tie for the best proxy is resolved by each of the tied answers equally."""
    chosen = []
    for subset in itertools.combinations(range(len(proxy)), n):
        best = max(proxy[i] for i in subset)
        tied = [gold[i] for i in subset if proxy[i] == best]
        chosen.append(sum(tied) / len(tied))
    return sum(chosen) / len(chosen)


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_best_of_n_is_the_mean_over_all_subsets(data):
    pool = data.draw(st.lists(st.tuples(st.integers(0, 3), st.integers(-9, 9)), min_size=1, max_size=7))
    n = data.draw(st.integers(1, len(pool)))
    proxy, gold = zip(*pool, strict=True)
    assert s.best_of_n_expectation(proxy, gold, n) == pytest.approx(best_of_n_by_enumeration(proxy, gold, n), abs=1e-9)


def test_best_of_one_is_the_mean_and_best_of_all_is_the_favourite():
    proxy, gold = [0.1, 0.9, 0.5], [4.0, 1.0, 7.0]
    assert s.best_of_n_expectation(proxy, gold, 1) == pytest.approx(4.0)
    assert s.best_of_n_expectation(proxy, gold, 3) == pytest.approx(1.0)


@pytest.mark.parametrize(("n", "expected"), [(2, 0.564), (4, 1.029), (8, 1.424), (16, 1.766), (64, 2.344)])
def test_best_of_n_of_a_normal_score_gains_the_expected_maximum(n, expected):
    quantiles = stats.norm.ppf((np.arange(20_000) + 0.5) / 20_000)
    assert s.best_of_n_expectation(quantiles, quantiles, n) == pytest.approx(expected, abs=2e-3)


def test_best_of_n_needs_n_answers():
    with pytest.raises(ValueError, match="best-of-3 needs at least 3 answers to the prompt, got 2"):
        s.best_of_n_expectation([1, 2], [1, 2], 3)
    with pytest.raises(ValueError, match="best-of-0"):
        s.best_of_n_expectation([1, 2], [1, 2], 0)


@pytest.mark.parametrize(("n", "kl"), [(1, 0), (2, 0.193), (4, 0.636), (8, 1.204), (16, 1.835), (1000, 5.909)])
def test_best_of_n_kl_is_the_published_table(n, kl):
    assert s.best_of_n_kl(n) == pytest.approx(kl, abs=5e-4)


@pytest.mark.parametrize("n", [2, 5])
def test_best_of_n_kl_is_the_kl_of_the_density_of_the_maximum(n):
    u = (np.arange(200_000) + 0.5) / 200_000  # rank of the chosen answer: density n·uⁿ⁻¹ against 1
    density = n * u ** (n - 1)
    assert s.best_of_n_kl(n) == pytest.approx(float((density * np.log(density)).mean()), abs=1e-4)


# --- reward model ----------------------------------------------------------------------------------------------------


def test_ece_by_hand_in_two_bins():
    # sorted: .6 (right), .7 (wrong) | .8 (right), .9 (right): |.65 − .5|·2/4 + |.85 − 1|·2/4 = .15
    assert s.ece([0.9, 0.6, 0.8, 0.7], [1, 1, 1, 0], bins=2) == pytest.approx(0.15)


def test_ece_of_an_honest_model_is_zero():
    confidence = [0.25] * 4 + [0.75] * 4
    assert s.ece(confidence, [1, 0, 0, 0, 1, 1, 1, 0], bins=2) == pytest.approx(0)


def test_ece_does_not_depend_on_the_order_of_equal_confidences():
    correct = [1, 1, 1, 0, 0, 0, 1, 0]
    found = {round(s.ece([0.5] * 8, rotated, bins=3), 12) for k in range(8) if (rotated := correct[k:] + correct[:k])}
    assert found == {0.0}


def test_ece_has_equal_mass_bins():
    # equal-width bins over [0, 1] would put the first nine into one bin and find no gap there
    confidence = [0.01 * k for k in range(1, 10)] + [0.99]
    assert s.ece(confidence, [0] * 9 + [1], bins=10) == pytest.approx((sum(confidence[:9]) + 0.01) / 10)


def test_pair_ece_of_even_margins_by_hand():
    # σ(ln 3) = .75 is claimed, half of the pairs are right
    assert s.pair_ece([math.log(3), -math.log(3)]) == pytest.approx(0.25)
    # Twenty margins are ten bins of two neighbours by size: one of each two is right, so that half is what each bin has.
    margins = [0.1 * k * (-1) ** k for k in range(1, 21)]
    claimed = [1 / (1 + math.exp(-abs(m))) for m in margins]
    assert s.pair_ece(margins) == pytest.approx(sum(claimed) / 20 - 0.5)
    # All right but the two smallest, which a bin of their own shows as they are.
    odd = [abs(m) if k > 1 else -abs(m) for k, m in enumerate(margins)]
    assert s.pair_ece(odd) == pytest.approx((sum(claimed[:2]) + sum(1 - c for c in claimed[2:])) / 20)
    # With less than ten bins the two would share one with others, and some of the gap would be averaged away.


def test_the_temperature_of_a_model_twice_too_sure_is_two():
    # margin 2·ln 3 on every pair, right in 3 of 4: the honest margin is ln 3
    margin = 2 * math.log(3)
    assert s.fit_temperature([margin, margin, margin, -margin]) == pytest.approx(2.0)


def test_the_temperature_is_the_best_of_a_grid():
    rng = np.random.default_rng(4)
    margins = rng.normal(1.0, 3.0, size=300)
    grid = np.linspace(0.2, 20, 20_000)
    losses = [np.logaddexp(0, -margins / t).mean() for t in grid]
    assert s.fit_temperature(margins) == pytest.approx(grid[int(np.argmin(losses))], abs=2e-3)


def test_the_temperature_of_a_perfect_and_of_a_useless_model():
    assert s.fit_temperature([0.0, 0.5, 2.0]) == 0.0
    assert s.fit_temperature([1.0, -2.0]) == math.inf


def test_a_handful_of_prompts_has_no_interval_and_cannot_be_sure_of_a_gain():
    """All of n prompts on one side has the chance 2⁻ⁿ where nothing is gained; an end of the interval leaves out 2.5 %."""
    assert 0.5**s.FEWEST < 0.025 < 0.5 ** (s.FEWEST - 1)
    few = list(range(s.FEWEST - 1))
    assert all(math.isnan(end) for end in s.cluster_bootstrap([1.0, 2.0, 3.0, 4.0, 5.0], few)[1:])
    assert s.cluster_bootstrap([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [*few, 9]).low > 0
    # Many answers to few prompts are few prompts.
    assert math.isnan(s.cluster_bootstrap(np.arange(40.0), [k % 3 for k in range(40)]).low)
    assert math.isnan(s.win_rate([1, 1], [0, 0], ["a", "b"]).low)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_share_of_all_or_nothing_has_wilsons_interval_over_prompts(value):
    clusters = [k // 2 for k in range(40)]
    found = s.cluster_share([value] * 40, clusters)
    expected = stats.binomtest(int(20 * value), 20).proportion_ci(method="wilson")
    assert found == pytest.approx((value, expected.low, expected.high))
    mixed = [value] * 39 + [1 - value]
    assert s.cluster_share(mixed, clusters) == s.cluster_bootstrap(mixed, clusters)


def none_of(n):
    return stats.binomtest(0, n).proportion_ci(method="wilson").high


def test_a_tie_everywhere_leaves_room_for_wins_and_losses():
    assert s.win_rate([1] * 9, [1] * 9, list(range(9))) == pytest.approx((0.5, 0.5 - none_of(9) / 2, 0.5 + none_of(9) / 2))


@pytest.mark.parametrize("change", [-1.0, 0.0, 0.25, 1.0])
def test_the_same_change_of_a_share_everywhere_leaves_room_for_others(change):
    """Of 27 questions none changed: with one in twenty that would, that happens in a quarter of all draws."""
    n = 27
    assert 0.95**n > 0.2 and none_of(n) > 0.05
    before = max(0.0, -change)
    found = s.share_difference([before + change] * 2 * n, [before] * 2 * n, [k // 2 for k in range(2 * n)])
    # As if that share of the questions had changed by all that they can, downwards or upwards.
    low, high = ((1 - none_of(n)) * change + none_of(n) * end for end in (-1, 1))
    assert found == pytest.approx((change, low, high)) and -1 <= found.low < found.high <= 1


def test_a_change_of_a_share_that_differs_is_an_ordinary_paired_difference():
    rng = np.random.default_rng(3)
    a, b, clusters = rng.random(30), rng.random(30), [k // 3 for k in range(30)]
    assert s.share_difference(a, b, clusters) == s.paired_difference(a, b, clusters)
    assert all(math.isnan(end) for end in s.share_difference([0.0] * 5, [0.0] * 5, list(range(5)))[1:])
    with pytest.raises(ValueError, match="shares must lie in 0 to 1"):
        s.share_difference([2.0] * 9, [0.0] * 9, list(range(9)))
