"""A gate on a number that the config switches off, or that no card has, is refused before anything runs."""

from pathlib import Path

import pytest

from pipeline.config import load_config
from pipeline.evaluation.expected import refused

ROOT = Path(__file__).resolve().parent.parent.parent
HELD = {"min": 0.1}


@pytest.fixture
def config(monkeypatch):
    monkeypatch.chdir(ROOT)
    return lambda *settings: load_config(Path("configs/smoke.yaml"), settings)


OFF = [
    ("sft.rouge_l", "evaluation.reference_answers=0", "evaluation.reference_answers is 0"),
    ("sft.rouge_l_minus_base.ci_low", "evaluation.reference_answers=0", "evaluation.reference_answers is 0"),
    ("sft.general_perplexity_ratio", "data.general_text=null", "data.general_text is null"),
    ("base.wrong_suggested", "data.facts=null", "data.facts is null"),
    ("reward.probe_sycophancy", "data.facts=null", "data.facts is null"),
    ("sft.gold_minus_base", "evaluation.gold=none", "evaluation.gold is none"),
    ("ppo.gold_minus_sft.ci_low", "evaluation.gold=none", "evaluation.gold is none"),
    ("reward.clean_accuracy", "evaluation.gold=none", "evaluation.gold is none"),
    ("reward.clean_accuracy", "data.heldout_rankings=null", "data.heldout_rankings is null"),
    ("ppo.gold_minus_best_of_2", "evaluation.best_of=[]", "Add 2 to it"),
    ("ppo.ema_gold", "ppo.ema_decay=null", "ppo.ema_decay is null"),
]


@pytest.mark.parametrize(("gate", "off", "said"), OFF, ids=[f"{gate} without {off}" for gate, off, _ in OFF])
def test_a_gate_on_what_is_switched_off_is_refused_with_the_setting(config, gate, off, said):
    assert refused({gate: HELD}, config()) == {}
    assert said in refused({gate: HELD}, config(off))[gate]


@pytest.mark.parametrize(
    ("gate", "on"),
    [
        ("ppo.judge_win_rate_vs_sft", ("judge.url=http://127.0.0.1:1/v1", "judge.model=m")),
        ("reward.test_model_accuracy", ("reward.test_share=0.3",)),
        ("ppo.test_model_minus_sft.ci_low", ("reward.test_share=0.3",)),
        ("ppo.sft_gold", ("evaluation.gold=test_model", "reward.test_share=0.3")),
        ("ppo.best_of_4_gold", ("evaluation.best_of=[4]", "evaluation.samples_per_prompt=4")),
    ],
)
def test_what_is_off_by_default_may_be_held_once_it_is_on(config, gate, on):
    assert "or remove the gate" in refused({gate: HELD}, config())[gate]
    assert refused({gate: HELD}, config(*on)) == {}


def test_a_number_of_policies_before_there_is_a_test_model_says_what_to_hold(config):
    judged = config("evaluation.gold=test_model", "reward.test_share=0.3")
    assert "Hold ppo.base_gold" in refused({"sft.gold": HELD}, judged)["sft.gold"]
    assert refused({"ppo.gold": HELD}, judged) == {}


def test_the_end_of_an_interval_that_is_never_made_is_refused(config):
    found = refused({"ppo.distinct_2_ratio.ci_low": HELD, "ppo.distinct_2_ratio": HELD}, config())
    assert list(found) == ["ppo.distinct_2_ratio.ci_low"] and "has no interval" in found["ppo.distinct_2_ratio.ci_low"]


def test_what_only_warns_or_was_let_pass_stops_nothing_but_must_exist(config):
    off = config("evaluation.reference_answers=0")
    assert refused({"sft.rouge_l": {**HELD, "warn": True}}, off) == {}
    assert refused({"sft.rouge_l": HELD}, off, excused={"sft.rouge_l"}) == {}
    assert refused({"sft.rouge": {**HELD, "warn": True}}, off, excused={"sft.rouge"})


@pytest.mark.parametrize(
    ("gate", "near"),
    [
        ("ppo.gold_minus_stf", "ppo.gold_minus_sft"),
        ("reward.probe_shufled", "reward.probe_shuffled"),
        ("ppo.repeated_4gram_shar", "ppo.repeated_4gram_share"),
    ],
)
def test_a_misspelt_number_is_refused_with_a_guess_also_without_a_config(gate, near):
    assert f"did you mean '{near}'?" in refused({gate: HELD})[gate]


def test_a_number_of_a_benchmark_names_its_policy():
    found = refused({"benchmarks.gsm8k_acc": HELD, "benchmarks.ppo_gsm8k_acc": HELD})
    assert list(found) == ["benchmarks.gsm8k_acc"] and "one of base, sft, ppo" in found["benchmarks.gsm8k_acc"]
