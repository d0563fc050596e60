"""One SQLite file that several processes read and write: opened safely, brought to the present schema, its writers in turn."""

from __future__ import annotations

import os
import random
import sqlite3
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from data.errors import UserError
from data.schema import MIGRATIONS

# How long a writer waits for others before it gives up, and the shortest and longest time between two looks whether it may write.
BUSY_SECONDS = 10.0
_LOOK_SECONDS = (0.0002, 0.001)


class Database:
    """One connection to the file; safe to open from several processes at once."""

    def __init__(self, connection: sqlite3.Connection, path: Path):
        self._db, self.path = connection, path

    @classmethod
    def open(cls, path: Path, *, one_thread: bool = True) -> Self:
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
        store = cls(db, path)
        try:
            store._prepare()
        except BaseException:
            store.close()
            raise
        return store

    def close(self) -> None:
        self._db.close()

    @contextmanager
    def together(self) -> Iterator[None]:
        """What is written inside is kept whole or, after an error, not at all; and waits for the disk once."""
        with self._write():
            yield

    def rows(self, sql: str, parameters: Sequence | Mapping = ()) -> list[tuple]:
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
        row = {"id": str(uuid.uuid4()), **columns, "created_ms": now_ms()}
        names = ", ".join(row)
        self._db.execute(f"INSERT INTO {table} ({names}) VALUES ({', '.join('?' * len(row))})", tuple(row.values()))
        return row["id"]


def _is_busy(error: sqlite3.OperationalError) -> bool:
    # The low byte is the primary code; the rest says which kind of busy.
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def now_ms() -> int:
    """Milliseconds since 1970, UTC, as every table keeps them."""
    return time.time_ns() // 1_000_000
