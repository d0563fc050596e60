"""Train or test, decided by the question alone: stable, whatever the order of the rows, and the same in every file."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from data.quality import first_turn_key
from data.records import Message


def is_test(messages: Sequence[Message], share: float, salt: str = "") -> bool:
    """Whether a prompt belongs to the test side, which holds `share` of all questions (0 to 1).

    The sha256 of the first user turn decides, so a question is never on both sides, in whichever set it turns up.
    """
    digest = hashlib.sha256(f"{salt}\n{first_turn_key(messages)}".encode()).digest()
    return int.from_bytes(digest[:8]) < share * 2**64
