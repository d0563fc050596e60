"""Two answers side by side whose models are named only after the vote."""

from __future__ import annotations

import random
import time
import uuid
from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass, field

SIDES = ("left", "right")


@dataclass
class Duel:
    """Who was asked, and which answer stands on which side. `blind` is False when one of them had been seen before."""

    rater: str
    left: str
    right: str
    blind: bool
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    shown_since: float = field(default_factory=time.monotonic)

    def side(self, answer: str) -> str:
        return "left" if answer == self.left else "right"

    @property
    def shown_ms(self) -> int:
        return round((time.monotonic() - self.shown_since) * 1000)


class Duels:
    """The duels that wait for a vote, as long as the server runs; the oldest are forgotten."""

    def __init__(self, limit: int = 1000):
        self._limit, self._open = limit, OrderedDict()
        # Not seeded: nobody may know the sides beforehand.
        self._chance = random.SystemRandom()

    def offered(self, share: float) -> bool:
        """Whether this turn is answered twice."""
        return self._chance.random() < share

    def start(self, rater: str, one: str, other: str, *, blind: bool) -> Duel:
        """The two answers on sides drawn by lot."""
        left, right = self._chance.sample((one, other), 2)
        duel = Duel(rater, left, right, blind)
        self._open[duel.id] = duel
        if len(self._open) > self._limit:
            self._open.popitem(last=False)
        return duel

    def find(self, duel: str, rater: str) -> Duel | None:
        found = self._open.get(duel)
        return found if found is not None and found.rater == rater else None

    def named(self, rater: str, answers: Collection[str]) -> None:
        """The rater was told who wrote these answers, as in another tab: a choice between any of them is not blind any more."""
        for duel in self._open.values():
            if duel.rater == rater and (duel.left in answers or duel.right in answers):
                duel.blind = False

    def end(self, duel: Duel) -> None:
        self._open.pop(duel.id, None)
