"""Probes of a reward model: scorers whose faults are known, and the spoilt copies themselves."""

import random

import numpy as np
import pytest

from data.records import Message, Ranking
from data.yardsticks import Fact
from pipeline.evaluation.reward_card import calibration_entries, length_entries
from pipeline.evaluation.reward_probes import (
    NO_BETTER,
    POLITE_END,
    SAME,
    WORSE,
    empty,
    gibberish,
    polite,
    probe_answers,
    probe_facts,
    repeated,
    shuffled,
    whitespace,
)
from pipeline.evaluation.statistics import fit_temperature, pair_ece
from reward.metrics import pairs_by

GOOD = "Otters hold hands while they sleep. It keeps them together."
RANKINGS = [
    Ranking(f"r{i}", (Message("user", f"Question {i}?"),), ("No.", GOOD), (1, 0), (True, i % 2 == 0)) for i in range(8)
]
FACTS = [Fact(f"f{i}", f"What is {i}?", "It is {}.", "right", "wrong") for i in range(4)]


def probed(score):
    return {
        e.metric: e.value for e in probe_answers(RANKINGS, [1] * len(RANKINGS), lambda rows: [score(r) for r in rows])
    }


def test_what_is_spoilt_and_how():
    rng = random.Random(0)
    mixed = shuffled(GOOD, rng)
    assert mixed != GOOD and sorted(mixed.split()) == sorted(GOOD.split()) and shuffled("No, it is", rng) is None
    nonsense = gibberish(GOOD, rng)
    assert [len(w) for w in nonsense.split()] == [len(w) for w in GOOD.split()] and nonsense.split()[0] != "Otters"
    assert repeated(GOOD, rng) == f"{GOOD} It keeps them together. It keeps them together."
    assert whitespace(GOOD, rng) == "Otters hold hands while they sleep.  It keeps them together. "
    assert polite(GOOD, rng) == f"{GOOD} {POLITE_END}" and empty(GOOD, rng) == ""
    assert shuffled("ha ha ha ha", rng) is None


def test_a_scorer_that_knows_the_good_answer_passes_every_probe():
    assert probed(lambda asked: 3.0 * (asked.answer.split() == GOOD.split())) == dict.fromkeys(
        WORSE | SAME | NO_BETTER, 1.0
    )


@pytest.mark.parametrize(
    ("score", "failed"),
    [
        (lambda a: len(a.answer), {"probe_repeated", "probe_suffix", "probe_whitespace"}),  # the longer the better
        (lambda a: -len(a.answer), {"probe_empty", "probe_whitespace"}),  # the shorter the better
        (lambda a: len(set(a.answer.split())), {"probe_suffix"}),  # counts different words
        (lambda a: 5.0 * ("  " in a.answer), {"probe_whitespace"}),
        (lambda a: 0.0 if not a.answer else -a.answer.count("together"), {"probe_empty", "probe_gibberish"}),
    ],
)
def test_a_scorer_with_a_known_fault_fails_the_probes_that_show_it(score, failed):
    found = probed(score)
    assert {name for name, share in found.items() if share == 0.0} == failed


def test_a_scorer_that_sees_nothing_has_half_of_every_comparison():
    assert probed(lambda asked: 1.0) == {**dict.fromkeys(WORSE, 0.5), **dict.fromkeys(SAME | NO_BETTER, 1.0)}


def test_an_empty_answer_is_finished_and_a_cut_one_stays_cut():
    seen = []
    probe_answers(RANKINGS, [1] * 8, lambda rows: [seen.append(r) or 0.0 for r in rows])
    assert all(r.finished for r in seen if not r.answer) and {r.finished for r in seen if r.answer == GOOD} == {
        True,
        False,
    }


def test_a_reward_model_that_flatters_is_found_on_facts():
    def flatters(asked):
        return ("wrong" in asked.answer) if "I think" in asked.prompt[-1].content else ("right" in asked.answer)

    found = {e.metric: (e.value, e.n) for e in probe_facts(FACTS, lambda rows: [float(flatters(r)) for r in rows])}
    assert found == {"facts_accuracy": (1.0, 4), "probe_sycophancy": (0.0, 4)}
    ignorant = probe_facts(FACTS, lambda rows: [0.0 for _ in rows])
    assert [(e.metric, e.value) for e in ignorant] == [("facts_accuracy", 0.0)] and probe_facts([], None) == []


# --- calibration and length on the card ------------------------------------------------------------------------------


def scored(lists, slope, seed=0):
    """Rankings with gold scores, scores that follow them up to noise, and the gold order as pairs."""
    rng = np.random.default_rng(seed)
    golds = rng.normal(size=(lists, 4))
    scores = slope * golds + rng.normal(size=golds.shape)
    rankings = [
        Ranking(
            f"r{i}",
            (Message("user", f"q{i}"),),
            tuple("w " * n for n in rng.choice(28, 4, replace=False) + 2),
            (0, 1, 2, 3),
            (True,) * 4,
        )
        for i in range(lists)
    ]
    return rankings, scores.tolist(), golds.tolist(), [pairs_by(g) for g in golds]


def test_the_loss_is_that_of_the_margins_and_the_temperature_comes_from_the_other_half():
    rankings, scores, _, pairs = scored(60, 1.0)
    found = {e.metric: e for e in calibration_entries("", rankings, scores, pairs)}
    gaps = [[s[b] - s[w] for b, w in p] for s, p in zip(scores, pairs, strict=True)]
    flat = np.array([x for g in gaps for x in g])
    assert found["pair_loss"].value == pytest.approx(np.mean(np.log1p(np.exp(-flat)))) and found["pair_loss"].n == 60
    halves = [[x for g in gaps[k::2] for x in g] for k in (0, 1)]
    temperatures = [fit_temperature(halves[1]), fit_temperature(halves[0])]
    scaled = [x / t for half, t in zip(halves, temperatures, strict=True) for x in half]
    assert found["ece_after_temperature"].value == pytest.approx(pair_ece(scaled))
    # A model that is far too sure is mended by a temperature.
    sure = {
        e.metric: e.value for e in calibration_entries("", rankings, [[20 * s for s in row] for row in scores], pairs)
    }
    assert sure["ece_after_temperature"] == pytest.approx(found["ece_after_temperature"].value, abs=1e-6)
    assert sure["ece_after_temperature"] < 0.1 < pair_ece(20 * flat)


def test_a_model_no_better_than_the_length_rule_shows_it():
    rankings, _, _, _ = scored(80, 1.0)
    lengths = [[len(a.split()) for a in r.responses] for r in rankings]
    golds = [[-n + 4.0 * k for k, n in enumerate(row)] for row in lengths]
    pairs = [pairs_by(g) for g in golds]
    by_length = [[-float(n) for n in row] for row in lengths]
    found = {e.metric: e for e in length_entries(rankings, by_length, golds, pairs)}
    assert found["clean_accuracy_minus_length_rule"].value == 0.0
    assert found["length_correlation"].value == pytest.approx(-1.0)
    assert 0 < found["length_correlation_excess"].value < 0.3
    assert found["accuracy_shorter_third"].value > 0.9 > 0.5 > found["accuracy_longer_third"].value
    exact = {e.metric: e for e in length_entries(rankings, golds, golds, pairs)}
    assert exact["clean_accuracy_minus_length_rule"].value > 0 and exact["length_correlation_excess"].value == 0.0
