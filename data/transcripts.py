"""Reading conversations back: lists, searches, and the way from a question to its beginning."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from data.feedback import FeedbackStore
from data.records import Message

_TITLE_CHARACTERS = 80


@dataclass(frozen=True)
class Conversation:
    """One line of a history."""

    id: str
    title: str
    messages: int
    created_ms: int


@dataclass(frozen=True)
class Writer:
    """The checkpoint that wrote an answer."""

    run: str
    stage: str
    weights_sha256: str


@dataclass(frozen=True)
class Node:
    """A message as one rater sees it: who wrote it, and what that rater last said of it."""

    id: str
    parent: str | None
    author: str
    content: str
    model: Writer | None
    finish: str | None
    tokens: int | None
    total_ms: int | None
    rating: int
    tags: tuple[str, ...]
    comment: str | None


def conversations(
    store: FeedbackStore, rater: str, *, search: str = "", limit: int | None = None
) -> list[Conversation]:
    """The rater's conversations that say `search` somewhere, newest first; the newest `limit` of them."""
    pattern = "%" + "".join(f"\\{c}" if c in "\\%_" else c for c in search) + "%"
    found = store.rows(
        """SELECT c.id, c.created_ms, count(m.id),
                  (SELECT f.content FROM message f WHERE f.conversation = c.id AND f.parent IS NULL ORDER BY f.rowid LIMIT 1)
           FROM conversation c JOIN message m ON m.conversation = c.id
           WHERE c.rater = ? AND (? = '' OR EXISTS (
               SELECT 1 FROM message s WHERE s.conversation = c.id AND s.content LIKE ? ESCAPE '\\'))
           GROUP BY c.id ORDER BY c.created_ms DESC, c.rowid DESC LIMIT ?""",
        (rater, search, pattern, -1 if limit is None else limit),
    )
    return [Conversation(id, " ".join(title.split())[:_TITLE_CHARACTERS], n, at) for id, at, n, title in found]


def owner(store: FeedbackStore, conversation: str) -> tuple[str, str | None] | None:
    """The rater whose conversation it is, and its system prompt; None when there is none."""
    found = store.rows("SELECT rater, system_prompt FROM conversation WHERE id = ?", (conversation,))
    return found[0] if found else None


def place(store: FeedbackStore, message: str) -> tuple[str, str | None, str, str | None] | None:
    """Conversation, parent, author and finish of a message."""
    found = store.rows("SELECT conversation, parent, author, finish FROM message WHERE id = ?", (message,))
    return found[0] if found else None


def writer_of(store: FeedbackStore, message: str) -> Writer | None:
    """The checkpoint that wrote a message; None for what people wrote, or models elsewhere."""
    found = store.rows(
        "SELECT m.run, m.stage, m.weights_sha256 FROM message JOIN model m ON m.id = message.model WHERE message.id = ?",
        (message,),
    )
    return Writer(*found[0]) if found else None


def nodes(store: FeedbackStore, conversation: str, rater: str) -> list[Node]:
    """Every version of every turn, in the order in which they were written."""
    found = store.rows(
        """SELECT s.id, s.parent, s.author, s.content, m.run, m.stage, m.weights_sha256, s.finish,
                  CASE WHEN s.token_ids IS NULL THEN NULL ELSE json_array_length(s.token_ids) END, s.total_ms,
                  r.value, r.tags, r.comment
           FROM message s LEFT JOIN model m ON m.id = s.model
           LEFT JOIN rating r ON r.id = (SELECT max(id) FROM rating WHERE message = s.id AND rater = ?)
           WHERE s.conversation = ? ORDER BY s.rowid""",
        (rater, conversation),
    )
    return [
        Node(
            *row[:4],
            Writer(*row[4:7]) if row[4] is not None else None,
            *row[7:10],
            row[10] or 0,
            tuple(json.loads(row[11] or "[]")),
            row[12],
        )
        for row in found
    ]


def choices(store: FeedbackStore, conversation: str, rater: str) -> list[tuple[int, str, str, str, str]]:
    """Number, question, left and right answer and winner of the rater's choices that stand, oldest first; skipped ones are none."""
    return store.rows(
        """SELECT c.id, s.parent, c.left_message, c.right_message, c.winner
           FROM comparison c JOIN message s ON s.id = c.left_message
           WHERE s.conversation = ? AND c.rater = ? AND c.withdrawn_ms IS NULL AND c.winner <> 'skip' ORDER BY c.id""",
        (conversation, rater),
    )


def stands_at(found: Sequence[Node], made: Sequence[tuple[int, str, str, str, str]]) -> list[Node]:
    """The turns that a conversation was left at, from its first question down to what was said last.

    Where that is one of two answers between which the rater chose, the talk went on from the better one; of equals, from the left one.

    Args:
        found: all its messages, as `nodes` gives them.
        made: the rater's choices, as `choices` gives them.
    """
    if not found:
        return []
    parents = {node.id: node.parent for node in found}

    def up(message: str | None) -> list[str]:
        way = []
        while message is not None:
            way.append(message)
            message = parents[message]
        return way[::-1]

    last = preferred = found[-1].id
    for _, _, left, right, winner in made:
        if last in (left, right):
            preferred = right if winner == "right" else left
    # What had followed the better one before the other was drawn beside it still does.
    way = next(path for path in map(up, reversed(parents)) if preferred in path)
    by_id = {node.id: node for node in found}
    return [by_id[message] for message in way]


def path_to(store: FeedbackStore, message: str) -> list[tuple[str, str, str]]:
    """Id, author and content from the first turn down to `message`."""
    return store.rows(
        """WITH RECURSIVE up (id, parent, author, content, height) AS (
               SELECT id, parent, author, content, 0 FROM message WHERE id = ?
               UNION ALL SELECT m.id, m.parent, m.author, m.content, up.height + 1 FROM message m JOIN up ON m.id = up.parent)
           SELECT id, author, content FROM up ORDER BY height DESC""",
        (message,),
    )


def messages_to(store: FeedbackStore, conversation: str, question: str) -> tuple[Message, ...]:
    """What the model is shown for a question: its conversation's system prompt, and every turn down to it."""
    system = owner(store, conversation)[1]
    said = [Message("system", system)] if system else []
    for _, author, content in path_to(store, question):
        said.append(Message("user", content) if author == "human" else Message("assistant", as_said(content)))
    return tuple(said)


def as_said(answer: str) -> str:
    """An answer as the model is shown it later: what was stopped before its first word leaves a mark; no NUL, which no template takes."""
    return answer.replace("\0", "\ufffd").strip() or "…"
