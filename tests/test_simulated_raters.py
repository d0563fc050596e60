"""The simulated people of benchmarks/loop.py vote as they say they do."""

import random
import sys
from pathlib import Path

import pytest
from scipy.special import expit
from scipy.stats import binomtest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
from simulated.raters import Lazy, Rater, choose, thumb
from simulated.voting import Crowd

N = 4000


def rate(draws, expected):
    """That the share of successes is what it should be, at a level of one in a million."""
    return binomtest(sum(draws), len(draws), expected).pvalue > 1e-6


@pytest.mark.parametrize(("left", "right"), [(5.0, 5.0), (4.2, 4.0), (3.0, 4.5), (6.0, 0.0)])
def test_a_reader_draws_by_bradley_terry_and_slips(left, right):
    rater, rng = Rater(spread=0.5, flips=0.1), random.Random(0)
    # Meant right and not slipped, or meant wrong and slipped.
    meant = expit((left - right) / 0.5)
    expected = meant * 0.9 + (1 - meant) * 0.1
    assert rater.chance_left(left, right) == pytest.approx(expected)
    assert rate([choose(rater, left, right, rng) == "left" for _ in range(N)], expected)


def test_however_clear_the_difference_a_reader_slips_at_the_stated_rate():
    rng = random.Random(1)
    assert rate([choose(Rater(flips=0.1), 6.0, 0.0, rng) == "right" for _ in range(N)], 0.1)
    assert Rater(flips=0.0).chance_left(1000.0, 0.0) == 1.0 and Rater(flips=0.0).chance_left(0.0, 1000.0) == 0.0


def test_a_readers_thumb_turns_at_the_threshold():
    rng, rater = random.Random(2), Rater(threshold=4.0)
    assert rater.chance_up(4.0) == 0.5
    assert rate([thumb(rater, 4.5, rng) == 1 for _ in range(N)], 0.1 + 0.8 * expit(1.0))


def test_the_lazy_one_presses_up_nine_times_in_ten_whatever_is_said():
    for points in (0.0, 6.0):
        rng = random.Random(3)
        assert rate([thumb(Lazy(), points, rng) == 1 for _ in range(N)], 0.9)
        assert rate([choose(Lazy(), points, 3.0, rng) == "left" for _ in range(N)], 0.5)


def test_people_take_turns_and_the_lazy_one_has_every_second_vote():
    names = [Crowd("pairs", seed=0, people=4).who(k)[0] for k in range(8)]
    assert names == [f"reader-{k % 4}" for k in range(8)]
    mixed = [Crowd("pairs", seed=0, people=4, lazy=True).who(k) for k in range(16)]
    assert [name for name, _ in mixed[1::2]] == ["lazy"] * 8 and all(isinstance(r, Lazy) for _, r in mixed[1::2])
    assert [name for name, _ in mixed[::2]] == [f"reader-{k % 4}" for k in range(8)]
