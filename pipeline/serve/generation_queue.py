"""One thread owns the model; whoever waits gets turns in fairness, and a full queue says so at once."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field

log = logging.getLogger(__name__)


class QueueFull(Exception):
    """No room; `retry_after` seconds from now there may be."""

    def __init__(self, retry_after: int):
        self.retry_after = retry_after
        super().__init__(f"the queue is full; try again in {retry_after} s")


@dataclass(eq=False)
class Ticket:
    """A place in the queue. `stop` ends the work between two tokens, or takes the ticket out before its turn."""

    client: str
    work: Callable[[threading.Event], None]
    stop: threading.Event = field(default_factory=threading.Event)


class GenerationQueue:
    """Round-robin over clients: each gets one answer, then the next client does, however many the first still waits for."""

    def __init__(self, limit: int, *, clock: Callable[[], float] = time.monotonic):
        """At most `limit` tickets wait, and at most half of them belong to one client."""
        self._limit, self._clock = limit, clock
        self._waiting: OrderedDict[str, deque[Ticket]] = OrderedDict()
        self._running: Ticket | None = None
        self._seconds_an_answer = 2.0
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._serve, name="generation", daemon=True)
        self._thread.start()

    def submit(self, client: str, work: Callable[[threading.Event], None]) -> Ticket:
        """A ticket for `work`, which is called with the event that asks it to stop.

        Raises:
            QueueFull: too many wait already, in all or of this client.
        """
        with self._changed:
            own = self._waiting.get(client, ())
            if self._closed or self._count() >= self._limit or len(own) >= max(1, self._limit // 2):
                raise QueueFull(self._retry_after())
            ticket = Ticket(client, work)
            self._waiting.setdefault(client, deque()).append(ticket)
            self._changed.notify()
            return ticket

    def cancel(self, ticket: Ticket) -> bool:
        """Ends the ticket's work, or takes it out of the queue; True when it was still waiting there."""
        ticket.stop.set()
        with self._changed:
            own = self._waiting.get(ticket.client)
            if not own or ticket not in own:
                return False
            own.remove(ticket)
            if not own:
                del self._waiting[ticket.client]
            return True

    def position(self, ticket: Ticket) -> int:
        """How many turns come before this ticket's; 0 while it runs or after."""
        with self._changed:
            own = self._waiting.get(ticket.client)
            if not own or ticket not in own:
                return 0
            place, clients = own.index(ticket), list(self._waiting)
            before = clients.index(ticket.client)
            turns = sum(min(len(t), place + (i < before)) for i, t in enumerate(self._waiting.values()) if i != before)
            return turns + place + (self._running is not None)

    @property
    def waiting(self) -> int:
        """How many tickets wait for their turn."""
        with self._changed:
            return self._count()

    def close(self, seconds: float = 10.0) -> None:
        """Stops what runs, drops what waits."""
        with self._changed:
            self._closed = True
            for tickets in self._waiting.values():
                for ticket in tickets:
                    ticket.stop.set()
            self._waiting.clear()
            if self._running is not None:
                self._running.stop.set()
            self._changed.notify()
        self._thread.join(seconds)

    def _serve(self) -> None:
        while (ticket := self._next()) is not None:
            started = self._clock()
            try:
                ticket.work(ticket.stop)
            except Exception as error:
                # The type alone: a message might hold what somebody said.
                log.error("an answer failed: %s", type(error).__name__)
            with self._changed:
                self._running = None
                self._seconds_an_answer += 0.2 * (self._clock() - started - self._seconds_an_answer)

    def _next(self) -> Ticket | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            if self._closed:
                return None
            client, tickets = self._waiting.popitem(last=False)
            ticket = tickets.popleft()
            if tickets:
                # Back to the end of the round.
                self._waiting[client] = tickets
            self._running = ticket
            return ticket

    def _count(self) -> int:
        return sum(len(tickets) for tickets in self._waiting.values())

    def _retry_after(self) -> int:
        return max(1, min(120, math.ceil(self._seconds_an_answer * self._count() / 2)))
