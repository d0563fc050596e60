"""A person accepts one number against one bound, and nothing worse."""

import json

import pytest

from data.errors import UserError
from pipeline.evaluation import accepted, gates

GATE = "ppo.kl_to_reference"


def held(value, **bounds):
    card = {"stage": "ppo", "entries": [{"metric": "kl_to_reference", "value": value, "n": 9}]}
    return gates.results(card, {GATE: bounds}, "ppo", "card.json")


def covered(run, value, **bounds):
    return bool(accepted.covering(run, held(value, **bounds)))


def test_an_acceptance_is_kept_with_its_reason_and_needs_one(tmp_path):
    assert accepted.read(tmp_path) == {}
    accepted.accept(tmp_path, "sft.gold", " a pilot ")
    accepted.accept(tmp_path, "ppo.gold", "the same")
    assert accepted.read(tmp_path) == {"sft.gold": "a pilot", "ppo.gold": "the same"}
    with pytest.raises(ValueError, match="needs a reason"):
        accepted.accept(tmp_path, "sft.gold", " ")


def test_what_was_accepted_covers_that_number_and_better_ones_against_the_same_bound_alone(tmp_path):
    accepted.accept(tmp_path, GATE, "read the answers")
    accepted.note(tmp_path, held(16.0, min=1.0, max=15.0))
    assert covered(tmp_path, 16.0, min=1.0, max=15.0) and covered(tmp_path, 15.5, min=1.0, max=15.0)
    assert not covered(tmp_path, 40.0, min=1.0, max=15.0) and not covered(tmp_path, -5.0, min=1.0, max=15.0)
    assert not covered(tmp_path, 16.0, max=15.0) and not covered(tmp_path, 16.0, min=1.0, max=10.0)
    assert not covered(tmp_path, None, min=1.0, max=15.0)
    (worse,) = held(40.0, min=1.0, max=15.0)
    assert "16 against min 1 and max 15" in accepted.outdated(tmp_path, worse)
    # Said again, it is for what is there now.
    accepted.accept(tmp_path, GATE, "read these too")
    accepted.note(tmp_path, [worse])
    assert covered(tmp_path, 40.0, min=1.0, max=15.0) and not accepted.outdated(tmp_path, worse)


def test_a_millionth_of_the_number_is_rounding_and_more_is_worse(tmp_path):
    accepted.accept(tmp_path, GATE, "read the answers")
    accepted.note(tmp_path, held(16.0, max=15.0))
    assert covered(tmp_path, 16.0 + 1.5e-5, max=15.0) and not covered(tmp_path, 16.0 + 1.7e-5, max=15.0)
    # Nothing is outdated that was never accepted, nor what holds.
    (missed,) = held(16.0, max=15.0)
    assert accepted.outdated(tmp_path, missed) == "" == accepted.outdated(tmp_path / "none", missed)


def test_an_acceptance_that_was_not_needed_covers_no_later_miss(tmp_path):
    accepted.accept(tmp_path, GATE, "just in case")
    accepted.note(tmp_path, held(5.0, max=15.0))
    assert not covered(tmp_path, 15.1, max=15.0)


def test_an_accepted_lack_of_a_number_covers_no_number(tmp_path):
    accepted.accept(tmp_path, GATE, "not measurable here")
    accepted.note(tmp_path, held(None, max=15.0))
    assert covered(tmp_path, None, max=15.0) and not covered(tmp_path, 99.0, max=15.0)


def test_reasons_kept_by_earlier_code_are_for_what_is_held_next(tmp_path):
    (tmp_path / accepted.FILE).write_text(json.dumps({GATE: "long ago"}))
    assert covered(tmp_path, 16.0, max=15.0)
    accepted.note(tmp_path, held(16.0, max=15.0))
    assert not covered(tmp_path, 17.0, max=15.0) and accepted.read(tmp_path) == {GATE: "long ago"}


def test_another_run_inherits_what_was_accepted_at_its_number_and_no_worse(tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir(), new.mkdir()
    accepted.accept(old, GATE, "read the answers")
    # Never held, so for no number yet: nothing that another run could be held against.
    accepted.accept(old, "sft.gold", "not looked at")
    accepted.note(old, held(16.0, max=15.0))
    accepted.inherit(new, accepted.of(old))
    assert accepted.read(new) == {GATE: "read the answers (accepted in old)"}
    assert covered(new, 16.0, max=15.0) and not covered(new, 16.1, max=15.0) and not covered(new, 16.0, max=14.0)
    assert accepted.outdated(new, held(17.0, max=15.0)[0]) == "What was accepted in old is 16 against max 15"
    # What is accepted in the old run later counts here too; what is accepted here stays.
    accepted.accept(old, GATE, "these too")
    accepted.note(old, held(18.0, max=15.0))
    accepted.inherit(new, accepted.of(old))
    assert covered(new, 18.0, max=15.0) and accepted.of(new)[GATE]["from"] == "old"
    accepted.accept(new, GATE, "here")
    accepted.inherit(new, accepted.of(old))
    assert accepted.read(new) == {GATE: "here"}


@pytest.mark.parametrize("text", ["{", "[1]", '"yes"'])
def test_a_damaged_file_of_acceptances_is_a_line_that_says_what_to_do(tmp_path, text):
    (tmp_path / accepted.FILE).write_text(text)
    with pytest.raises(UserError, match=r"accepted_gates.json: damaged. Remove it"):
        accepted.read(tmp_path)
