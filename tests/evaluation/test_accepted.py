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


@pytest.mark.parametrize("text", ["{", "[1]", '"yes"'])
def test_a_damaged_file_of_acceptances_is_a_line_that_says_what_to_do(tmp_path, text):
    (tmp_path / accepted.FILE).write_text(text)
    with pytest.raises(UserError, match=r"accepted_gates.json: damaged. Remove it"):
        accepted.read(tmp_path)
