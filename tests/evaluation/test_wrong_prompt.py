"""Answers to another prompt, for the reward model to tell: never to the very same one that only stands in another row."""

import math
import random

import pytest

from data.records import Message, Ranking
from pipeline.evaluation.reward_card import mismatch_entry, others_in_turn


def by_a_slow_loop(keys, shift):
    n = len(keys)
    return [next(j % n for j in range(i + shift, i + shift + n) if keys[j % n] != keys[i]) for i in range(n)]


def test_the_other_is_the_next_one_that_is_another():
    rng = random.Random(0)
    for _ in range(300):
        keys = [rng.choice("abc"[: rng.randint(1, 3)]) for _ in range(rng.randint(1, 9))]
        for shift in range(len(keys)):
            expected = by_a_slow_loop(keys, shift) if len(set(keys)) > 1 else None
            assert others_in_turn(keys, shift) == expected, (keys, shift)
    # As ever where no prompt stands twice.
    assert others_in_turn(list("abcd"), 2) == [2, 3, 0, 1]


class Reading:
    """A reward model that likes an answer which names the question's thing, whatever else it says."""

    def __init__(self, base):
        self.base = base

    def score_all(self, conversations):
        texts = [self.base.tokenizer.decode(ids) for ids in conversations]
        return [float(text.count(thing) > 1) for text in texts for thing in ("cat", "dog") if f"{thing}?" in text]


def card(make_base, things, namespace):
    rankings = [Ranking(f"r{i}", (Message("user", f"What is a {t}?"),), (f"A {t} {i}.", "No."), (0, 1), (True, True)) for i, t in enumerate(things)]
    config = namespace(model=namespace(system_prompt=None), data=namespace(max_prompt_tokens=200))
    golds, scores = [[1.0, 0.0]] * len(things), [[1.0, 0.0]] * len(things)
    return mismatch_entry(Reading(make_base()), rankings, golds, scores, config)


@pytest.mark.parametrize("things", [["cat", "dog", "cat", "dog"], ["cat", "cat", "dog", "dog", "dog"]])
def test_a_model_that_reads_the_question_is_right_on_every_list(make_base, namespace, things):
    """Two places on stands the same question again: its answer is right, and no model could tell it from the own one."""
    entry = card(make_base, things, namespace)
    assert (entry.value, entry.n) == (1.0, 2)


@pytest.mark.parametrize("things", [["cat"], ["cat"] * 4])
def test_where_nobody_asks_anything_else_there_is_no_number(make_base, namespace, things):
    entry = card(make_base, things, namespace)
    assert math.isnan(entry.value) and entry.n == 0 and "all lists are of one prompt" in entry.note
