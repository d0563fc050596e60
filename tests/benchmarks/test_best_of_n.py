"""Best-of-n curves against all subsets, and the fitted form against curves of known α and β."""

from itertools import combinations

import numpy as np
import pytest

from benchmarks import overoptimise_ppo_page as ppo_page
from benchmarks.best_of_n import curve, distances, fit, fit_with_intervals
from benchmarks.overoptimise import labelled_lists, plan
from benchmarks.overoptimise_page import agreement, named_choosers
from pipeline.evaluation.statistics import best_of_n_kl
from reward.rubric import gold_score


def test_every_point_of_a_curve_is_the_mean_over_all_subsets():
    rng = np.random.default_rng(0)
    proxy, gold = rng.normal(size=(2, 3, 7))
    found = curve(proxy, gold, (1, 2, 3, 7))
    for prompt in range(3):
        for column, n in enumerate((1, 2, 3, 7)):
            best = [max(s, key=lambda i: proxy[prompt, i]) for s in combinations(range(7), n)]
            assert found[prompt, column] == pytest.approx(np.mean([gold[prompt, i] for i in best]))


def test_the_form_is_found_again_and_its_peak_is_where_the_derivative_is_zero():
    d = distances((1, 2, 4, 8, 16, 32, 64))
    assert d[0] == 0 and d[-1] ** 2 == pytest.approx(best_of_n_kl(64))
    alpha, beta = fit(d, d * (1.7 - 0.6 * d))
    assert (alpha, beta) == pytest.approx((1.7, 0.6))


def test_the_interval_covers_a_known_curve_and_closes_in_with_prompts():
    d = distances()
    rng = np.random.default_rng(1)
    noisy = [d * (1.0 - 0.3 * d) + d * rng.normal(0, 0.5, size=(n, 1)) for n in (25, 400)]
    few, many = (fit_with_intervals(g, d, draws=500)["alpha"] for g in noisy)
    assert few[1] < 1.0 < few[2] and many[1] < 1.0 < many[2]
    assert (few[2] - few[1]) / (many[2] - many[1]) == pytest.approx(4, rel=0.35)


def test_agreement_by_hand():
    # Pairs told apart by gold: (1, 0), (2, 0), (3, 0); the chooser has them right, tied and wrong.
    assert agreement(np.array([1.0, 2.0, 1.0, 0.0]), np.array([0.0, 1.0, 1.0, 1.0])) == pytest.approx(0.5)
    assert agreement(np.array([3.0, 1.0]), np.array([2.0, 2.0])) == 0.5


def test_smaller_sets_are_part_of_larger_ones_and_a_quarter_is_wrong(tokenizer):
    small, large = (labelled_lists(tokenizer, n, 0.25, 0) for n in (250, 2000))
    told = [[(r.answers[b], r.answers[w]) for r in rows for b, w in r.pairs] for rows in (small, large)]
    assert [len(t) for t in told] == [250, 2000] and told[1][:250] == told[0]
    clean = [(r.answers[b], r.answers[w]) for r in labelled_lists(tokenizer, 2000, 0.0, 0) for b, w in r.pairs]
    wrong = sum(a != b for a, b in zip(told[1], clean, strict=True)) / 2000
    # Four standard errors of a share of a quarter among 2000.
    assert wrong == pytest.approx(0.25, abs=4 * (0.25 * 0.75 / 2000) ** 0.5)
    assert all(a == b or a == b[::-1] for a, b in zip(told[1], clean, strict=True))


def test_the_clean_order_is_the_rubrics(tokenizer):
    for ranking in labelled_lists(tokenizer, 60, 0.0, 0):
        texts = [tokenizer.decode(a, skip_special_tokens=True) for a in ranking.answers]
        ends = [a[-1] == tokenizer.eos_token_id for a in ranking.answers]
        question = tokenizer.decode(ranking.prompt, skip_special_tokens=True).split("user\n")[1].split("\n")[0]
        gold = [gold_score(question, t, e) for t, e in zip(texts, ends, strict=True)]
        assert all(gold[b] > gold[w] for b, w in ranking.pairs)


def test_every_proxy_is_trained_once():
    assert len(set(plan())) == len(plan()) == 16


def test_ensembles_by_hand_and_of_as_many_members_as_they_say():
    # Scores that have mean 0 and spread 1 already: 4 · 3/4 / (4 − 1) = 1.
    s = 0.75**0.5
    scores = ([[-s, -s], [s, s]], [[-s, s], [-s, s]], [[s, -s], [-s, s]])
    proxies = [{"pairs": 1000, "flips": 0.0, "seed": seed, "scores": rows} for seed, rows in enumerate(scores)]
    found = named_choosers([*proxies, {**proxies[0], "pairs": 250}])
    assert found["worst of 3 at 1000, clean"].tolist() == pytest.approx(np.array([[-s, -s], [-s, s]]))
    assert found["mean of 3 at 1000, clean"].tolist() == pytest.approx(np.array([[-s / 3, -s / 3], [-s / 3, s]]))
    assert len(found) == 4 + 2


def test_the_form_for_ppo_is_found_again_and_peaks_where_it_says():
    d = np.sqrt([0.5, 2.0, 5.0, 9.0, 20.0])
    alpha, beta = ppo_page.fit(d, d * (1.2 - 0.4 * np.log(d)))
    assert (alpha, beta) == pytest.approx((1.2, 0.4))
    # By a fine grid instead of the derivative.
    grid = np.linspace(0.1, 30, 200_000)
    assert grid[np.argmax(grid * (alpha - beta * np.log(grid)))] == pytest.approx(np.exp(alpha / beta - 1), abs=1e-3)


def test_looks_without_a_distance_are_left_out_and_gains_are_over_the_first():
    looks = [
        {"update": u, "gold": g, "proxy": 0.0, "kl": kl}
        for u, g, kl in ((0, [1.0, 3.0], 0.0), (2, [2.0, 4.0], 4.0), (4, [5.0, 5.0], None))
    ]
    d, gain = ppo_page.distances_and_gains(looks)
    assert d.tolist() == [2.0] and gain.tolist() == [1.0]
