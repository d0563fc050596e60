"""Reward sources are added up, and a wrong one is named before it does harm."""

import pytest
import torch

from data.records import Message
from reward.rubric import gold_score
from reward.sources import REWARD_SOURCES, Answered, weighted_scores

ANSWERS = [Answered((Message("user", f"q{i}"),), f"a{i}", True) for i in range(3)]


def test_weights_multiply_and_sources_add():
    sources = {"one": lambda a: torch.ones(len(a)), "count": lambda a: torch.arange(3.0)}
    assert weighted_scores({"one": 2.0, "count": -1.0}, sources, ANSWERS).tolist() == [2.0, 1.0, 0.0]


def test_the_wrong_shape_and_an_unknown_name_are_clear_errors():
    with pytest.raises(ValueError, match=r"shape \(3, 1\) for 3 answers; expected \(3,\)"):
        weighted_scores({"x": 1.0}, {"x": lambda a: torch.ones(3, 1)}, ANSWERS)
    with pytest.raises(ValueError, match="no source 'y'; there are x"):
        weighted_scores({"y": 1.0}, {"x": lambda a: torch.ones(3)}, ANSWERS)


def test_a_score_that_is_not_finite_names_the_answer():
    with pytest.raises(FloatingPointError, match=r"'x' gave nan to answer 1 of 3: 'q1' -> 'a1'"):
        weighted_scores({"x": 1.0}, {"x": lambda a: torch.tensor([0.0, float("nan"), 0.0])}, ANSWERS)


def test_whatever_kind_of_numbers_a_source_gives_rewards_are_plain_single_ones():
    sources = {"ints": lambda a: [1, 2, 3], "learnt": lambda a: torch.ones(3, dtype=torch.float64, requires_grad=True)}
    found = weighted_scores({"ints": 1.0, "learnt": 0.5}, sources, ANSWERS)
    assert found.tolist() == [1.5, 2.5, 3.5] and found.dtype == torch.float32 and not found.requires_grad


def test_the_rubric_reads_the_last_question_the_answer_and_whether_it_ended():
    asked = (Message("user", "old"), Message("assistant", "so"), Message("user", "What do penguins eat?"))
    answers = [Answered(asked, "Penguins eat fish.", finished) for finished in (True, False)]
    expected = [gold_score("What do penguins eat?", "Penguins eat fish.", finished) for finished in (True, False)]
    assert REWARD_SOURCES["rubric"](answers).tolist() == pytest.approx(expected) and expected[0] != expected[1]


def test_the_order_of_answers_does_not_matter():
    rubric = REWARD_SOURCES["rubric"]
    assert rubric(ANSWERS).flip(0).tolist() == rubric(ANSWERS[::-1]).tolist()
