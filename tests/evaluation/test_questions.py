"""What is asked more than once says little more than what is asked once: intervals of the reward model's card draw whole questions."""

from dataclasses import replace

import numpy as np
import pytest

from data.records import Demonstration, Message, Ranking
from pipeline.adapters import POLICY
from pipeline.evaluation import calibration
from pipeline.evaluation.floors import floor_entries
from pipeline.evaluation.reward_card import (
    accuracy_entries,
    calibration_entries,
    length_entries,
    mismatch_entry,
    turn_entries,
)
from pipeline.evaluation.reward_probes import probe_answers
from pipeline.evaluation.scoring import response_nll
from pipeline.evaluation.statistics import fit_temperature, pair_ece
from reward.bag_of_words import BagOfWords
from reward.metrics import pairs_by

TIMES = 3


def asked_once():
    """40 rankings of 40 questions, with answers of words that a rule, a bag of words and a model see differently."""
    rng = np.random.default_rng(0)
    texts = [[" ".join(rng.choice(["good", "bad", "cat", "dog"], size=rng.integers(2, 12))) + "." for _ in range(3)] for _ in range(40)]
    lists = []
    for i, row in enumerate(texts):
        before = (Message("user", f"Question {i}?"),)
        if i % 2:
            before += (Message("assistant", "Well."), Message("user", "Go on."))
        lists.append(Ranking(f"r{i}", before, tuple(row), tuple(rng.permutation(3).tolist()), (True,) * 3))
    return lists, rng.normal(size=(40, 3)).tolist()


def again(rows):
    """Every row several times, side by side, each time under an id of its own where it has one."""
    return [replace(row, id=f"{row.id}-{k}") if isinstance(row, Ranking) else row for row in rows for k in range(TIMES)]


def card(lists, scores, base, namespace):
    golds = [[-float(r) for r in ranking.ranks] for ranking in lists]
    pairs = [pairs_by(g) for g in golds]
    bag = BagOfWords.of_rankings(asked_once()[0])
    yield from accuracy_entries("observed", lists, scores, pairs)
    yield from turn_entries(lists, scores, pairs)
    yield from length_entries(lists, scores, golds, pairs)
    yield from floor_entries("observed", lists, scores, pairs, bag, "these")
    yield from calibration_entries("", lists, scores, pairs)[:1]
    yield from probe_answers(lists, [int(np.argmax(g)) for g in golds], lambda rows: [float(len(r.answer) % 7) for r in rows])
    config = namespace(model=namespace(system_prompt=None), data=namespace(max_prompt_tokens=200))
    reads = namespace(base=base, score_all=lambda texts: [float(len(ids) % 3) - 1.0 for ids in texts])
    yield mismatch_entry(reads, lists, golds, scores, config)


# Spoilt by chance, anew each time: another draw, no other interval.
BY_CHANCE = ("probe_gibberish", "probe_shuffled")


def test_three_times_the_same_is_no_narrower(make_base, namespace):
    """Exactly: as many clusters, of the same means, drawn by the same generator."""
    base = make_base()
    lists, scores = asked_once()
    once = {e.metric: e for e in card(lists, scores, base, namespace)}
    often = {e.metric: e for e in card(again(lists), again(scores), base, namespace)}
    assert once.keys() == often.keys() and len(once) >= 18
    with_interval = 0
    for name, entry in once.items():
        if name in BY_CHANCE:
            assert often[name].n == entry.n
        elif name != "observed_pairs":
            found = often[name]
            assert (found.value, found.n, found.ci_low, found.ci_high) == pytest.approx(
                (entry.value, entry.n, entry.ci_low, entry.ci_high), nan_ok=True, abs=1e-6
            ), name
            with_interval += entry.ci_low is not None
    assert with_interval >= 12


def test_a_temperature_is_fitted_on_other_questions_than_it_is_judged_by():
    """Three times one list, three times another whose margins are three times as wide; with lists for halves, each would be fitted on its own
    copies, and both would come out calibrated alike."""
    one, other = (replace(ranking, ranks=(0, 2, 1)) for ranking in asked_once()[0][:2])
    own = [(0, 1), (0, 2), (2, 1)]
    (_, ece) = calibration_entries("", [one] * 3 + [other] * 3, [[2.0, 1.0, 0.0]] * 3 + [[6.0, 3.0, 0.0]] * 3, [own] * 6)
    narrow, wide = [1.0, 2.0, -1.0], [3.0, 6.0, -3.0]
    scaled = [m / fit_temperature(wide) for m in narrow * 3] + [m / fit_temperature(narrow) for m in wide * 3]
    assert fit_temperature(wide) == pytest.approx(3 * fit_temperature(narrow), rel=1e-3) and ece.n == 2
    assert ece.value == pytest.approx(pair_ece(scaled), abs=1e-3)


def test_each_bin_of_the_reliability_diagram_draws_questions():
    lists, scores = asked_once()
    scores, pairs = [row[:2] for row in scores], [[(0, 1)]] * len(lists)
    once, often = calibration.bins_of(lists, scores, pairs), calibration.bins_of(again(lists), again(scores), again(pairs))
    for a, b in zip(once, often, strict=True):
        assert (a.right, a.low, a.high, a.pairs * TIMES) == pytest.approx((b.right, b.low, b.high, b.pairs), nan_ok=True)


def test_demonstrations_of_one_question_are_one_draw(make_base, namespace):
    said = [Demonstration(f"d{i}", (Message("user", q),), "Yes.") for i, q in enumerate(["Why?", " why? ", "How?"])]
    losses, clusters = response_nll(make_base(POLICY), POLICY, said, namespace(model=namespace(system_prompt=None)))
    assert len(losses) == len(clusters) and len(set(clusters)) == 2
