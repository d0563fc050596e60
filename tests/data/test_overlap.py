"""Copies are found however they are spelt: on planted ones, and against a slow comparison of all pairs."""

import random

import pytest

from data.overlap import COMMON, GRAM, HeldOut, Overlap, Said, grams, seen, whole, words
from data.records import Demonstration, Message, Prompt, Ranking

SENTENCE = "The old bridge by the mill was rebuilt after the flood of last spring."


def prompt(name, text):
    return Said.of(Prompt(name, (Message("user", text),)))


def found(held, *training):
    return HeldOut({"held": held}).overlap(training)["held"]


@pytest.mark.parametrize(
    "copy",
    [
        "what do\u200b penguins eat?",  # a space that nobody sees
        "What do pen\u00adguins eat?",  # a soft hyphen
        "\ufeffWhat do penguins eat?",
        "W\u2060h\u200da\u200ct do penguins eat",
        "What do peng\u034fuins e\ufe0fat?",
        "What  DO\u00a0penguins\n eat",
        "“What do penguins eat?!”",
        "Ｗｈａｔ do penguins eat？",  # full width
        "What do penguins eat\u202e?",
        "what-do-penguins-eat",
        "What do \U000e0041penguins eat?",  # a tag character
    ],
)
def test_a_question_is_found_however_it_is_spelt(copy):
    assert found([prompt("h", "What do penguins eat?")], prompt("t", copy)) == Overlap(("h",))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("cafe\u0301", "CAF\u00c9"), ("ﬁve", "five"), ("can't", "can’t"), ("straße", "STRASSE"), ("²", "2"), ("\u1e9b\u0323", "ṩ"),
        ("e\u200b\u0301t\u200de\u0301", "été"), ("한국", "\u1112\u1161\u11ab\u1100\u116e\u11a8"),
    ],
)  # fmt: skip
def test_equal_for_a_reader_is_equal(one, other):
    assert whole(one) == whole(other) != ""


@pytest.mark.parametrize(
    ("one", "other"), [("cafe", "café"), ("what is it", "what it is"), ("…?", "!!"), ("😀", "😎"), ("3.5", "35")]
)
def test_what_differs_for_a_reader_differs(one, other):
    assert whole(one) != whole(other)


def test_words_are_counted_by_hand():
    assert words("Don't stop: well-known_things, 3 of 4!") == [
        "dont",
        "stop",
        "well",
        "known",
        "things",
        "3",
        "of",
        "4",
    ]
    # A script without spaces: each character is one.
    assert words("水是什么 water") == ["水", "是", "什", "么", "water"]
    assert len(words(SENTENCE)) == 14 and [len(g) for g in grams(SENTENCE)] == [GRAM] * 2
    assert list(grams("only a few words")) == []
    assert seen("A\u200bB") == "ab"


def test_plain_text_is_parted_as_any_other_text():
    """The short way for ASCII against the long way, which a character beyond it at the end forces."""
    rng = random.Random(5)
    letters = [chr(c) for c in range(1, 128)] + list("''aaeeiioottnnss    ")
    for _ in range(300):
        text = "".join(rng.choice(letters) for _ in range(rng.randrange(80)))
        assert words(text) == words(f"{text} é")[:-1]


def test_thirteen_words_in_a_row_are_a_copy_and_twelve_are_not():
    thirteen, twelve = " ".join(SENTENCE.split()[:13]), " ".join(SENTENCE.split()[1:13])
    held = [prompt("h", f"Summarise this. {SENTENCE} Be brief.")]
    assert found(held, prompt("t", f"Once more: {twelve} and so on for quite some time yet to come")).found == {}
    copy = found(held, prompt("t", f"Once more: {thirteen.upper()}, and so on"))
    assert copy == Overlap((), {"h": "the old bridge by the mill was rebuilt after the flood of last"})


def test_copies_are_found_in_answers_and_later_turns_but_not_in_system_prompts():
    turns = (
        Message("system", "Always answer in one short and friendly sentence that a child of six would understand at once, please."),
        Message("user", "Hello"), Message("assistant", SENTENCE), Message("user", "Why?"),
    )  # fmt: skip
    said = Said.of(Prompt("h", turns))
    assert said.question == "Hello" and len(said.texts) == 3
    assert found([said], Said.of(Demonstration("t", (Message("user", "x"),), SENTENCE))).found.keys() == {"h"}
    same_system = Said.of(Prompt("t", (turns[0], Message("user", "Bye"))))
    assert found([said], same_system) == Overlap()
    # "Why?" is asked everywhere; only a first question is a question of its own.
    assert found([said], prompt("t", "Why?")) == Overlap() and found([said], prompt("t", "hello!")).asked == ("h",)
    ranking = Ranking("r", (Message("user", "q"),), ("no", SENTENCE), (0, 1), (True, True))
    assert (
        found([Said.of(ranking)], said).found.keys() == {"r"}
        and found([Said.of(ranking)], prompt("t", "No")) == Overlap()
    )


def test_a_run_in_many_training_records_is_a_template_and_counted_as_one():
    held = [prompt("h", f"{SENTENCE} What now?")]
    few = [prompt(f"t{i}", f"{SENTENCE} And then {i}?") for i in range(COMMON)]
    assert found(held, *few).found.keys() == {"h"}
    # Twice in one record is one record.
    assert found(held, *few[1:], prompt("t", f"{SENTENCE} {SENTENCE}")).found.keys() == {"h"}
    assert found(held, *few, prompt("t", SENTENCE)) == Overlap((), {}, 2)
    # A whole question asked that often is no template.
    assert found(held, *[prompt(f"t{i}", f"{SENTENCE} What now?!") for i in range(COMMON + 5)]).asked == ("h",)


def test_the_fast_search_finds_what_a_comparison_of_all_pairs_finds():
    """Texts over an alphabet of three words share many runs, and few starts are rare."""
    rng = random.Random(3)
    make = lambda n: " ".join(rng.choice("abc") for _ in range(n))  # noqa: E731
    held = [prompt(f"h{i}", make(60)) for i in range(40)]
    training = [prompt(f"t{i}", make(rng.randrange(5, 400))) for i in range(60)]
    for record in rng.sample(range(60), 12):
        piece = held[rng.randrange(40)].texts[0].split()
        at = rng.randrange(40)
        training[record] = prompt(f"t{record}", f"{make(30)} {' '.join(piece[at : at + 15])} {make(9)}")
    slow = {
        h.id
        for h in held
        for t in training
        if any(
            f" {' '.join(g)} " in f" {t.texts[0]} "
            for g in zip(*(h.texts[0].split()[k:] for k in range(13)), strict=False)
        )
    }
    assert 3 < len(slow) < 40 and found(held, *training).found.keys() == slow
    touching = HeldOut({"held": held})
    assert all(touching.touches(t) == bool(found(held, t).count) for t in training)
