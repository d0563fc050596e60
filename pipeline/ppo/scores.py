"""What happens to a score between the reward model and the last token."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def missing_eos(scores: Tensor, finished: Tensor, penalty: float) -> Tensor:
    """Subtracts `penalty` (reward units) where the answer was cut off before its end.

    Subtracted, as TRL did, and not put in the score's place, as in Huang et al. 2024 (detail 23): among answers that are all cut off,
    which is where a base model starts, the better one must still be paid more.

    Args:
        scores: (b,); finished: (b,) bool.
    """
    return torch.where(finished, scores, scores - penalty)


def clip_scores(scores: Tensor, limit: float | None) -> Tensor:
    """Into ±limit, or as they are when limit is None."""
    return scores if limit is None else scores.clamp(-limit, limit)


class RunningMoments:
    """Mean and variance of everything seen so far (Chan et al. 1979), to scale scores as PPO-max does."""

    def __init__(self) -> None:
        self.count, self.mean, self._squares = 0, 0.0, 0.0

    def update(self, scores: Tensor) -> None:
        batch = scores.double()
        n, mean = batch.numel(), float(batch.mean())
        total, gap = self.count + n, mean - self.mean
        self._squares += float((batch - mean).square().sum()) + gap * gap * self.count * n / total
        self.mean += gap * n / total
        self.count = total

    @property
    def std(self) -> float:
        """Biased standard deviation; 1 as long as all scores were the same, or there was none."""
        return math.sqrt(self._squares / self.count) if self._squares > 0 else 1.0

    def scale(self, scores: Tensor) -> Tensor:
        """(scores − mean) / std."""
        return (scores - self.mean) / self.std

    def state_dict(self) -> dict[str, float]:
        return {"count": self.count, "mean": self.mean, "squares": self._squares}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.count, self.mean, self._squares = state["count"], state["mean"], state["squares"]
