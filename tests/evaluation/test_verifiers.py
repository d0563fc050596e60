import pytest

from pipeline.evaluation.verifiers import VERIFIERS, verify


@pytest.mark.parametrize(
    ("name", "answer", "reference", "right"),
    [
        ("same_words", " The  CAT sat.", "the cat sat", True),
        ("same_words", "the cat sat down", "the cat sat", False),
        ("contains", "I think it is New York, really.", "new york", True),
        ("contains", "Let us start.", "art", False),
        ("contains", "York is new.", "new york", False),
        ("contains", "anything", "", False),
        ("last_number", "3 boxes of 4 make 12.", "12", True),
        ("last_number", "It costs $1,200.50", "1200.5", True),
        ("last_number", "12, not 13", "12", False),
        ("last_number", "It is -5.", "5", False),
        ("last_number", "none", "5", False),
        ("is_json", '{"b": 1, "a": [2]}', '{"a": [2], "b": 1}', True),
        ("is_json", "{a: 1}", "", False),
        ("is_json", "[1]", "", True),
        ("at_most_words", "One two three.", "3", True),
        ("at_most_words", "One two three four.", "3", False),
        ("at_most_words", "...", "3", False),
    ],
)
def test_each_verifier_on_answers_judged_by_hand(name, answer, reference, right):
    assert verify(name, [answer], [reference]).tolist() == [float(right)]


@pytest.mark.parametrize("name", VERIFIERS)
def test_an_empty_answer_is_never_right(name):
    assert verify(name, ["", " \n"], ["1", "1"]).tolist() == [0.0, 0.0]


def test_a_verifier_that_does_not_exist_is_named_with_those_that_do():
    with pytest.raises(ValueError, match="no verifier 'exakt'; there are: same_words"):
        verify("exakt", ["a"], ["a"])
