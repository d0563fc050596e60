"""What a round's reward model is doubted for: by hand, at the bounds."""

import json

import pytest

from pipeline.doubts import on_new_votes, on_old_rankings


def before(low):
    return {"value": 0.55, "ci_low": low, "ci_high": 0.6, "run": "r"}


@pytest.mark.parametrize(("low", "doubted"), [(0.51, 0), (0.5, 1), (0.4, 1), (None, 0)])
def test_a_reward_model_that_may_be_at_chance_on_new_votes(low, doubted):
    lines = on_new_votes(before(low))
    assert len(lines) == doubted and all("no better than chance" in line for line in lines)


def run(folder, value):
    file = folder / "evaluation" / "reward" / "card.json"
    file.parent.mkdir(parents=True)
    entries = [{"metric": "observed_accuracy", "value": 0.1, "n": 9}]
    entries += [] if value is None else [{"metric": "clean_accuracy", "value": value, "n": 9}]
    file.write_text(json.dumps({"stage": "reward", "entries": entries}))
    return folder


@pytest.mark.parametrize(("now", "was", "doubted"), [(0.77, 0.80, 1), (0.785, 0.80, 0), (0.9, 0.8, 0), (None, 0.8, 0), (0.7, None, 0)])
def test_a_reward_model_that_forgot(tmp_path, now, was, doubted):
    lines = on_old_rankings(run(tmp_path / "new", now), run(tmp_path / "old", was))
    assert len(lines) == doubted and all("77.0%" in line and "80.0%" in line for line in lines)


def test_a_run_without_a_card_is_not_doubted(tmp_path):
    assert on_old_rankings(tmp_path / "none", run(tmp_path / "old", 0.9)) == []
