"""ROUGE-L against a slow recursion, hand counts, and the paper's example."""

import random
from functools import cache

import pytest

from pipeline.evaluation.metrics import speaker_share
from pipeline.evaluation.rouge import common_subsequence, rouge_l


def slow(one, other):
    """Its definition: drop the first word on either side, or keep it where both agree."""

    @cache
    def of(i, j):
        if i == len(one) or j == len(other):
            return 0
        return max(of(i + 1, j), of(i, j + 1), (one[i] == other[j]) + of(i + 1, j + 1) if one[i] == other[j] else 0)

    return of(0, 0)


def test_the_longest_common_subsequence_is_that_of_a_slow_recursion():
    rng = random.Random(0)
    for _ in range(200):
        one, other = (rng.choices("abcd", k=rng.randrange(9)) for _ in range(2))
        assert common_subsequence(one, other) == slow(tuple(one), tuple(other))


@pytest.mark.parametrize(
    ("answer", "reference", "score"),
    [
        # Lin 2004, section 3.1: against "police killed the gunman".
        ("police kill the gunman", "police killed the gunman", 3 / 4),
        ("the gunman kill police", "police killed the gunman", 2 / 4),
        # Three words of five in common, in order, against three of three: 2 · 3 / (5 + 3).
        ("boil it for ten minutes", "Boil for minutes.", 6 / 8),
        ("", "one", 0.0),
        ("?", "!", 0.0),
        ("The same.", "the same", 1.0),
    ],
)
def test_rouge_l_by_hand(answer, reference, score):
    assert rouge_l(answer, reference) == pytest.approx(score)


@pytest.mark.parametrize(
    ("answer", "speaks"),
    [
        ("It boils.\nUser: and then?", True),
        ("Human: hello", True),
        ("### Assistant: it boils", True),
        ("**User**: hello", True),
        ("<|user|>: hello", True),
        ("A user: somebody who uses it.", False),
        ("The assistant said so.", False),
        ("Users: 12", False),
        ("Answer: twelve", False),
    ],
)
def test_a_turn_that_is_played_for_somebody_else(answer, speaks):
    assert speaker_share([answer, "It boils at 100 degrees."]) == (0.5 if speaks else 0.0)
