"""Two assistants are compared by what PPO has not optimised, or not at all."""

from types import SimpleNamespace

import pytest

from pipeline.evaluation.answers import AnswerRow, write_answers
from pipeline.evaluation.rivals import gain


def answered(folder, golds, proxies):
    out = folder / "evaluation" / "ppo"
    out.mkdir(parents=True)
    rows = [
        AnswerRow(f"p{k}", None, "q", 0, "a", True, 1, (1,), gold=g, parts={}, proxy=p)
        for k, (g, p) in enumerate(zip(golds, proxies, strict=True))
    ]
    write_answers(out / "answers.jsonl", rows)
    return folder


@pytest.fixture
def two(tmp_path):
    """The new one has the higher reward on every prompt, and the lower gold score."""
    return (
        answered(tmp_path / "new", [1.0, 2.0, 3.0], [9.0, 9.0, 9.0]),
        answered(tmp_path / "old", [2.0, 3.0, 4.0], [0.0, 0.0, 0.0]),
    )


def config(independent):
    return SimpleNamespace(judged_by="rubric" if independent else None, judge=SimpleNamespace(url=None))


def test_the_reward_never_ranks_policies(two):
    new, old = two
    found = gain(new, "ppo", old, "ppo", config(True), None)
    assert found.value == -1.0 and found.high < 0 and found.by == "the rubric"


def test_where_ppo_was_paid_by_the_judge_nobody_ranks(two):
    new, old = two
    assert gain(new, "ppo", old, "ppo", config(False), None) is None
