"""What people said of answers, in SQLite: append-only, so that nothing anyone pressed is ever lost.

Messages form a tree; siblings are versions of one answer. A rating is never changed: the newest of a rater on a message counts,
and 0 withdraws.
"""

from __future__ import annotations

import json
import os
import random
import sqlite3
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from data.errors import UserError

# How long a writer waits for others before it gives up, and the shortest and longest time between two looks whether it may write.
BUSY_SECONDS = 10.0
_LOOK_SECONDS = (0.0002, 0.001)

# Each entry takes the schema one version up; entries are only ever appended.
MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE model (
        id TEXT PRIMARY KEY, run TEXT NOT NULL, stage TEXT NOT NULL,
        weights_sha256 TEXT NOT NULL, template_sha256 TEXT NOT NULL, created_ms INTEGER NOT NULL,
        UNIQUE (run, stage, weights_sha256, template_sha256));
    CREATE TABLE rater (
        id TEXT PRIMARY KEY, consent TEXT NOT NULL DEFAULT 'local' CHECK (consent IN ('local', 'train', 'publish')),
        created_ms INTEGER NOT NULL);
    CREATE TABLE conversation (
        id TEXT PRIMARY KEY, rater TEXT NOT NULL REFERENCES rater (id), system_prompt TEXT, created_ms INTEGER NOT NULL);
    CREATE TABLE message (
        id TEXT PRIMARY KEY, conversation TEXT NOT NULL REFERENCES conversation (id), parent TEXT REFERENCES message (id),
        author TEXT NOT NULL CHECK (author IN ('human', 'model', 'human-edit')), content TEXT NOT NULL,
        model TEXT REFERENCES model (id), sampling TEXT, token_ids TEXT, logprobs TEXT,
        first_token_ms INTEGER, total_ms INTEGER,
        finish TEXT CHECK (finish IN ('stop', 'length', 'stopped', 'error')), created_ms INTEGER NOT NULL);
    CREATE INDEX message_of_conversation ON message (conversation);
    CREATE TABLE rating (
        id INTEGER PRIMARY KEY, message TEXT NOT NULL REFERENCES message (id), rater TEXT NOT NULL REFERENCES rater (id),
        value INTEGER NOT NULL CHECK (value IN (-1, 0, 1)), tags TEXT NOT NULL DEFAULT '[]', comment TEXT,
        created_ms INTEGER NOT NULL);
    CREATE INDEX rating_of_message ON rating (message, rater);
    CREATE TABLE comparison (
        id INTEGER PRIMARY KEY, left_message TEXT NOT NULL REFERENCES message (id),
        right_message TEXT NOT NULL REFERENCES message (id), rater TEXT NOT NULL REFERENCES rater (id),
        winner TEXT NOT NULL CHECK (winner IN ('left', 'right', 'tie', 'both_bad', 'skip')),
        blind INTEGER NOT NULL CHECK (blind IN (0, 1)), shown_ms INTEGER NOT NULL, withdrawn_ms INTEGER,
        created_ms INTEGER NOT NULL);
    CREATE TABLE export_log (id INTEGER PRIMARY KEY, sha256 TEXT NOT NULL, rows TEXT NOT NULL, created_ms INTEGER NOT NULL);
    """,
    """
    ALTER TABLE model ADD COLUMN adapter TEXT;
    ALTER TABLE model ADD COLUMN step INTEGER;
    """,
    """
    CREATE TABLE edit (
        message TEXT PRIMARY KEY REFERENCES message (id), original TEXT NOT NULL REFERENCES message (id),
        rater TEXT NOT NULL REFERENCES rater (id), created_ms INTEGER NOT NULL);
    CREATE INDEX conversation_of_rater ON conversation (rater);
    """,
    # `rater.consent` was never asked for and is not read; what raters say of it is kept here, the newest counts.
    """
    CREATE TABLE consent (
        id INTEGER PRIMARY KEY, rater TEXT NOT NULL REFERENCES rater (id),
        level TEXT NOT NULL CHECK (level IN ('local', 'train', 'publish')), created_ms INTEGER NOT NULL);
    """,
)
# What a rater may allow, each including the one before.
CONSENTS = ("local", "train", "publish")


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


class FeedbackStore:
    """One connection to the database; safe to open from several processes at once."""

    def __init__(self, connection: sqlite3.Connection, path: Path):
        self._db, self.path = connection, path

    @staticmethod
    def open(path: Path, *, one_thread: bool = True) -> FeedbackStore:
        """Opens or makes the database and its directory, readable by their owner only.

        With `one_thread=False` another thread than this may use the store, as long as only one does at a time.

        Raises:
            UserError: the file is no feedback database, was made by a newer version, or cannot be written.
        """
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
            db = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=one_thread)
        except (OSError, sqlite3.OperationalError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UserError(f"{path}: cannot be written ({reason}). Name another file in chat.feedback_db.") from None
        store = FeedbackStore(db, path)
        try:
            store._prepare()
        except BaseException:
            store.close()
            raise
        return store

    def close(self) -> None:
        self._db.close()

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
                (message, rater, value, json.dumps(list(tags)), comment, _now()),
            )

    def compare(self, left: str, right: str, *, rater: str, winner: str, blind: bool, shown_ms: int) -> int:
        """A choice between two answers, sides as they were shown. Returns its number, by which it can be withdrawn."""
        with self._write():
            self._know(rater)
            added = self._db.execute(
                "INSERT INTO comparison (left_message, right_message, rater, winner, blind, shown_ms, created_ms) VALUES (?, ?, ?, ?, ?, ?, ?)",
                (left, right, rater, winner, int(blind), shown_ms, _now()),
            )
            return added.lastrowid

    def withdraw_comparison(self, comparison: int, *, rater: str) -> bool:
        """Takes a choice back; it stays, marked. False when it is not this rater's, or was withdrawn already."""
        with self._write():
            changed = self._db.execute(
                "UPDATE comparison SET withdrawn_ms = ? WHERE id = ? AND rater = ? AND withdrawn_ms IS NULL",
                (_now(), comparison, rater),
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
                (message, original, rater, _now()),
            )
            return message

    @contextmanager
    def together(self) -> Iterator[None]:
        """What is written inside is kept whole or, after an error, not at all; and waits for the disk once."""
        with self._write():
            yield

    def forget(self, rater: str) -> dict[str, int]:
        """Removes a rater with all that this person said and voted. Returns how many rows went, by what they were.

        With a conversation go the answers in it, and what others said of them. `wipe` then removes the traces of the words.
        """
        doomed = """WITH RECURSIVE doomed (id) AS (
            SELECT m.id FROM message m JOIN conversation c ON c.id = m.conversation WHERE c.rater = :rater
            UNION SELECT message FROM edit WHERE rater = :rater
            UNION SELECT m.id FROM message m JOIN doomed ON m.parent = doomed.id)"""
        steps = {
            "thumbs": f"{doomed} DELETE FROM rating WHERE rater = :rater OR message IN doomed",
            "choices": f"""{doomed} DELETE FROM comparison
                WHERE rater = :rater OR left_message IN doomed OR right_message IN doomed""",
            "messages": f"{doomed} DELETE FROM message WHERE id IN doomed",
            "edits": "DELETE FROM edit WHERE rater = :rater OR message NOT IN (SELECT id FROM message) "
            "OR original NOT IN (SELECT id FROM message)",
            "conversations": "DELETE FROM conversation WHERE rater = :rater",
            "consents": "DELETE FROM consent WHERE rater = :rater",
            "raters": "DELETE FROM rater WHERE id = :rater",
        }
        self._db.execute("PRAGMA secure_delete = ON")
        with self._write():
            # Messages go before the edits that name them: which are theirs can only be told while both are there.
            self._db.execute("PRAGMA defer_foreign_keys = ON")
            gone = {what: self._changed(sql, {"rater": rater}) for what, sql in steps.items()}
            self._unname(rater)
        return gone

    def wipe(self) -> None:
        """Leaves no word of deleted rows in the file or beside it: they also stood in free pages and in the log of writes.

        Raises:
            UserError: the rows are gone, and some of their words may still stand there.
        """
        try:
            self._db.execute("VACUUM")
            why = ""
        except sqlite3.OperationalError as error:
            why = str(error)
        # Tells with a number, not with an error, that somebody still reads what was there before.
        if self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
            why = why or "another process reads it"
        if why:
            raise UserError(
                f"{self.path}: the rows are removed, but traces of their words may stay in the file and in {self.path.name}-wal "
                f"({why}). Free space, end what uses it, and run `sqlite3 {self.path} VACUUM`."
            )

    def _changed(self, sql: str, parameters: dict) -> int:
        # sqlite3's own rowcount does not know of a statement that starts with WITH.
        self._db.execute(sql, parameters)
        return self._db.execute("SELECT changes()").fetchone()[0]

    def _unname(self, rater: str) -> None:
        for number, rows in self.rows("SELECT id, rows FROM export_log"):
            row = json.loads(rows)
            row["raters"] = [name for name in row["raters"] if name != rater]
            self._db.execute("UPDATE export_log SET rows = ? WHERE id = ?", (json.dumps(row), number))

    def set_consent(self, rater: str, level: str) -> None:
        """Notes what a rater allows from now on, one of CONSENTS."""
        with self._write():
            self._know(rater)
            self._db.execute("INSERT INTO consent (rater, level, created_ms) VALUES (?, ?, ?)", (rater, level, _now()))

    def log_export(self, path: str, sha256: str, raters: Sequence[str]) -> None:
        """Notes that a file outside the store now holds what these raters said."""
        with self._write():
            self._db.execute(
                "INSERT INTO export_log (sha256, rows, created_ms) VALUES (?, ?, ?)",
                (sha256, json.dumps({"path": path, "raters": sorted(raters)}), _now()),
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

    def rows(self, sql: str, parameters: Sequence = ()) -> list[tuple]:
        """What a SELECT finds; values go into `parameters`, never into the text."""
        return self._db.execute(sql, parameters).fetchall()

    @contextmanager
    def reading(self) -> Iterator[None]:
        """What is read inside is of one moment, whatever others write meanwhile."""
        self._db.execute("BEGIN")
        try:
            yield
        finally:
            self._db.execute("ROLLBACK")

    def stats(self) -> dict[str, int]:
        """Counts of conversations, answers, ratings that stand, and comparisons."""
        one = lambda sql: self._db.execute(sql).fetchone()[0]  # noqa: E731
        standing = "SELECT value FROM rating WHERE id IN (SELECT max(id) FROM rating GROUP BY message, rater)"
        return {
            "conversations": one("SELECT count(*) FROM conversation"),
            "answers": one("SELECT count(*) FROM message WHERE author = 'model'"),
            "up": one(f"SELECT count(*) FROM ({standing}) WHERE value = 1"),
            "down": one(f"SELECT count(*) FROM ({standing}) WHERE value = -1"),
            "comparisons": one("SELECT count(*) FROM comparison WHERE withdrawn_ms IS NULL"),
        }

    # -- inside ------------------------------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        try:
            self._use_wal()
            # A vote that was acknowledged survives a loss of power too.
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.execute("PRAGMA foreign_keys = ON")
            self._migrate()
        except sqlite3.DatabaseError as error:
            raise UserError(
                f"{self.path}: no usable feedback database ({error}). Move it away or name another in chat.feedback_db."
            ) from None

    def _use_wal(self) -> None:
        # Two processes that both make the file meet here, where SQLite does not wait by itself.
        until = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                self._refuse_foreign()
                self._db.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                if not _is_busy(error) or time.monotonic() > until:
                    raise self._refused(error) from None
                time.sleep(0.02)

    def _refuse_foreign(self) -> None:
        """Before anything is written: another program's tables are not ours to add to."""
        with self._db:
            # One transaction, so that a database which another process is just making is seen empty or whole.
            self._db.execute("BEGIN")
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            tables = {name for (name,) in self._db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if tables and not (version > 0 and {"conversation", "message", "rating"} <= tables):
            raise UserError(f"{self.path}: the database of another program. Name another file in chat.feedback_db.")

    def _version(self) -> int:
        return self._db.execute("PRAGMA user_version").fetchone()[0]

    def _migrate(self) -> None:
        if self._version() > len(MIGRATIONS):
            raise UserError(
                f"{self.path}: made by a newer version of this program (schema {self._version()}). Update first."
            )
        if self._version() == len(MIGRATIONS):
            return
        with self._write():
            # Another process may have been here first.
            version = self._version()
            for number, script in enumerate(MIGRATIONS[version:], start=version + 1):
                for statement in script.split(";"):
                    if statement.strip():
                        self._db.execute(statement)
                self._db.execute(f"PRAGMA user_version = {number}")

    @contextmanager
    def _write(self) -> Iterator[None]:
        if self._db.in_transaction:
            # Inside `together`, whose end commits.
            yield
            return
        try:
            self._begin()
            yield
            self._db.execute("COMMIT")
        except sqlite3.OperationalError as error:
            raise self._refused(error) from error
        finally:
            # After a failure; SQLite itself ends the transaction in some.
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")

    def _begin(self) -> None:
        """A writer waits for its turn here, and not half-way through.

        SQLite's lock goes to whoever asks while it is free. By itself SQLite looks ever more seldom, every 100 ms in the end, while a
        process that writes vote after vote asks again a tenth of a millisecond after it has let go: under load others waited in vain
        for all of `BUSY_SECONDS`. Looking often, at times of one's own, gives every process its share.
        """
        until = time.monotonic() + BUSY_SECONDS
        self._db.execute("PRAGMA busy_timeout = 0")
        try:
            while True:
                try:
                    self._db.execute("BEGIN IMMEDIATE")
                    return
                except sqlite3.OperationalError as error:
                    if not _is_busy(error) or time.monotonic() > until:
                        raise
                time.sleep(random.uniform(*_LOOK_SECONDS))
        finally:
            self._db.execute(f"PRAGMA busy_timeout = {int(BUSY_SECONDS * 1000)}")

    def _refused(self, error: sqlite3.OperationalError) -> UserError:
        if _is_busy(error):
            return UserError(
                f"{self.path}: not saved: another process has been writing for {BUSY_SECONDS:.0f} s. Close it and try again."
            )
        return UserError(f"{self.path}: not saved: {error}. Check free space and permissions, then try again.")

    def _insert(self, table: str, **columns) -> str:
        row = {"id": str(uuid.uuid4()), **columns, "created_ms": _now()}
        names = ", ".join(row)
        self._db.execute(f"INSERT INTO {table} ({names}) VALUES ({', '.join('?' * len(row))})", tuple(row.values()))
        return row["id"]

    def _know(self, rater: str) -> None:
        self._db.execute("INSERT OR IGNORE INTO rater (id, created_ms) VALUES (?, ?)", (rater, _now()))


def _is_busy(error: sqlite3.OperationalError) -> bool:
    # The low byte is the primary code; the rest says which kind of busy.
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _now() -> int:
    return time.time_ns() // 1_000_000
