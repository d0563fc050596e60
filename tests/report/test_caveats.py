"""The report's doubts: each is raised by a card that gives reason for it, and by no healthy card."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from pipeline.evaluation.cards import Card, Entry
from pipeline.report.caveats import caveats
from pipeline.report.facts import Facts
from pipeline.report.sentences import floor_note

HEALTHY = {
    "reward": {
        "clean_accuracy": (0.9, 0.85, 0.95),
        "length_rule_accuracy": (0.6, 0.55, 0.65),
        "clean_accuracy_direct": (0.8, 0.7, 0.9),
    },
    "ppo": {
        "eos_rate": (0.97, 0.95, 0.99),
        "gold_minus_sft": (0.5, 0.3, 0.7),
        "gold_direct_minus_sft": (0.1, 0.05, 0.15),
        "best_of_2_gold": (4.0, 3.9, 4.1),
        "best_of_2_kl": (0.19, None, None),
        "gold_minus_best_of_2": (0.3, 0.1, 0.5),
    },
}


def facts(cards=HEALTHY, accepted=()):
    gates = tuple(SimpleNamespace(name=name, state="accepted", why=why) for name, why in accepted)
    made = {
        stage: Card(stage, tuple(Entry(m, v, 10, low, high, unit="share") for m, (v, low, high) in entries.items()))
        for stage, entries in cards.items()
    }
    config = SimpleNamespace(evaluation=SimpleNamespace(max_new_tokens=40))
    return Facts("r", config, tuple(made), {}, {}, made, {}, {}, gates)


def changed(stage, metric, *numbers):
    return {**HEALTHY, stage: {**HEALTHY[stage], metric: numbers}}


def test_a_healthy_run_has_only_the_doubt_that_every_run_has():
    assert [said.split(";")[0] for said in caveats(facts())] == [
        "Intervals are over the held-out questions of this one run"
    ]


def test_a_floor_without_an_interval_has_no_empty_brackets():
    cards = changed("reward", "observed_accuracy_minus_best_floor", -0.1, None, None)
    (said,) = (line for line in caveats(facts(cards)) if "best rule" in line)
    assert said.endswith("−10.0 pp (no interval).")
    note = "above “shorter”, the best floor on these pairs: shorter 72.2 %, longer 27.8 %; no interval could be made from n = 3"
    entry = Entry("observed_accuracy_minus_best_floor", -0.1, 3, unit="share", note=note)
    told = floor_note(replace(facts(), cards={"reward": Card("reward", (entry,))}))
    assert told.endswith("“shorter”, is −10.0 pp (no interval). The rules: shorter 72.2 %, longer 27.8 %.")


@pytest.mark.parametrize(
    ("cards", "said"),
    [
        (changed("reward", "length_rule_accuracy", 0.86, 0.8, 0.9), "not measurably better than that rule"),
        (changed("reward", "clean_accuracy_direct", 0.55, 0.45, 0.65), "On pairs that differ in “direct”"),
        (changed("ppo", "gold_direct_minus_sft", -0.1, -0.2, -0.05), "PPO lost in “direct”"),
        (
            changed("ppo", "gold_minus_best_of_2", 0.1, -0.1, 0.3),
            "Picking the best of 2 SFT answers does about as well",
        ),
        (
            changed("ppo", "eos_rate", 0.3, 0.2, 0.4),
            "PPO finished 30.0 % of its answers; the rest were cut at 40 tokens",
        ),
        ({**HEALTHY, "sft": {"gold": (4.0, 3.9, 4.1)}}, "not truth"),
    ],
)
def test_each_weak_point_is_said(cards, said):
    assert sum(said in line for line in caveats(facts(cards))) == 1


NOTE = "above “longer”, the best floor on these pairs: shorter 20.0 %, longer 80.0 %, bag of words 60.0 %"


def test_the_best_floor_is_named_once_and_takes_the_place_of_the_length_rule():
    cards = changed("reward", "length_rule_accuracy", 0.86, 0.8, 0.9)

    def lines(**entries):
        made = facts(cards)
        card = made.cards["reward"]
        more = tuple(Entry(m, v, 10, low, high, "share", NOTE) for m, (v, low, high) in entries.items())
        card = Card("reward", (*card.entries, *more))
        return [
            line
            for line in caveats(replace(made, cards={**made.cards, "reward": card}))
            if "language model" in line or "rule" in line
        ]

    (line,) = lines(
        clean_accuracy_minus_best_floor=(0.02, -0.01, 0.05), observed_accuracy_minus_best_floor=(-0.1, -0.2, -0.05)
    )
    assert "pairs without noise" in line and "“longer”: +2.0 pp (−1.0 pp to 5.0 pp)" in line
    # Better on the clean pairs is better: noise in labels holds for model and floor alike.
    assert (
        lines(clean_accuracy_minus_best_floor=(0.04, 0.01, 0.07), observed_accuracy_minus_best_floor=(0.0, -0.1, 0.1))
        == []
    )
    (line,) = lines(observed_accuracy_minus_best_floor=(0.0, -0.1, 0.1))[1:]
    assert "pairs as labelled" in line


def test_a_loss_within_the_noise_is_told_as_such():
    lines = caveats(facts(changed("ppo", "gold_direct_minus_sft", -0.1, -0.2, 0.05)))
    assert any("PPO may have lost in “direct”" in line for line in lines)


def test_an_accepted_gate_is_told_with_its_reason():
    assert any("looked at them" in line for line in caveats(facts(accepted=[("ppo.gold", "looked at them")])))
