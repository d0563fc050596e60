import json
import math

import pytest

from data.errors import UserError
from pipeline.evaluation.cards import Card, Entry, read_card, write_card


def card(*entries: Entry) -> Card:
    return Card("sft", entries)


def test_a_card_comes_back_from_disk_as_it_went(tmp_path):
    written = card(Entry("gold", 1.5, 120, 1.4, 1.6, "points", "naïve — ≥ 1"), Entry("eos_rate", 0.0, 240))
    write_card(tmp_path / "card.json", written)
    assert read_card(tmp_path / "card.json") == written
    assert [p.name for p in tmp_path.iterdir()] == ["card.json"]


def test_the_file_has_the_documented_keys(tmp_path):
    write_card(tmp_path / "card.json", card(Entry("gold", 1.5, 120)))
    raw = json.loads((tmp_path / "card.json").read_text())
    assert raw == {
        "stage": "sft",
        "entries": [
            {"metric": "gold", "value": 1.5, "n": 120, "ci_low": None, "ci_high": None, "unit": "", "note": ""}
        ],
    }


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_none_becomes_null_and_the_note_says_so(tmp_path, odd):
    write_card(tmp_path / "card.json", card(Entry("kl", odd, 3, note="k1")))
    (entry,) = read_card(tmp_path / "card.json").entries
    assert entry.value is None
    assert entry.note == f"k1; value was {odd}"


def test_a_number_without_an_interval_says_so_in_words_and_not_in_names_of_fields(tmp_path):
    write_card(tmp_path / "card.json", card(Entry("accuracy", 0.6, 3, math.nan, math.nan, note="18 pairs")))
    (entry,) = read_card(tmp_path / "card.json").entries
    assert (entry.ci_low, entry.ci_high) == (None, None)
    assert entry.note == "18 pairs; no interval could be made from n = 3"


def test_values_are_the_finite_ones():
    assert card(Entry("a", 1, 1), Entry("b", None, 1), Entry("c", math.nan, 1)).values() == {"a": 1.0}


def test_a_newer_card_with_more_keys_can_be_read(tmp_path):
    raw = card(Entry("gold", 1.0, 2)).to_dict()
    raw["entries"][0]["seeds"] = [0, 1]
    raw["hashes"] = {}
    (tmp_path / "card.json").write_text(json.dumps(raw))
    assert read_card(tmp_path / "card.json").names == ("gold",)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "Expecting property name"),
        ("[]", "not a card"),
        ('{"stage": "sft", "entries": [{"value": 1}]}', "entry 1: metric, n missing"),
        ('{"stage": "sft", "entries": [7]}', "entry 1: metric, n, value missing"),
        ('{"stage": "sft", "entries": [{"metric": "a", "value": "1", "n": 1}]}', "value is '1'"),
        ('{"stage": "sft", "entries": [{"metric": "a", "value": 1, "n": -1}]}', "n is -1"),
        ('{"stage": "sft", "entries": [{"metric": "a", "value": 1, "n": 1, "unit": 3}]}', "must be text"),
    ],
)
def test_a_broken_card_is_named_with_its_reason(tmp_path, text, reason):
    path = tmp_path / "card.json"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        read_card(path)
    assert str(path) in caught.value.problems[0]
    assert reason in caught.value.problems[0]


def test_a_missing_card_is_named(tmp_path):
    with pytest.raises(UserError, match=r"No such file.*Run the evaluation again"):
        read_card(tmp_path / "card.json")


def test_the_same_metric_twice_is_refused():
    with pytest.raises(ValueError, match="gold stands there twice"):
        card(Entry("gold", 1.0, 1), Entry("gold", 2.0, 1))


@pytest.mark.parametrize("name", ["", "gold.part"])
def test_a_metric_name_that_no_gate_could_name_is_refused(name):
    with pytest.raises(ValueError, match="must not be empty or hold a dot"):
        Entry(name, 1.0, 1)
