import itertools
import math

import numpy as np
import pytest
from scipy import optimize, stats

from pipeline.evaluation import comparisons as c

# --- McNemar ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 0), (1, 0), (8, 2), (5, 5), (3, 17)])
def test_mcnemar_is_a_fair_coin_over_the_pairs_on_which_they_differ(only_a, only_b):
    a = [1] * only_a + [0] * only_b + [1] * 6 + [0] * 3
    b = [0] * only_a + [1] * only_b + [1] * 6 + [0] * 3
    n = only_a + only_b
    expected = stats.binomtest(only_a, n).pvalue if n else 1.0
    assert c.mcnemar(a, b) == pytest.approx(expected) == pytest.approx(c.mcnemar(b, a))


def test_mcnemar_refuses_half_right_pairs_and_lists_of_other_length():
    for a, b in (([0.5], [1]), ([1, 0.5], [1, 0]), ([1, 0], [0.5, 1]), ([1, 0], [1])):
        with pytest.raises(ValueError, match="0 .wrong. and 1 .right."):
            c.mcnemar(a, b)


# --- Bradley–Terry ---------------------------------------------------------------------------------------------------


def games(*counts):
    """(i, j, wins of i, wins of j) → comparisons, each with a prompt of its own."""
    rows = [(i, j, float(k < won)) for i, j, won, lost in counts for k in range(won + lost)]
    return rows, list(range(len(rows)))


def test_two_players_stand_at_the_log_odds_of_their_games():
    found = c.bradley_terry(*games(("ppo", "sft", 30, 10)))
    assert found["ppo"].value - found["sft"].value == pytest.approx(math.log(3))
    assert found["ppo"].value == pytest.approx(-found["sft"].value)


def test_three_players_whose_odds_agree_are_placed_exactly():
    """2:1 and 3:1 odds chain to 6:1, so the likelihood is met without remainder."""
    found = c.bradley_terry(*games(("a", "b", 20, 10), ("b", "c", 30, 10), ("a", "c", 60, 10)))
    assert found["a"].value - found["b"].value == pytest.approx(math.log(2))
    assert found["b"].value - found["c"].value == pytest.approx(math.log(3))
    assert sum(e.value for e in found.values()) == pytest.approx(0)


def test_the_strengths_are_the_maximum_of_the_likelihood_that_scipy_finds():
    rng = np.random.default_rng(1)
    rows = [(i, j, float(rng.choice([0, 0.5, 1]))) for i, j in itertools.combinations(range(5), 2) for _ in range(15)]

    def loss(free):
        s = np.append(free, -free.sum())
        return -sum(y * math.log(1 / (1 + math.exp(s[j] - s[i]))) + (1 - y) * math.log(1 / (1 + math.exp(s[i] - s[j])))
                    for i, j, y in rows)  # fmt: skip

    best = optimize.minimize(loss, np.zeros(4), tol=1e-12).x
    found = c.bradley_terry(rows, list(range(len(rows))), draws=10)
    assert [found[k].value for k in range(4)] == pytest.approx(best, abs=1e-4)


def test_lopsided_games_are_still_solved():
    found = c.bradley_terry(*games(("a", "b", 999, 1), ("b", "c", 999, 1)), draws=5)
    assert found["a"].value - found["c"].value == pytest.approx(2 * math.log(999), rel=1e-6)


def test_the_interval_of_two_players_is_that_of_their_log_odds():
    """The delta method: sd of the log odds is 1/√(n p q); the strength is half of them."""
    found = c.bradley_terry(*games(("a", "b", 260, 140)), draws=4000)["a"]
    half = 1.96 * 0.5 / math.sqrt(400 * 0.65 * 0.35)
    # A 2.5 % quantile of 4,000 draws has a standard error of 0.04 sd; the log odds are skewed by less than that here.
    assert (found.low, found.high) == pytest.approx((found.value - half, found.value + half), abs=0.15 * half)


def test_prompts_are_drawn_whole_and_repeats_add_no_certainty():
    rows, prompts = games(("a", "b", 12, 8))
    once = c.bradley_terry(rows, prompts, draws=500)
    thrice = c.bradley_terry(rows * 3, prompts * 3, draws=500)
    assert all(thrice[k] == pytest.approx(once[k]) for k in once)
    assert math.isnan(c.bradley_terry(rows, ["p"] * 20)["a"].low)


def test_a_player_who_never_lost_has_no_finite_strength():
    with pytest.raises(ValueError, match="between a and the others one side never lost"):
        c.bradley_terry(*games(("a", "b", 5, 0), ("b", "c", 3, 2)))


def test_an_interval_that_would_need_infinite_strengths_is_not_given():
    assert math.isnan(c.bradley_terry(*games(("a", "b", 5, 1)))["a"].high)
    # Of seven games three lost: (4/7)⁷ = 2.0 % of resamples hold none of these, and an end of seven prompts' interval leaves out 0.4 %.
    assert math.isnan(c.bradley_terry(*games(("a", "b", 4, 3)), draws=20_000)["a"].high)


@pytest.mark.parametrize(("rows", "prompts"), [([], []), ([("a", "b", 1.0)], ["p", "q"])])
def test_no_comparisons_and_a_missing_prompt_are_refused(rows, prompts):
    with pytest.raises(ValueError, match=f"{len(rows)} comparisons but {len(prompts)} clusters"):
        c.bradley_terry(rows, prompts)


@pytest.mark.parametrize("bad", [("a", "a", 1.0), ("a", "b", 1.5)])
def test_what_is_no_comparison_is_refused(bad):
    with pytest.raises(ValueError, match="no comparison"):
        c.bradley_terry([bad], ["p"])


def test_400_elo_are_ten_to_one():
    assert c.elo(math.log(10)) == pytest.approx(400)
    assert 1 / (1 + 10 ** (-c.elo(math.log(3)) / 400)) == pytest.approx(0.75)


# --- length-controlled win rate ---------------------------------------------------------------------------------------


def test_anything_against_itself_wins_half_whatever_the_lengths():
    lengths = np.random.default_rng(0).normal(3, 10, 80)
    assert c.length_controlled_win_rate([0.5] * 80, lengths, range(80)) == pytest.approx((0.5, 0.5, 0.5))


@pytest.mark.parametrize("won", [[1, 0, 1, 1, 0.5], [1, 1, 1]])
def test_without_differences_of_length_it_is_the_win_rate(won):
    found = c.length_controlled_win_rate(won, [0] * len(won), range(len(won)))
    assert found.value == pytest.approx(sum(won) / len(won), abs=1e-8)


def test_the_other_side_has_the_rest():
    rng = np.random.default_rng(2)
    won, lengths = rng.choice([0, 0.5, 1], 90), rng.normal(2, 5, 90)
    one = c.length_controlled_win_rate(won, lengths, range(90))
    other = c.length_controlled_win_rate(1 - won, -lengths, range(90))
    assert (other.value, other.low, other.high) == pytest.approx((1 - one.value, 1 - one.high, 1 - one.low))


def test_it_is_the_penalised_maximum_that_scipy_finds():
    rng = np.random.default_rng(3)
    won, lengths = rng.choice([0, 0.5, 1], 70), rng.normal(1, 4, 70)
    x = np.tanh(lengths / lengths.std())

    def loss(at):
        return (np.logaddexp(0, at[0] + at[1] * x) - won * (at[0] + at[1] * x)).sum() + at[1] ** 2 / 18

    theta = optimize.minimize(loss, [0, 0], tol=1e-12).x[0]
    assert c.length_controlled_win_rate(won, lengths, range(70), draws=10).value == pytest.approx(
        1 / (1 + math.exp(-theta)), abs=1e-5
    )


def test_the_unit_of_length_does_not_matter():
    rng = np.random.default_rng(5)
    won, lengths = rng.choice([0, 0.5, 1], 40), rng.normal(1, 4, 40)
    in_words = c.length_controlled_win_rate(won, lengths, range(40), draws=50)
    assert c.length_controlled_win_rate(won, lengths / 1000, range(40), draws=50) == pytest.approx(in_words)


def test_wins_that_length_alone_explains_are_taken_out():
    """Planted: θ = 0, φ = 2, mostly longer answers. The raw rate is 0.70; n = 3,000 gives σ(θ) a standard error of .013."""
    rng = np.random.default_rng(4)
    lengths = rng.normal(10, 12, 3000)
    won = rng.random(3000) < 1 / (1 + np.exp(-2 * np.tanh(lengths / lengths.std())))
    value, low, high = c.length_controlled_win_rate(won, lengths, range(3000), draws=300)
    assert won.mean() > 0.68 and value == pytest.approx(0.5, abs=0.04) and low < 0.5 < high


def test_length_that_separates_wins_from_losses_still_gives_a_number():
    value, low, high = c.length_controlled_win_rate([1, 1, 1, 0, 0, 0], [3, 2, 1, -1, -2, -3], range(6), draws=200)
    assert value == pytest.approx(0.5, abs=1e-6) and 0 <= low <= high <= 1


def test_one_prompt_gives_no_interval_and_odd_numbers_are_refused():
    assert math.isnan(c.length_controlled_win_rate([1, 0], [2, 1], ["p", "p"]).low)
    for won, lengths in (([1], [1, 2]), ([2], [1]), ([1], [math.nan])):
        with pytest.raises(ValueError, match="length_controlled_win_rate"):
            c.length_controlled_win_rate(won, lengths, ["p"] * len(won))
