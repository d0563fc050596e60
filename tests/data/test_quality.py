"""What is odd about the data is counted and shown."""

from data.quality import EXAMPLES, Odd, duplicates, leaks, repeated_questions, report, ties
from data.records import Demonstration, Message, Prompt, Ranking


def asks(text: str) -> tuple[Message, ...]:
    return (Message("user", text),)


def shown(name: str, question: str, answer: str = "a") -> Demonstration:
    return Demonstration(name, asks(question), answer)


def ranked(name: str, ranks: tuple[int, ...]) -> Ranking:
    return Ranking(name, asks("Q"), tuple("abcd"[: len(ranks)]), ranks, (True,) * len(ranks))


def test_a_repeated_question_is_no_duplicate_unless_the_answer_repeats_too():
    records = [shown("1", "Why?"), shown("2", "why? "), shown("3", "Why?"), shown("4", "Why?", "b"), shown("5", "Who?")]
    assert repeated_questions(records) == Odd(3, ("2 = 1", "3 = 1", "4 = 1"))
    assert duplicates(records) == Odd(1, ("3 = 1",))


def test_records_of_one_id_are_still_two_records():
    assert duplicates([shown("x", "q"), shown("x", "q")]).count == 1


def test_tied_pairs_are_counted_where_they_are():
    # Of four answers there are 6 pairs: all tied, then 0 against three tied at 1 (3 pairs tied), then none.
    assert ties([ranked("a", (0, 0, 0, 0)), ranked("b", (0, 1, 1, 1)), ranked("c", (0, 1, 2, 3))]) == Odd(9, ("a", "b"))


def test_a_question_in_two_sets_is_a_leak_whatever_its_case():
    train, other = [shown("1", "Why  IS it?"), shown("2", "How?")], [Prompt("3", asks("who?"))]
    held = [Prompt("4", asks("why is it?")), Prompt("5", asks("Where?"))]
    assert leaks({"train": train, "other": other, "held-out": held}) == {("train", "held-out"): Odd(1, ("why is it?",))}


def test_examples_are_few_and_counts_are_whole():
    found = repeated_questions([Prompt(str(i), asks("same")) for i in range(100)])
    assert found.count == 99 and len(found.examples) == EXAMPLES


def test_report_counts_all_of_it():
    rankings = [ranked("a", (0, 0, 0)), ranked("b", (0, 1, 1))]
    assert report(rankings) == {
        "records": 2,
        "repeated_questions": 1,
        "duplicates": 0,
        "pairs": 2,
        "tied_pairs": 4,
        "all_tied": 1,
    }
    assert report([Prompt("x", asks("a"))]) == {"records": 1, "repeated_questions": 0, "duplicates": 0}
