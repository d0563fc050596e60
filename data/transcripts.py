"""Reading conversations back: lists, searches, and the way from a question to its beginning."""

from __future__ import annotations

import json
from dataclasses import dataclass

from data.feedback import FeedbackStore

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


def conversations(store: FeedbackStore, rater: str, *, search: str = "", limit: int = 200) -> list[Conversation]:
    """The rater's conversations that say `search` somewhere, newest first."""
    pattern = "%" + "".join(f"\\{c}" if c in "\\%_" else c for c in search) + "%"
    found = store.rows(
        """SELECT c.id, c.created_ms, count(m.id),
                  (SELECT f.content FROM message f WHERE f.conversation = c.id AND f.parent IS NULL ORDER BY f.rowid LIMIT 1)
           FROM conversation c JOIN message m ON m.conversation = c.id
           WHERE c.rater = ? AND (? = '' OR EXISTS (
               SELECT 1 FROM message s WHERE s.conversation = c.id AND s.content LIKE ? ESCAPE '\\'))
           GROUP BY c.id ORDER BY c.created_ms DESC, c.rowid DESC LIMIT ?""",
        (rater, search, pattern, limit),
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


def path_to(store: FeedbackStore, message: str) -> list[tuple[str, str, str]]:
    """Id, author and content from the first turn down to `message`."""
    return store.rows(
        """WITH RECURSIVE up (id, parent, author, content, height) AS (
               SELECT id, parent, author, content, 0 FROM message WHERE id = ?
               UNION ALL SELECT m.id, m.parent, m.author, m.content, up.height + 1 FROM message m JOIN up ON m.id = up.parent)
           SELECT id, author, content FROM up ORDER BY height DESC""",
        (message,),
    )


def as_said(answer: str) -> str:
    """An answer as the model is shown it later: what was stopped before its first word leaves a mark; no NUL, which no template takes."""
    return answer.replace("\0", "\ufffd").strip() or "…"
