"""The rubric says what its table says. Expected values are counted by hand."""

import pytest

from reward.rubric import MAXIMUM, PART_WEIGHTS, gold, gold_score, rubric_parts

QUESTION = "What do penguins eat?"
GOOD = "Penguins eat fish, squid and small crabs that they catch under water."


def parts(answer, finished=True, prompt=QUESTION):
    return rubric_parts(prompt, answer, finished)


def test_a_good_answer_has_it_all():
    assert parts(GOOD) == dict.fromkeys(PART_WEIGHTS, 1.0)
    assert gold_score(QUESTION, GOOD, True) == MAXIMUM == pytest.approx(6.0)


def test_finished_needs_both_the_models_end_and_a_closed_sentence():
    assert parts(GOOD, finished=False)["finished"] == 0.0
    assert parts(GOOD.rstrip(".") + " and", finished=True)["finished"] == 0.0


@pytest.mark.parametrize(
    ("words", "expected"), [(2, 0.0), (4, 0.5), (6, 1.0), (20, 1.0), (30, 0.5), (40, 0.0), (80, 0.0)]
)
def test_concise_is_a_trapezoid_over_words(words, expected):
    letters = "abcdefghijklmnopqrstuvwxyz"
    text = " ".join(letters[i % 26] + letters[i // 26] for i in range(words))
    assert parts(text)["concise"] == pytest.approx(expected)


def test_relevant_asks_for_half_of_the_questions_content_words_early():
    assert parts("Bread is tasty and fresh in the morning.")["relevant"] == 0.0
    assert parts("They swim far. They dive deep. Penguins do that.")["relevant"] == 0.0
    assert parts("A penguin likes the sea.")["relevant"] == 1.0


@pytest.mark.parametrize(
    "answer",
    [
        "Sure! Penguins eat fish.",
        "What do penguins eat is a question.",
        "Do you mean penguins?",
        "I think penguins eat fish.",
        "There are many foods.",
    ],
)
def test_direct_refuses_preambles_echoes_and_questions_back(answer):
    assert parts(answer)["direct"] == 0.0


def test_varied_falls_with_repeated_word_pairs():
    assert parts("fish fish fish fish fish fish")["varied"] == 0.0
    assert parts("one two three one two four five six seven eight")["varied"] == pytest.approx(1 - 3 * 1 / 9)


def test_plain_refuses_lists_and_markup():
    assert parts("- fish\n- squid")["plain"] == 0.0
    assert parts("**Fish** is what they eat.")["plain"] == 0.0
    assert parts('They eat the "fish.')["plain"] == 0.5


def test_no_single_word_wins_it():
    for answer in ("Penguins.", "Yes.", "Penguins eat.", "."):
        assert gold_score(QUESTION, answer, True) <= 0.5 * MAXIMUM
    assert gold_score(QUESTION, "penguins " * 20, True) < gold_score(QUESTION, GOOD, False)


def test_an_empty_answer_scores_nothing():
    assert gold(parts("")) == 0.0 and gold(parts("…")) == 0.0
