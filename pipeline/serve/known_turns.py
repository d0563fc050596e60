"""Which stored turn a list of messages ends at, so that a client that sends the whole talk each time goes on in one conversation."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Sequence

from data.records import Message


class KnownTurns:
    """Remembers the newest turns by what was said up to them; what is forgotten starts another conversation."""

    def __init__(self, limit: int = 10_000):
        self._limit = limit
        self._known: OrderedDict[str, tuple[str, str]] = OrderedDict()

    def find(self, rater: str, messages: Sequence[Message]) -> tuple[str, str] | None:
        """Conversation and id of the turn that these messages end with."""
        return self._known.get(_key(rater, messages))

    def note(self, rater: str, messages: Sequence[Message], conversation: str, message: str) -> None:
        self._known[_key(rater, messages)] = (conversation, message)
        if len(self._known) > self._limit:
            self._known.popitem(last=False)


def _key(rater: str, messages: Sequence[Message]) -> str:
    said = json.dumps([rater, *((m.role, m.content.strip()) for m in messages)])
    return hashlib.sha256(said.encode()).hexdigest()
