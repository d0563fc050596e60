"""Length: closed forms, a slow loop over buckets, and numpy's own correlation."""

import math
import random

import numpy as np
import pytest

from pipeline.evaluation.length import accuracy_by_length, normalised_reward_gain, within_prompt_correlation


def answers(rng, lengths, reward):
    return [(f"p{k % 40}", n, reward(n) + rng.gauss(0, 0.1)) for k, n in enumerate(lengths)]


def test_a_gain_that_is_all_length_is_none_within_buckets_and_a_gain_apart_from_length_is_whole():
    rng = random.Random(0)
    short, long = [rng.randrange(5, 35) for _ in range(400)], [rng.randrange(15, 60) for _ in range(400)]
    step = lambda n: n // 20  # noqa: E731  a reward that sees nothing but the bucket
    (bought, low, high), _ = normalised_reward_gain(answers(rng, long, step), answers(rng, short, step))
    assert abs(bought) < 0.05 and low < 0 < high
    (earned, low, high), shared = normalised_reward_gain(
        answers(rng, short, lambda n: 1.0), answers(rng, list(reversed(short)), lambda n: 0.0)
    )
    assert earned == pytest.approx(1, abs=0.02) and low <= earned <= high and shared == 1.0


def test_the_ratio_equals_a_loop_over_the_buckets():
    rng = random.Random(1)
    own = [(f"p{rng.randrange(9)}", rng.randrange(90), rng.gauss(1, 1)) for _ in range(70)]
    other = [(f"p{rng.randrange(9)}", rng.randrange(70), rng.gauss(0, 1)) for _ in range(50)]
    mean = lambda rows: sum(r for _, _, r in rows) / len(rows)  # noqa: E731
    total = weight = 0.0
    for bucket in range(5):
        a, b = ([x for x in side if x[1] // 20 == bucket] for side in (own, other))
        if a and b:
            total += (len(a) + len(b)) * (mean(a) - mean(b))
            weight += len(a) + len(b)
    estimate, shared = normalised_reward_gain(own, other, draws=200)
    assert estimate.value == pytest.approx(total / weight / (mean(own) - mean(other)))
    assert shared == pytest.approx(weight / 120)


def test_few_prompts_and_draws_in_parts(monkeypatch):
    rng = random.Random(2)
    own, other = (answers(rng, [rng.randrange(5, 60) for _ in range(80)], lambda n, up=up: up) for up in (1.0, 0.0))
    whole = normalised_reward_gain(own, other, draws=500)
    monkeypatch.setattr("pipeline.evaluation.length._CELLS", 1000)
    assert normalised_reward_gain(own, other, draws=500) == whole and whole[0].low < whole[0].value < whole[0].high
    six, five = ([(k % n, 10, r + 0.1 * k) for k, r in enumerate([1.0] * 12)] for n in (6, 5))
    low = [(k, n, r - 1) for k, n, r in six]
    assert math.isfinite(normalised_reward_gain(six, low)[0].low)
    assert math.isnan(normalised_reward_gain(five, [(k, n, r - 1) for k, n, r in five])[0].low)


def test_without_a_gain_or_a_shared_bucket_there_is_no_ratio():
    flat = [("a", 5, 1.0), ("b", 6, 1.0)]
    assert math.isnan(normalised_reward_gain(flat, flat)[0].value)
    estimate, shared = normalised_reward_gain([("a", 45, 2.0), ("b", 45, 2.0)], flat)
    assert math.isnan(estimate.value) and shared == 0.0


def test_the_correlation_is_numpys_after_each_prompts_mean_is_taken_out():
    rng = np.random.default_rng(0)
    lengths = [rng.integers(3, 40, 4) for _ in range(30)]
    # Between prompts long answers are better, within a prompt worse: only the second is asked for.
    values = [n.mean() - 2.0 * (n - n.mean()) + rng.normal(0, 8, 4) for n in lengths]
    centre = lambda rows: np.concatenate([r - r.mean() for r in rows])  # noqa: E731
    found = within_prompt_correlation(values, lengths, list(range(30)))
    assert found.value == pytest.approx(np.corrcoef(centre(values), centre(lengths))[0, 1])
    assert found.low < found.value < found.high < 0
    assert math.isnan(within_prompt_correlation([[1, 1]], [[3, 4]], ["a"]).value)
    assert math.isnan(within_prompt_correlation([[1, 2]], [[3, 3]], ["a"]).value)
    few = within_prompt_correlation(values[:5], lengths[:5], list(range(5)))
    assert math.isfinite(few.value) and math.isnan(few.low)


def test_thirds_go_from_the_shorter_to_the_longer_better_answer():
    longer = [-9, -8, -7, 0, 0, 0, 5, 6, 7]
    outcomes = [1, 1, 1, 1, 0.5, 0, 0, 0, 0]
    (first, _), (second, n), (third, _) = accuracy_by_length(outcomes, longer, list("abcdefghi"))
    assert (first.value, second.value, third.value) == (1.0, 0.5, 0.0) and n == 3
    # Where length never differs everything is in one third, and the others have no number.
    whole, *rest = accuracy_by_length([1, 0, 1], [0, 0, 0], list("abc"))
    assert whole[0].value == pytest.approx(2 / 3) and all(math.isnan(e.value) for e, _ in rest)


def test_no_interval_where_more_resamples_have_no_gain_than_it_leaves_out():
    """Three of eight prompts gained: (5/8)⁸ = 2.3 % of resamples hold none of them, and an end of the interval leaves out 0.6 %."""
    own, other = ([(p, 10, float(p < gained)) for p in range(8)] for gained in (3, 0))
    estimate, shared = normalised_reward_gain(own, other)
    assert (estimate.value, shared) == (1.0, 1.0) and math.isnan(estimate.low)
