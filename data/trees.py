"""Open-Assistant's message trees: volunteers' conversations that branch, with the replies to one message ranked.

    {"message_tree_id", "prompt": {"text", "role": "prompter", "replies": [{"text", "role": "assistant", "rank", "replies": […]}, …]}}

One tree gives several records: a ranking for every question with two ranked answers, and a demonstration for every question that is
reached by best answers alone, so that no history holds an answer which people thought worse than another.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from data.fields import check_fields, message_in
from data.records import Demonstration, Message, Ranking, Several, kind_of

_ROLES = {"prompter": "user", "assistant": "assistant"}


@dataclass(frozen=True)
class _Reply:
    """A message, the replies beneath it, and the turns that led to it, itself last."""

    node: dict[str, Any]
    place: str
    turns: tuple[Message, ...]
    best: bool

    @property
    def rank(self) -> int | None:
        """0 is best; None where nobody ranked it."""
        rank = self.node.get("rank")
        if rank is not None and (type(rank) is not int or rank < 0):
            raise ValueError(f"{self.place}.rank is {rank!r:.40}, expected a whole number from 0, or null")
        return rank

    def id(self, fallback: str) -> str:
        name = self.node.get("message_id")
        return name if isinstance(name, str) and name.strip() and name.isprintable() else f"{fallback}-{self.place}"


def demonstrations(row: dict[str, Any], row_id: str) -> Several:
    """The best answer to every question that best answers alone lead to; a sole answer is the best there is."""
    found, left_out = [], Counter()
    for question, answers in _questions(row, left_out):
        if not question.best or not answers:
            continue
        best = _best(answers)
        if best is None:
            left_out["questions with several answers and no best one"] += 1
        else:
            found.append(Demonstration(best.id(row_id), question.turns, best.turns[-1].content))
    return Several(tuple(found), left_out)


def rankings(row: dict[str, Any], row_id: str) -> Several:
    """The ranked answers to every question that has at least two; equal ranks are a tie."""
    found, left_out = [], Counter()
    for question, answers in _questions(row, left_out):
        ranked = [a for a in answers if a.rank is not None]
        left_out["answers without a rank"] += len(answers) - len(ranked)
        if len(ranked) < 2:
            left_out["questions with fewer than two ranked answers"] += bool(answers)
            continue
        order = sorted({a.rank for a in ranked})
        try:
            # A rank that a deleted answer held leaves a gap; only the order counts.
            ranks = tuple(order.index(a.rank) for a in ranked)
            answers_said = tuple(a.turns[-1].content for a in ranked)
            found.append(Ranking(question.id(row_id), question.turns, answers_said, ranks, (True,) * len(ranked)))
        except ValueError as error:
            raise ValueError(f"{question.place}: {error}") from None
    return Several(tuple(found), +left_out)


def _questions(row: dict[str, Any], left_out: Counter) -> Iterator[tuple[_Reply, list[_Reply]]]:
    """Every user turn of the tree, each with its usable answers, in the order of the file."""
    check_fields(row, need={"prompt"}, extras=True)
    # A list of what is still to visit, not recursion: a long conversation is deeper than Python likes to call.
    waiting = [_reply(row["prompt"], "prompt", (), best=True)]
    while waiting:
        question = waiting.pop()
        answers = _usable(question, left_out)
        yield question, answers
        best = _best(answers)
        for answer in reversed(answers):
            waiting += reversed(_usable(answer, left_out, best=question.best and answer is best))


def _usable(parent: _Reply, left_out: Counter, *, best: bool = True) -> list[_Reply]:
    """The replies that stand; a deleted one goes with all that hangs on it, and is counted."""
    nodes = parent.node.get("replies")
    if nodes is not None and not isinstance(nodes, list):
        raise ValueError(f"{parent.place}.replies is {kind_of(nodes)}, expected a list")
    replies = [_reply(n, f"{parent.place}.{i}", parent.turns, best=best) for i, n in enumerate(nodes or [], start=1)]
    standing = [r for r in replies if r.node.get("deleted") is not True and r.node.get("review_result") is not False]
    if len(standing) < len(replies):
        left_out["messages deleted or turned down in review, with what follows them"] += len(replies) - len(standing)
    return standing


def _reply(node: Any, place: str, before: tuple[Message, ...], *, best: bool) -> _Reply:
    if not isinstance(node, dict):
        raise ValueError(f"{place} is {kind_of(node)}, expected a message with 'text' and 'role'")
    check_fields(node, need={"text", "role"}, extras=True)
    expected = "assistant" if len(before) % 2 else "prompter"
    if node["role"] != expected:
        raise ValueError(f"{place}: role {node['role']!r:.40}, expected {expected!r}")
    return _Reply(node, place, (*before, message_in(_ROLES[expected], node["text"], place)), best)


def _best(answers: list[_Reply]) -> _Reply | None:
    """The one answer of the lowest rank; a sole answer needs none. None where people left it open."""
    if len(answers) == 1:
        return answers[0]
    ranked = [a for a in answers if a.rank is not None]
    lowest = min((a.rank for a in ranked), default=None)
    first = [a for a in ranked if a.rank == lowest]
    return first[0] if len(first) == 1 else None
