"""ROUGE-L against a slow recursion, hand counts, and the paper's example."""

import random
from functools import cache

import pytest

from data.records import Demonstration, Message
from pipeline.adapters import BASE
from pipeline.config import Config
from pipeline.evaluation.answers import AnswerRow
from pipeline.evaluation.metrics import speaker_share
from pipeline.evaluation.policy_card import answer_entries
from pipeline.evaluation.rouge import common_subsequence, reference_entries, rouge_l
from pipeline.progress import track
from pipeline.template import prompt_lengths


def slow(one, other):
    """Its definition: drop the first word on either side, or keep it where both agree."""

    @cache
    def of(i, j):
        if i == len(one) or j == len(other):
            return 0
        return max(of(i + 1, j), of(i, j + 1), (one[i] == other[j]) + of(i + 1, j + 1) if one[i] == other[j] else 0)

    return of(0, 0)


def test_the_longest_common_subsequence_is_that_of_a_slow_recursion():
    rng = random.Random(0)
    for _ in range(200):
        one, other = (rng.choices("abcd", k=rng.randrange(9)) for _ in range(2))
        assert common_subsequence(one, other) == slow(tuple(one), tuple(other))


@pytest.mark.parametrize(
    ("answer", "reference", "score"),
    [
        # Lin 2004, section 3.1: against "police killed the gunman".
        ("police kill the gunman", "police killed the gunman", 3 / 4),
        ("the gunman kill police", "police killed the gunman", 2 / 4),
        # Three words of five in common, in order, against three of three: 2 · 3 / (5 + 3).
        ("boil it for ten minutes", "Boil for minutes.", 6 / 8),
        ("", "one", 0.0),
        ("?", "!", 0.0),
        ("The same.", "the same", 1.0),
    ],
)
def test_rouge_l_by_hand(answer, reference, score):
    assert rouge_l(answer, reference) == pytest.approx(score)


@pytest.mark.parametrize(
    ("answer", "speaks"),
    [
        ("It boils.\nUser: and then?", True),
        ("Human: hello", True),
        ("### Assistant: it boils", True),
        ("**User**: hello", True),
        ("<|user|>: hello", True),
        ("A user: somebody who uses it.", False),
        ("The assistant said so.", False),
        ("Users: 12", False),
        ("Answer: twelve", False),
        # The limits that the note names.
        ("Nutzer: und dann?", False),
        ("AI: what it is", True),
    ],
)
def test_a_turn_that_is_played_for_somebody_else(answer, speaks):
    assert speaker_share([answer, "It boils at 100 degrees."]) == (0.5 if speaks else 0.0)


def test_the_card_says_whose_names_count_and_which_do_not():
    rows = [AnswerRow(f"p{k}", None, "q", 0, "It boils.", True, 3, (1,)) for k in range(2)]
    (note,) = (e.note for e in answer_entries(rows, None) if e.metric == "speaker_share")
    names = note.removeprefix("a line begins with ").split(" and a colon")[0].split(", ")
    assert len(names) > 1 and all(speaker_share([f"{name.title()}: well"]) == 1.0 for name in names)
    assert "other languages are not seen" in note


def asked(number, question):
    return Demonstration(f"d{number}", (Message("user", question),), "It boils at 100 degrees.")


def entries(base, demonstrations, **evaluation):
    most = max(prompt_lengths(base.tokenizer, [asked(0, "When?").prompt]))
    data = {**dict.fromkeys(("demonstrations", "rankings", "heldout_prompts"), "-"), "max_prompt_tokens": most}
    config = Config.model_validate({"data": data, "evaluation": {"max_new_tokens": 3, **evaluation}})
    return reference_entries(base, {"SFT": BASE, "base": BASE}, demonstrations, config, track)


def test_a_prompt_that_only_sft_has_room_for_is_left_out_and_counted(make_base):
    """Its answer would be one to a shortened prompt, and a question alone that is too long is an error in the middle of a run."""
    long = asked(0, "When does water boil, high up in the mountains, where the air is thin?")
    talk = Demonstration("d1", (Message("user", "Why?"), Message("assistant", "So."), Message("user", "When?")), "Now.")
    found = entries(make_base(), [long, talk, *(asked(n, f"{n}?") for n in range(2, 9))], reference_answers=6)
    assert [e.metric for e in found] == ["rouge_l", "rouge_l_minus_base"] and found[1].value == 0
    assert found[0].n == 6 and "the first 6 of 7 demonstrations" in found[0].note
    assert "of 2 more the prompt is longer than data.max_prompt_tokens" in found[0].note


def test_the_difference_is_the_first_policys_less_the_other_s(make_base, monkeypatch):
    said = {"SFT": "It boils at 100 degrees.", "base": "It boils."}

    def answers(base, role, prompts, config, *, label, **_):
        text = said[label.split()[0]]
        return [AnswerRow(p.id, None, "q", 0, text, True, 3, (1,)) for p in prompts]

    monkeypatch.setattr("pipeline.evaluation.rouge.answer_prompts", answers)
    own, less = entries(make_base(), [asked(n, f"{n}?") for n in range(7)], reference_answers=7)
    # Two words of five in common with two: 2 · 2 / 7.
    assert (own.value, own.n) == (1.0, 7) and less.value == pytest.approx(1 - 4 / 7)


def test_without_a_reference_there_is_no_number_and_the_card_says_why(make_base):
    assert entries(make_base(), [asked(0, "When?")], reference_answers=0) == []
    long = asked(0, "When does water boil, high up in the mountains, where the air is thin?")
    for entry in entries(make_base(), [long]):
        assert entry.value != entry.value and entry.n == 0 and "of 1 more the prompt is longer" in entry.note
