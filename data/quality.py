"""What is odd about a set of records: counted and reported, never dropped in silence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from data.records import Demonstration, Message, Prompt, Ranking


def first_turn_key(messages: Sequence[Message]) -> str:
    """The first user turn, without regard to case and spacing: what makes two prompts the same question."""
    first = next((m.content for m in messages if m.role == "user"), "")
    return " ".join(first.casefold().split())


def prompt_of(record: Prompt | Demonstration | Ranking) -> tuple[Message, ...]:
    return record.messages if isinstance(record, Prompt) else record.prompt


def report(records: Iterable[Prompt | Demonstration | Ranking]) -> dict[str, int]:
    """Counts of records, repeated questions, and (for rankings) pairs, tied pairs and rankings that are one tie."""
    records = list(records)
    keys = Counter(first_turn_key(prompt_of(r)) for r in records)
    found = {"records": len(records), "repeated_questions": sum(n - 1 for n in keys.values())}
    rankings = [r for r in records if isinstance(r, Ranking)]
    if rankings:
        possible = sum(len(r.ranks) * (len(r.ranks) - 1) // 2 for r in rankings)
        pairs = sum(len(r.pairs()) for r in rankings)
        found |= {"pairs": pairs, "tied_pairs": possible - pairs, "all_tied": sum(not r.pairs() for r in rankings)}
    return found
