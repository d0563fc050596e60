"""What is odd about sets of records: counted and shown by example, never dropped in silence."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass, replace
from itertools import combinations

from data.overlap import prompt_of, seen
from data.records import Message, Ranking, Record

EXAMPLES = 5


@dataclass(frozen=True)
class Odd:
    """How many, and the first few by id or text."""

    count: int
    examples: tuple[str, ...]


def first_turn_key(messages: Sequence[Message]) -> str:
    """The first user turn as a reader sees it, without regard to case, spacing, Unicode's equivalent forms and what is invisible:
    what makes two prompts one question, and decides its side of the split."""
    first = next((m.content for m in messages if m.role == "user"), "")
    return " ".join(seen(first).split())


def question_of(record: Record) -> str:
    """What a record asks. Records of one question resemble each other: they stand on one side of a split, and are one draw of an interval."""
    return first_turn_key(prompt_of(record))


def questions_of(records: Iterable[Record], parts: Iterable[Sized]) -> list[str]:
    """The question of each record as often as it has parts (pairs, tokens), read from it once."""
    return [question for record, own in zip(records, parts, strict=True) for question in [question_of(record)] * len(own)]


def repeated_questions(records: Iterable[Record]) -> Odd:
    """Records whose first user turn an earlier record asked already; examples are "this = earlier" by id."""
    return _repeats(records, question_of)


def duplicates(records: Iterable[Record]) -> Odd:
    """Records that say nothing new: an earlier one is the same but for id and topic."""
    return _repeats(records, lambda r: replace(r, id="", topic=None))


def ties(rankings: Iterable[Ranking]) -> Odd:
    """Pairs of answers at one rank, which teach a reward model nothing; examples are ids of the rankings that hold them."""
    tied = [(r.id, len(r.ranks) * (len(r.ranks) - 1) // 2 - len(r.pairs())) for r in rankings]
    return Odd(sum(n for _, n in tied), tuple(name for name, n in tied if n)[:EXAMPLES])


def leaks(sets: Mapping[str, Iterable[Record]]) -> dict[tuple[str, str], Odd]:
    """Questions that two of the named sets share, for each pair of sets that shares any; examples are the questions."""
    asked = {name: {question_of(r) for r in records} for name, records in sets.items()}
    shared = {(a, b): sorted(asked[a] & asked[b]) for a, b in combinations(asked, 2)}
    return {names: Odd(len(found), tuple(found[:EXAMPLES])) for names, found in shared.items() if found}


def report(records: Iterable[Record]) -> dict[str, int]:
    """Counts of records, repeated questions, and (for rankings) pairs, tied pairs and rankings that are one tie."""
    records = list(records)
    found = {
        "records": len(records),
        "repeated_questions": repeated_questions(records).count,
        "duplicates": duplicates(records).count,
    }
    rankings = [r for r in records if isinstance(r, Ranking)]
    if rankings:
        pairs = sum(len(r.pairs()) for r in rankings)
        found |= {
            "pairs": pairs,
            "tied_pairs": ties(rankings).count,
            "all_tied": sum(not r.pairs() for r in rankings),
        }
    return found


def _repeats(records: Iterable[Record], key) -> Odd:
    first: dict[Hashable, str] = {}
    again = []
    for record in records:
        said = key(record)
        if said in first:
            again.append(f"{record.id} = {first[said]}")
        else:
            first[said] = record.id
    return Odd(len(again), tuple(again[:EXAMPLES]))
