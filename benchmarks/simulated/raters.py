"""Simulated people: the rubric with noise, and one who presses 👍 without looking."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass


@dataclass(frozen=True)
class Rater:
    """Somebody who reads: a Bradley-Terry draw on the rubric's points, and now and then a slip of the finger.

    Attributes:
        spread: points; a better answer by so much is preferred with odds of e to 1 before slips.
        flips: share of votes that come out as the opposite of what was meant.
        threshold: points from which an answer is rather 👍 than 👎.
    """

    spread: float = 0.5
    flips: float = 0.1
    threshold: float = 4.0

    def chance_left(self, left: float, right: float) -> float:
        """P(left is chosen) for answers of so many points: f + (1 − 2f) · σ((left − right) / spread)."""
        return self.flips + (1 - 2 * self.flips) * _sigmoid((left - right) / self.spread)

    def chance_up(self, points: float) -> float:
        """P(👍): the same draw against the threshold."""
        return self.chance_left(points, self.threshold)


@dataclass(frozen=True)
class Lazy:
    """Somebody who does not read: 👍 nine times in ten, and of two answers either."""

    ups: float = 0.9

    def chance_left(self, left: float, right: float) -> float:
        return 0.5

    def chance_up(self, points: float) -> float:
        return self.ups


def choose(rater: Rater | Lazy, left: float, right: float, rng: random.Random) -> str:
    """The side that is chosen, left or right."""
    return "left" if rng.random() < rater.chance_left(left, right) else "right"


def thumb(rater: Rater | Lazy, points: float, rng: random.Random) -> int:
    """1 for 👍, -1 for 👎."""
    return 1 if rng.random() < rater.chance_up(points) else -1


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))
