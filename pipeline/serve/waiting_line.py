"""Who comes next: turns between clients, and a full line says so at once."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import Any


class QueueFull(Exception):
    """No room; `retry_after` seconds from now there may be."""

    def __init__(self, retry_after: int):
        self.retry_after = retry_after
        super().__init__(f"the queue is full; try again in {retry_after} s")


@dataclass(eq=False)
class Ticket:
    """A place in the line. `stop` ends the work between two tokens, or takes the ticket out before its turn."""

    client: str
    work: Any
    stop: threading.Event = field(default_factory=threading.Event)


class WaitingLine:
    """Round-robin over clients: each gets one turn, then the next client does, however many the first still waits for.

    Not locked: the queue that owns it is.
    """

    def __init__(self, limit: int):
        """At most `limit` tickets wait, and at most half of them belong to one client."""
        self._limit = limit
        self._waiting: OrderedDict[str, deque[Ticket]] = OrderedDict()

    def __len__(self) -> int:
        return sum(len(tickets) for tickets in self._waiting.values())

    def has_room(self, client: str) -> bool:
        return len(self) < self._limit and len(self._waiting.get(client, ())) < max(1, self._limit // 2)

    def add(self, ticket: Ticket) -> None:
        self._waiting.setdefault(ticket.client, deque()).append(ticket)

    def put_back(self, ticket: Ticket) -> None:
        """First in the line again, for one whose turn came too early."""
        self._waiting.setdefault(ticket.client, deque()).appendleft(ticket)
        self._waiting.move_to_end(ticket.client, last=False)

    def next(self) -> Ticket:
        """Takes out the ticket whose turn it is."""
        client, tickets = self._waiting.popitem(last=False)
        ticket = tickets.popleft()
        if tickets:
            # Back to the end of the round.
            self._waiting[client] = tickets
        return ticket

    def remove(self, ticket: Ticket) -> bool:
        """Whether it stood in the line."""
        own = self._waiting.get(ticket.client)
        if not own or ticket not in own:
            return False
        own.remove(ticket)
        if not own:
            del self._waiting[ticket.client]
        return True

    def before(self, ticket: Ticket) -> int | None:
        """How many turns come first; None for a ticket that does not stand here."""
        own = self._waiting.get(ticket.client)
        if not own or ticket not in own:
            return None
        place, clients = own.index(ticket), list(self._waiting)
        at = clients.index(ticket.client)
        return place + sum(
            min(len(tickets), place + (i < at)) for i, tickets in enumerate(self._waiting.values()) if i != at
        )

    def clear(self) -> list[Ticket]:
        """Takes out everybody."""
        gone = [ticket for tickets in self._waiting.values() for ticket in tickets]
        self._waiting.clear()
        return gone

    def retry_after(self, seconds_a_turn: float) -> int:
        """Seconds until about half of the line is gone."""
        return max(1, min(120, math.ceil(seconds_a_turn * len(self) / 2)))
