"""A question is on one side, wherever it stands and however it is spelt."""

from data.records import Message
from data.splits import is_test


def asks(text: str, *more: Message) -> tuple[Message, ...]:
    return (Message("user", text), *more)


def test_the_share_is_kept_and_the_order_does_not_matter():
    questions = [f"question {i}" for i in range(4000)]
    sides = {q: is_test(asks(q), 0.1) for q in questions}
    assert 0.085 < sum(sides.values()) / 4000 < 0.115
    assert all(is_test(asks(q), 0.1) == sides[q] for q in reversed(questions))


def test_case_spacing_and_later_turns_do_not_move_a_question():
    later = asks("Why  IS it?", Message("assistant", "so"), Message("user", "and?"))
    assert is_test(asks("why is it?"), 0.5) == is_test(later, 0.5)
    questions = [f"Q {i}" for i in range(50)]
    assert all(is_test(asks(q), 0.5) == is_test(asks(q.lower()), 0.5) for q in questions)


def test_a_larger_share_only_adds():
    assert all(is_test(asks(f"{i}"), 0.3) for i in range(500) if is_test(asks(f"{i}"), 0.1))


def test_how_an_accent_is_composed_does_not_move_a_question():
    composed, apart = "caf\u00e9 number", "cafe\u0301 number"
    assert all(is_test(asks(f"{composed} {i}"), 0.5) == is_test(asks(f"{apart} {i}"), 0.5) for i in range(50))


def test_what_nobody_sees_does_not_move_a_question():
    questions = [f"what is number {i}?" for i in range(50)]
    for hide in (lambda q: q.replace(" ", " \u200b"), lambda q: q.replace("w", "ｗ"), lambda q: f"\ufeff{q}\u2060"):
        assert all(is_test(asks(q), 0.5) == is_test(asks(hide(q)), 0.5) for q in questions)


def test_the_side_of_a_question_is_the_same_in_every_version():
    """By hand: printf '\\nwhat is rain?' | sha256sum starts with d3, so the question lies between 0xd3 and 0xd4 of 256."""
    assert is_test(asks("What  is rain?"), 0xD4 / 256)
    assert not is_test(asks("What  is rain?"), 0xD3 / 256)


def test_a_salt_draws_another_split():
    questions = [asks(f"question {i}") for i in range(200)]
    assert [is_test(q, 0.5) for q in questions] != [is_test(q, 0.5, salt="b") for q in questions]
