"""Removing for good what somebody said and voted; all else in the store is only ever added to."""

from __future__ import annotations

import json
import sqlite3

from data.database import BUSY_SECONDS, Database, now_ms
from data.errors import UserError


class Deletion(Database):
    """What removes rows, and their words with them.

    A removed row is overwritten with zeros where it stands. Two more places may hold its words: the log of writes, until `empty_log`, and
    copies that SQLite left behind within pages when it moved rows between them, until `wipe`, which writes the whole file anew. That
    traces may be left is noted in the file with the deletion itself, so that a kill between the two does not hide it.
    """

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
        with self._write():
            gone = self._remove(steps, {"rater": rater})
            self._unname(rater)
        return gone

    def forget_conversation(self, conversation: str) -> dict[str, int]:
        """Removes a conversation: every version of its turns, and what anybody said of them. Returns how many rows went, by what they were."""
        inside = "(SELECT id FROM message WHERE conversation = :conversation)"
        steps = {
            "thumbs": f"DELETE FROM rating WHERE message IN {inside}",
            "choices": f"DELETE FROM comparison WHERE left_message IN {inside} OR right_message IN {inside}",
            "edits": f"DELETE FROM edit WHERE message IN {inside} OR original IN {inside}",
            "messages": "DELETE FROM message WHERE conversation = :conversation",
            "conversations": "DELETE FROM conversation WHERE id = :conversation",
        }
        with self._write():
            return self._remove(steps, {"conversation": conversation})

    def _remove(self, steps: dict[str, str], parameters: dict) -> dict[str, int]:
        self._db.execute("PRAGMA secure_delete = ON")
        # Messages may go before the edits that name them: which are theirs can only be told while both are there.
        self._db.execute("PRAGMA defer_foreign_keys = ON")
        self._db.execute("INSERT INTO trace (created_ms) VALUES (?)", (now_ms(),))
        return {what: self._changed(sql, parameters) for what, sql in steps.items()}

    def has_traces(self) -> bool:
        """Whether something was removed since the last `wipe`."""
        return bool(self.rows("SELECT 1 FROM trace LIMIT 1"))

    def empty_log(self) -> bool:
        """Brings what was written into the file and empties the log, which still holds removed rows; in a few milliseconds, whatever the size of
        the file. False where somebody reads what was there before: nobody is waited for."""
        self._db.execute("PRAGMA busy_timeout = 0")
        try:
            return not self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        finally:
            self._db.execute(f"PRAGMA busy_timeout = {int(BUSY_SECONDS * 1000)}")

    def wipe(self) -> None:
        """Leaves no word of deleted rows in the file or beside it. Takes as long as copying the file twice, and nobody else writes meanwhile.

        Raises:
            UserError: the rows are gone, and some of their words may still stand there.
        """
        known = self.rows("SELECT max(id) FROM trace")[0][0]
        why = ""
        try:
            self._db.execute("VACUUM")
        except sqlite3.DatabaseError as error:
            why = str(error)
        try:
            # Tells with a number, not with an error, that somebody still reads what was there before.
            if self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
                why = why or "another process reads it"
        except sqlite3.DatabaseError as error:
            why = why or str(error)
        if not why:
            with self._write():
                # Not what another process has removed since.
                self._db.execute("DELETE FROM trace WHERE id <= ?", (known,))
        else:
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
