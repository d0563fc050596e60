"""Two answers to one question that wait for a choice between them."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field

# What the keys 1 to 4 mean on the page means the same here; who reads A and B also types a and b.
KEYS = {"1": "left", "2": "right", "3": "tie", "4": "both_bad", "a": "left", "b": "right"}
HOW = "Which is better? 1 A, 2 B, 3 equally good, 4 both bad; anything else is asked"
_SAID = {"left": "A is better", "right": "B is better", "tie": "equally good", "both_bad": "both bad"}
# Not seeded: nobody may know the sides beforehand.
_chance = random.SystemRandom()


@dataclass
class Said:
    """An answer: its words, its id in the store, how it ended, and who gave it."""

    text: str = ""
    id: str | None = None
    finish: str | None = None
    by: str = ""
    # A person's own wording stands where an answer did; it takes no thumb.
    own: bool = False


@dataclass
class Choice:
    """Two answers, sides as they were shown. `blind` is False when one of them had been read with its model's name."""

    left: Said
    right: Said
    blind: bool
    since: float = field(default_factory=time.monotonic)

    @property
    def shown_ms(self) -> int:
        return round((time.monotonic() - self.since) * 1000)

    def better(self, winner: str) -> Said:
        """The answer that the conversation goes on with."""
        return self.right if winner == "right" else self.left

    def verdict(self, winner: str) -> str:
        """The choice in words, and only now who wrote which answer."""
        who = f"both were {self.left.by}"
        if self.left.by != self.right.by:
            who = f"A was {self.left.by}, B was {self.right.by}"
        return f"kept: {_SAID[winner]}; {who}"


def toss() -> bool:
    """A lot for the sides."""
    return _chance.random() < 0.5


def offered(share: float) -> bool:
    """Whether this turn is answered twice."""
    return _chance.random() < share
