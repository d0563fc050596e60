"""A question is on one side, wherever it stands and however it is spelt."""

from data.quality import report
from data.records import Message, Prompt, Ranking
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


def test_counts_of_what_is_odd():
    rankings = [
        Ranking(str(i), asks("Q"), ("a", "b", "c"), ranks, (True,) * 3)
        for i, ranks in enumerate([(0, 0, 0), (0, 1, 1)])
    ]
    assert report(rankings) == {"records": 2, "repeated_questions": 1, "pairs": 2, "tied_pairs": 4, "all_tied": 1}
    assert report([Prompt("x", asks("a"))]) == {"records": 1, "repeated_questions": 0}
