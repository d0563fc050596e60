"""What people said of answers, in SQLite: append-only, so that nothing anyone pressed is ever lost.

Messages form a tree; siblings are versions of one answer. A rating is never changed: the newest of a rater on a message counts,
and 0 withdraws.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from data.database import now_ms
from data.deletion import Deletion


@dataclass(frozen=True)
class StoredMessage:
    """One node of a conversation's tree. Messages of one parent are versions of each other."""

    id: str
    parent: str | None
    author: str
    content: str
    model: str | None
    finish: str | None
    created_ms: int


@dataclass(frozen=True)
class Vote:
    """What a rater last said of a message: 1 is 👍, −1 is 👎, 0 was taken back."""

    message: str
    rater: str
    value: int
    tags: tuple[str, ...]
    comment: str | None
    created_ms: int


class FeedbackStore(Deletion):
    """What is said and voted, and what of it is taken back or removed. `open` comes from `Database`."""

    # -- writing -----------------------------------------------------------------------------------------------------------

    def add_model(
        self,
        *,
        run: str,
        stage: str,
        weights_sha256: str,
        template_sha256: str,
        adapter: str | None = None,
        step: int | None = None,
    ) -> str:
        """The id of this checkpoint, the same each time it is named. `adapter` and `step` say which file, after how many updates."""
        with self._write():
            found = self._db.execute(
                "SELECT id FROM model WHERE run = ? AND stage = ? AND weights_sha256 = ? AND template_sha256 = ?",
                (run, stage, weights_sha256, template_sha256),
            ).fetchone()
            if found:
                return found[0]
            return self._insert(
                "model",
                run=run,
                stage=stage,
                weights_sha256=weights_sha256,
                template_sha256=template_sha256,
                adapter=adapter,
                step=step,
            )

    def start_conversation(self, *, rater: str, system_prompt: str | None = None) -> str:
        with self._write():
            self._know(rater)
            return self._insert("conversation", rater=rater, system_prompt=system_prompt)

    def add_message(
        self,
        conversation: str,
        *,
        parent: str | None,
        author: str,
        content: str,
        model: str | None = None,
        sampling: dict | None = None,
        token_ids: Sequence[int] | None = None,
        logprobs: Sequence[float] | None = None,
        first_token_ms: int | None = None,
        total_ms: int | None = None,
        finish: str | None = None,
        message_id: str | None = None,
    ) -> str:
        """Adds a turn under `parent`; a second child of one parent is another version. `message_id` is a UUID told beforehand."""
        with self._write():
            if parent is not None:
                of = self._db.execute("SELECT conversation FROM message WHERE id = ?", (parent,)).fetchone()
                if of != (conversation,):
                    raise ValueError(f"parent {parent} is no message of conversation {conversation}")
            return self._insert(
                "message",
                id=message_id or str(uuid.uuid4()),
                conversation=conversation,
                parent=parent,
                author=author,
                content=content,
                model=model,
                sampling=json.dumps(sampling) if sampling is not None else None,
                token_ids=json.dumps(list(token_ids)) if token_ids is not None else None,
                logprobs=json.dumps([round(x, 5) for x in logprobs]) if logprobs is not None else None,
                first_token_ms=first_token_ms,
                total_ms=total_ms,
                finish=finish,
            )

    def rate(
        self, message: str, *, rater: str, value: int, tags: Sequence[str] = (), comment: str | None = None
    ) -> None:
        """1 is 👍, −1 is 👎, 0 takes an earlier one back. Returns after the vote is on disk."""
        if value not in (-1, 0, 1):
            raise ValueError(f"a rating is −1, 0 or 1, got {value!r}")
        with self._write():
            self._know(rater)
            self._db.execute(
                "INSERT INTO rating (message, rater, value, tags, comment, created_ms) VALUES (?, ?, ?, ?, ?, ?)",
                (message, rater, value, json.dumps(list(tags)), comment, now_ms()),
            )

    def compare(self, left: str, right: str, *, rater: str, winner: str, blind: bool, shown_ms: int) -> int:
        """A choice between two answers, sides as they were shown. Returns its number, by which it can be withdrawn."""
        with self._write():
            self._know(rater)
            added = self._db.execute(
                "INSERT INTO comparison (left_message, right_message, rater, winner, blind, shown_ms, created_ms) VALUES (?, ?, ?, ?, ?, ?, ?)",
                (left, right, rater, winner, int(blind), shown_ms, now_ms()),
            )
            return added.lastrowid

    def withdraw_comparison(self, comparison: int, *, rater: str) -> bool:
        """Takes a choice back; it stays, marked. False when it is not this rater's, or was withdrawn already."""
        with self._write():
            changed = self._db.execute(
                "UPDATE comparison SET withdrawn_ms = ? WHERE id = ? AND rater = ? AND withdrawn_ms IS NULL",
                (now_ms(), comparison, rater),
            )
            return changed.rowcount == 1

    def edit(self, original: str, *, rater: str, content: str) -> str:
        """A person's own wording of an answer, beside it in the tree; the answer itself stays."""
        with self._write():
            self._know(rater)
            found = self._db.execute(
                "SELECT conversation, parent FROM message WHERE id = ? AND author <> 'human'", (original,)
            ).fetchone()
            if found is None:
                raise ValueError(f"{original} is no answer")
            message = self._insert(
                "message", conversation=found[0], parent=found[1], author="human-edit", content=content
            )
            self._db.execute(
                "INSERT INTO edit (message, original, rater, created_ms) VALUES (?, ?, ?, ?)",
                (message, original, rater, now_ms()),
            )
            return message

    def set_consent(self, rater: str, level: str) -> None:
        """Notes what a rater allows from now on, one of CONSENTS."""
        with self._write():
            self._know(rater)
            self._db.execute(
                "INSERT INTO consent (rater, level, created_ms) VALUES (?, ?, ?)", (rater, level, now_ms())
            )

    def log_export(self, path: str, sha256: str, raters: Sequence[str]) -> None:
        """Notes that a file outside the store now holds what these raters said."""
        with self._write():
            self._db.execute(
                "INSERT INTO export_log (sha256, rows, created_ms) VALUES (?, ?, ?)",
                (sha256, json.dumps({"path": path, "raters": sorted(raters)}), now_ms()),
            )

    def exports_with(self, rater: str) -> list[tuple[str, str]]:
        """Path and sha256 of each file that was written with something of this rater in it."""
        rows = [
            (json.loads(rows), sha256) for rows, sha256 in self.rows("SELECT rows, sha256 FROM export_log ORDER BY id")
        ]
        return [(row["path"], sha256) for row, sha256 in rows if rater in row["raters"]]

    # -- reading -----------------------------------------------------------------------------------------------------------

    def rating(self, message: str, rater: str) -> int:
        """The newest rating of a rater on a message; 0 when there is none or it was withdrawn."""
        row = self._db.execute(
            "SELECT value FROM rating WHERE message = ? AND rater = ? ORDER BY id DESC LIMIT 1", (message, rater)
        ).fetchone()
        return row[0] if row else 0

    def vote(self, message: str, rater: str) -> Vote | None:
        """The newest vote of a rater on a message, with its tags and comment; a withdrawn one has the value 0."""
        row = self._db.execute(
            "SELECT message, rater, value, tags, comment, created_ms FROM rating WHERE message = ? AND rater = ? ORDER BY id DESC LIMIT 1",
            (message, rater),
        ).fetchone()
        return Vote(*row[:3], tuple(json.loads(row[3])), *row[4:]) if row else None

    def history(self, conversation: str) -> list[StoredMessage]:
        """All messages of a conversation, every version, in the order in which they were written."""
        rows = self._db.execute(
            "SELECT id, parent, author, content, model, finish, created_ms FROM message WHERE conversation = ? ORDER BY rowid",
            (conversation,),
        )
        return [StoredMessage(*row) for row in rows]

    def stats(self) -> dict[str, int]:
        """Counts of conversations, answers, ratings that stand, comparisons, and people's own wordings of an answer."""
        one = lambda sql: self._db.execute(sql).fetchone()[0]  # noqa: E731
        standing = "SELECT value FROM rating WHERE id IN (SELECT max(id) FROM rating GROUP BY message, rater)"
        return {
            "conversations": one("SELECT count(*) FROM conversation"),
            "answers": one("SELECT count(*) FROM message WHERE author = 'model'"),
            "up": one(f"SELECT count(*) FROM ({standing}) WHERE value = 1"),
            "down": one(f"SELECT count(*) FROM ({standing}) WHERE value = -1"),
            "comparisons": one("SELECT count(*) FROM comparison WHERE withdrawn_ms IS NULL"),
            "wordings": one("SELECT count(*) FROM edit"),
        }

    def _know(self, rater: str) -> None:
        self._db.execute("INSERT OR IGNORE INTO rater (id, created_ms) VALUES (?, ?)", (rater, now_ms()))
