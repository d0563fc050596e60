"""One thread owns the model and draws the answers of several people side by side; who finds no row free waits in the line."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Protocol

from pipeline.batch import Batch, Delta
from pipeline.memory import is_out_of_memory
from pipeline.serve.waiting_line import QueueFull, Ticket, WaitingLine

log = logging.getLogger(__name__)


class Work(Protocol):
    """An answer to be drawn. All of it is called by the thread that owns the model."""

    def begin(self, batch: Batch) -> int:
        """Joins the batch, and returns the number there."""

    def hear(self, delta: Delta) -> None:
        """What was drawn; the last one has `finish`."""

    def failed(self, error: Exception) -> None:
        """Nothing comes any more. `Ended` comes from the thread that ends the queue."""


class Ended(Exception):
    """The queue takes nothing any more, and a ticket's turn had not come."""


class GenerationQueue:
    """At most `rows` answers are drawn at a time; clients take turns for the rows that fall free."""

    def __init__(
        self,
        open_batch: Callable[[], Batch],
        limit: int,
        *,
        rows: int,
        clock: Callable[[], float] = time.monotonic,
    ):
        """At most `limit` tickets wait, and at most half of them belong to one client."""
        self._open_batch, self._rows, self._clock = open_batch, rows, clock
        self._line = WaitingLine(limit)
        # By their number in the batch, with the time at which they began.
        self._running: dict[int, tuple[Ticket, float]] = {}
        self._seconds_an_answer = 2.0
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._serve, name="generation", daemon=True)
        self._thread.start()

    def submit(self, client: str, work: Work) -> Ticket:
        """A ticket for `work`.

        Raises:
            QueueFull: too many wait already, in all or of this client.
        """
        with self._changed:
            if self._closed or not self._line.has_room(client):
                raise QueueFull(self._line.retry_after(self._seconds_an_answer / self._rows))
            ticket = Ticket(client, work)
            self._line.add(ticket)
            self._changed.notify()
            return ticket

    def cancel(self, ticket: Ticket) -> bool:
        """Ends the ticket's work, or takes it out of the line; True when it was still waiting there."""
        ticket.stop.set()
        with self._changed:
            return self._line.remove(ticket)

    def position(self, ticket: Ticket) -> int:
        """How many turns come before this ticket's, one of those that run included where all rows are taken; 0 while it runs or after."""
        with self._changed:
            before = self._line.before(ticket)
            return 0 if before is None else before + (len(self._running) >= self._rows)

    @property
    def waiting(self) -> int:
        """How many tickets wait for their turn."""
        with self._changed:
            return len(self._line)

    @property
    def running(self) -> int:
        """How many answers are being drawn."""
        with self._changed:
            return len(self._running)

    def end(self) -> None:
        """Takes nothing any more, stops what runs after its token, and tells what waits that its turn does not come."""
        with self._changed:
            self._closed = True
            waiting = self._line.clear()
            for ticket in [*waiting, *(ticket for ticket, _ in self._running.values())]:
                ticket.stop.set()
            self._changed.notify()
        for ticket in waiting:
            self._call(ticket.work.failed, Ended())

    def close(self, seconds: float = 10.0) -> None:
        """Ends, and waits for the model's thread."""
        self.end()
        self._thread.join(seconds)

    # -- the thread that owns the model ------------------------------------------------------------------------------------

    def _serve(self) -> None:
        batch = self._open_batch()
        while self._has_work():
            try:
                # One at a time: between two who join, everybody else hears a token.
                self._let_in(batch)
                self._let_out(batch)
                for number, heard in batch.step():
                    self._hear(number, heard)
            except Exception as error:
                log.error("drawing failed: %s", type(error).__name__)
                batch = self._open_batch()
                for number in list(self._running):
                    self._hear(number, error)

    def _has_work(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._running or len(self._line) or self._closed)
            return bool(self._running) or not self._closed

    def _let_in(self, batch: Batch) -> None:
        with self._changed:
            if not len(self._line) or len(self._running) >= self._rows:
                return
            ticket = self._line.next()
        started = self._clock()
        try:
            number = ticket.work.begin(batch)
        except Exception as error:
            if is_out_of_memory(error) and self._running:
                self._take_fewer(ticket)
            else:
                self._call(ticket.work.failed, error)
            return
        with self._changed:
            self._running[number] = (ticket, started)
            if self._closed:
                ticket.stop.set()

    def _take_fewer(self, ticket: Ticket) -> None:
        """So many rows fit and no more: this one waits until another has ended."""
        with self._changed:
            self._rows = len(self._running)
            self._line.put_back(ticket)
        log.warning(
            "out of memory: %d answers at a time from now on (chat.batch_rows=%d avoids this line)",
            self._rows,
            self._rows,
        )

    def _let_out(self, batch: Batch) -> None:
        for number, (ticket, _) in list(self._running.items()):
            if ticket.stop.is_set():
                self._hear(number, batch.leave(number))

    def _hear(self, number: int, heard: Delta | Exception) -> None:
        ticket, started = self._running[number]
        failed = isinstance(heard, Exception)
        self._call(ticket.work.failed if failed else ticket.work.hear, heard)
        if failed or heard.finish:
            with self._changed:
                del self._running[number]
                self._seconds_an_answer += 0.2 * (self._clock() - started - self._seconds_an_answer)

    def _call(self, told: Callable, what: Delta | Exception) -> None:
        try:
            told(what)
        except Exception as error:
            # The type alone: a message might hold what somebody said. One answer's trouble is not the others'.
            log.error("an answer failed: %s", type(error).__name__)


__all__ = ["Ended", "GenerationQueue", "QueueFull", "Ticket", "Work"]
