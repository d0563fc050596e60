import math
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest

from pipeline.config import Config
from pipeline.evaluation import gate_hints, gates
from pipeline.evaluation.expected import POLICIES, groups_of

WHERE = "runs/r1/evaluation/ppo/card.json"


def card(**values):
    entries = [
        {"metric": name, "value": value, "n": 120, "ci_low": None, "ci_high": None, "unit": "", "note": ""}
        for name, value in values.items()
    ]
    return {"stage": "ppo", "entries": entries}


def check(raw, bounds):
    return gates.check(raw, bounds, "ppo", WHERE)


def test_the_line_says_number_unit_bound_file_and_what_to_change():
    raw = card(kl_to_reference=22.4)
    raw["entries"][0]["unit"] = "nats"
    assert check(raw, {"ppo.kl_to_reference": {"max": 15.0}}) == [
        f"gate ppo.kl_to_reference: 22.4 nats > 15 ({WHERE}). The policy drifted; raise ppo.kl_coef."
    ]


def test_a_bound_is_inclusive_on_both_sides():
    assert check(card(a=1.0), {"ppo.a": {"min": 1.0, "max": 1.0}}) == []


@pytest.mark.parametrize(("value", "sign"), [(0.999999, "<"), (2.000001, ">")])
def test_a_near_miss_is_a_miss_and_the_two_numbers_look_different(value, sign):
    (line,) = check(card(a=value), {"ppo.a": {"min": 1.0, "max": 2.0}})
    left, right = line.removeprefix("gate ppo.a: ").split(" (")[0].split(f" {sign} ")
    assert float(left) != float(right)


@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("bounds", [{"min": -1e9}, {"max": 1e9}])
def test_a_number_that_is_none_never_passes(value, bounds):
    (line,) = check(card(a=value), {"ppo.a": bounds})
    assert "no number" in line


def test_an_unknown_metric_lists_those_that_exist_and_guesses():
    (line,) = check(card(gold=1.0, eos_rate=0.9), {"ppo.eosrate": {"min": 0.5}})
    assert "did you mean 'eos_rate'?" in line
    assert "gold, eos_rate" in line


def test_a_metric_named_in_a_gate_of_an_empty_card_fails():
    (line,) = check(card(), {"ppo.gold": {"min": 0.0}})
    assert "The card has: none." in line


def test_gates_of_other_stages_are_not_held():
    assert check(card(gold=1.0), {"sft.gold": {"min": 5.0}, "ppo_x.gold": {"min": 5.0}}) == []


def test_a_gate_that_only_warns_is_missed_and_stops_nothing():
    gate = {"ppo.gold": {"min": 2.0, "warn": True}}
    (result,) = gates.results(card(gold=1.0), gate, "ppo", WHERE)
    assert not result.passed and result.warns and "1 < 2" in result.problem
    assert check(card(gold=1.0), gate) == [] and len(check(card(gold=1.0), {"ppo.gold": {"min": 2.0, "warn": False}})) == 1
    assert gates.results(card(), gate, "ppo", WHERE)[0].warns


def test_a_verdict_says_what_was_asked_of_which_number_and_why_it_stands():
    bounds = {"ppo.a": {"min": 0.0}, "ppo.b": {"max": 1.0}, "ppo.c": {"min": 0.0}, "ppo.d": {"min": 3.0, "max": 4.0, "warn": True}}
    held = gates.results(card(a=0.5, b=2.0, c=math.nan, d=1.0), bounds, "ppo", WHERE)
    a, b, c, d = (gates.verdict(result, {"ppo.b": "known"}) for result in held)
    assert a == {"gate": "ppo.a", "metric": "a", "value": 0.5, "min": 0.0, "max": None, "state": "passed", "why": ""}
    assert (b["state"], b["why"], b["value"], b["max"]) == ("accepted", "known", 2.0, 1.0)
    assert (c["state"], c["value"], c["why"]) == ("missed", None, held[2].problem) and "no number" in c["why"]
    assert (d["state"], d["min"], d["max"]) == ("warned", 3.0, 4.0)


def test_where_there_is_no_number_the_card_s_own_reason_is_told():
    raw = card(a=math.nan)
    raw["entries"][0]["note"] = "needs answers to two prompts"
    assert f"no number ({WHERE}, needs answers to two prompts)" in check(raw, {"ppo.a": {"min": 0.0}})[0]


def test_a_gate_may_ask_for_the_end_of_an_interval():
    raw = card(gold_minus_sft=0.5)
    raw["entries"][0] |= {"ci_low": -0.1, "ci_high": 1.1}
    assert check(raw, {"ppo.gold_minus_sft": {"min": 0.0}}) == []
    (line,) = check(raw, {"ppo.gold_minus_sft.ci_low": {"min": 0.0}})
    assert "-0.1 < 0 " in line
    assert "check reward.clean_accuracy first" in line


def test_a_gate_on_an_interval_that_was_not_made_fails():
    assert len(check(card(gold_minus_sft=0.5), {"ppo.gold_minus_sft.ci_low": {"min": 0.0}})) == 1


def test_an_unknown_end_of_an_interval_is_explained():
    (line,) = check(card(a=1.0), {"ppo.a.ci_lo": {"min": 0.0}})
    assert "'ci_lo' is no part of a metric" in line


def test_a_gate_without_a_bound_fails_instead_of_passing_everything():
    assert len(check(card(a=1.0), {"ppo.a": {}})) == 1
    assert len(check(card(a=1.0), {"ppo.a": {"min": None, "max": None}})) == 1


def test_a_bound_of_zero_is_a_bound():
    assert len(check(card(a=-1.0, b=1.0), {"ppo.a": {"min": 0}, "ppo.b": {"max": 0}})) == 2


def test_bounds_may_be_objects_with_min_and_max():
    assert len(check(card(a=1.0), {"ppo.a": SimpleNamespace(min=2.0, max=None)})) == 1


def test_results_keep_the_order_of_the_configuration_and_the_numbers():
    found = gates.results(card(a=1.0, b=2.0), {"ppo.b": {"min": 0}, "ppo.a": {"min": 3}}, "ppo", WHERE)
    assert [(r.metric, r.value, r.low, r.high, r.passed) for r in found] == [
        ("b", 2.0, 0, None, True),
        ("a", 1.0, 3, None, False),
    ]


def test_the_gates_do_not_import_torch():
    code = "import sys, pipeline.evaluation.gates; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_hint_names_a_side():
    assert {side for _, side in gate_hints.HINTS} == {"min", "max"}


def named_by(hints) -> set[str]:
    """Whatever in them reads like section.key."""
    return {name for text in hints for name in re.findall(r"\b[a-z]\w*\.[a-z]\w*\b", text)} - {"report.md"}


@pytest.mark.parametrize(("learner", "other"), [("ppo", "kto"), ("kto", "ppo")])
def test_hints_speak_of_the_learner_that_ran_and_name_its_settings(learner, other):
    gates_known = {key.replace("*", stage) for key, _ in (*gate_hints.HINTS, *gate_hints.OF_KTO) for stage in POLICIES}
    told = [
        gate_hints.hint(*gate.partition(".")[::2], side, learner) for gate in gates_known for side in ("min", "max")
    ]
    settings = {f"{section}.{key}" for section, made in Config.model_fields.items() for key in fields_of(made)}
    numbers = named_by(told) - settings
    # What is no setting is a number of another card, or the gate itself where nothing is known of it.
    assert all(groups_of(*name.split(".")) or name.split(".")[0] in ("gates", "benchmarks") for name in numbers), numbers
    assert not [text for text in told if re.search(rf"\b{other.upper()}\b", text)]
    assert not [name for name in named_by(told) & settings if name.startswith(f"{other}.")]
    assert any(name.startswith(f"{learner}.") for name in named_by(told) & settings)


def fields_of(field) -> list[str]:
    return list(getattr(field.annotation, "model_fields", ()))


def test_a_missed_gate_of_a_run_with_kto_says_what_to_change_in_kto():
    raw, gate = card(kl_to_reference=22.4), {"ppo.kl_to_reference": {"max": 15.0}}
    assert gates.check(raw, gate, "ppo", WHERE, "kto")[0].endswith("raise kto.beta, or lower kto.learning_rate or kto.epochs.")
