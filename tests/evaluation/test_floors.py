"""The floors that a reward model has to beat, and accuracy by turn, on lists small enough to count."""

import math

import numpy as np
import pytest

from data.records import Message, Ranking
from pipeline.evaluation.floors import floor_entries, word_counts
from pipeline.evaluation.reward_card import turn_entries
from pipeline.evaluation.statistics import cluster_bootstrap
from reward.bag_of_words import BagOfWords

pytestmark = pytest.mark.usefixtures("few_prompts")


def ranking(name, *answers, turns=1, ranks=None):
    """Answers from best to worst, to a prompt in which the person speaks `turns` times."""
    said = tuple(
        Message(role, name) for k in range(turns) for role in (("user", "assistant")[: 2 if k < turns - 1 else 1])
    )
    return Ranking(name, said, answers, ranks or tuple(range(len(answers))), (True,) * len(answers))


def test_words_are_counted_without_what_stands_alone_between_spaces():
    """By hand: a dash is no word, what a hyphen joins are two, an apostrophe joins."""
    assert word_counts([ranking("a", "Yes - it's a well-known fact!", "No.")]) == [[6.0, 1.0]]


def entries(lists, scores, bag, label="observed"):
    return {
        e.metric: e for e in floor_entries(label, lists, scores, [r.pairs() for r in lists], bag, "2 training lists")
    }


# Better by one word more, worse by one word more, as long: shorter is right on 1 + 0 + 1/2 of the first three.
LISTS = [
    ranking("a", "good", "bad bad"),
    ranking("b", "good good", "bad"),
    ranking("c", "good", "bad"),
    ranking("d", "bad", "good good good"),
]
BAG = BagOfWords.of_rankings([ranking("t", "good good", "bad"), ranking("u", "good", "bad bad")])


def test_the_bag_of_words_and_the_best_floor_counted_by_hand():
    # The reward model is right on a, b and d; the bag, which likes "good", on a, b and c; shorter on a, d and half of c; longer on b and half of c.
    scores = [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]
    found = entries(LISTS, scores, BAG)
    assert found["observed_bag_of_words_accuracy"].value == 0.75 and found["observed_bag_of_words_accuracy"].n == 4
    above = found["observed_accuracy_minus_best_floor"]
    assert above.value == 0.0 and above.ci_low < 0 < above.ci_high and above.n == 4
    assert "“bag of words”" in above.note and "shorter 62.5 %, longer 37.5 %, bag of words 75.0 %" in above.note
    # Pair by pair: equal, equal, one worse, one better.
    assert (above.ci_low, above.ci_high) == cluster_bootstrap([0, 0, -1, 1], "abcd")[1:]


def test_the_best_floor_is_the_one_that_is_right_most_often():
    scores = [[1.0, 0.0]] * 4
    knows_nothing = BagOfWords().fit([("good", "bad"), ("bad", "good")])
    found = entries(LISTS, scores, knows_nothing, label="clean")
    assert found["bag_of_words_accuracy"].value == 0.5  # every pair a tie
    assert found["clean_accuracy_minus_best_floor"].value == pytest.approx(1 - 0.625)
    assert "“shorter”" in found["clean_accuracy_minus_best_floor"].note
    swapped = [ranking(r.id, *reversed(r.responses)) for r in LISTS]
    assert "“longer”" in entries(swapped, scores, knows_nothing)["observed_accuracy_minus_best_floor"].note


def test_lists_and_not_pairs_are_the_unit():
    """Three pairs of one list are one draw of the bootstrap."""
    lists = [ranking("a", "good good", "good", "bad"), ranking("b", "bad", "good")]
    found = entries(lists, [[2.0, 1.0, 0.0], [1.0, 0.0]], BAG)["observed_bag_of_words_accuracy"]
    # "good good" and "good" hold the same terms that were seen twice: half a point, two whole ones, and none of the other list.
    assert found.value == 2.5 / 4 and found.n == 2
    assert (found.ci_low, found.ci_high) == pytest.approx((0.0, 2.5 / 3))


def test_without_a_pair_there_are_numbers_that_fail_a_gate():
    found = entries([ranking("a", "x", "x", ranks=(0, 0))], [[0.0, 0.0]], BAG)
    assert all(math.isnan(e.value) and e.n == 0 for e in found.values()) and len(found) == 2


def by_turn(lists, scores):
    return {e.metric: e for e in turn_entries(lists, scores, [r.pairs() for r in lists])}


def test_accuracy_by_turn_counts_what_the_person_said():
    turns = (1, 1, 2, 3, 4, 9)
    lists = [ranking(str(k), "y", "z", turns=n) for k, n in enumerate(turns)]
    assert [sum(m.role == "user" for m in r.prompt) for r in lists] == list(turns)
    right = (1, 0, 1, 1, 0, 0)
    found = by_turn(lists, [[float(r), 0.5] for r in right])
    assert [(found[f"accuracy_turn_{name}"].value, found[f"accuracy_turn_{name}"].n) for name in ("1", "2_3", "4_on")] == [
        (0.5, 2), (1.0, 2), (0.0, 2),
    ]  # fmt: skip
    first = found["accuracy_turn_1"]
    assert (first.ci_low, first.ci_high) == (0.0, 1.0) and first.note == "2 pairs, labels as given"


def test_one_stage_of_the_conversation_needs_no_split_and_an_empty_one_is_no_number():
    lists = [ranking(str(k), "y", "z", turns=1) for k in range(3)]
    assert by_turn(lists, [[1.0, 0.0]] * 3) == {}
    # A list whose answers tie has no pair, so it is no second group.
    tied = ranking("t", "y", "y", turns=5, ranks=(0, 0))
    assert by_turn([*lists, tied], [[1.0, 0.0]] * 4) == {}
    found = by_turn([*lists, ranking("m", "y", "z", turns=4)], [[1.0, 0.0]] * 4)
    assert np.isnan(found["accuracy_turn_2_3"].value) and found["accuracy_turn_2_3"].n == 0
    assert found["accuracy_turn_4_on"].value == 1.0 and np.isnan(found["accuracy_turn_4_on"].ci_low)
