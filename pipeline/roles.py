"""Opening a run's models: the base, and the roles that its stages left behind."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from pipeline.adapters import REWARD, SharedBase
from pipeline.models import load
from reward.model import Encoder, ScalarHead, score, score_all
from reward.scale import Scale

ADAPTER, HEAD, SCALE = "adapter", "head.safetensors", "scale.json"


def open_base(config) -> SharedBase:
    """The base model of the config, frozen, ready to take adapters."""
    model, tokenizer = load(config.model)
    return SharedBase(model, tokenizer, config.lora)


class RewardModel:
    """Reward adapter, head and scale: ids of conversations → scores in units of the reference answers' spread."""

    def __init__(self, base: SharedBase, head: ScalarHead, scale: Scale):
        self.base, self.head, self.scale = base, head, scale

    @staticmethod
    def open(base: SharedBase, directory: Path) -> RewardModel:
        """The model that the reward stage left in `directory`, frozen."""
        base.load(REWARD, directory / ADAPTER, trainable=False)
        head = ScalarHead(base.hidden_size)
        head.load(directory / HEAD)
        return RewardModel(base, head.to(base.device).requires_grad_(False), Scale.load(directory / SCALE))

    def save(self, directory: Path) -> None:
        self.base.save(REWARD, directory / ADAPTER)
        self.head.save(directory / HEAD)
        self.scale.save(directory / SCALE)

    def encode(self, sequences: Sequence[Sequence[int]]):
        return self.base.encode(sequences, REWARD)

    def score(self, sequences: Sequence[Sequence[int]], encode: Encoder | None = None) -> Tensor:
        """(b,) scores; `encode` stands in where the states below the adapters are already at hand."""
        return self.scale(score(encode or self.encode, self.head, sequences))

    def score_all(self, sequences: Sequence[Sequence[int]], on_batch=None) -> list[float]:
        """Scores of any number of conversations, in batches, without gradients."""
        return self.scale(score_all(self.encode, self.head, sequences, on_batch=on_batch)).tolist()

    @torch.no_grad()
    def score_lists(
        self, lists: Sequence[tuple[Sequence[int], Sequence[Sequence[int]]]], *, batch_size: int = 8, on_batch=None
    ) -> list[list[float]]:
        """Scores of (prompt ids, K answers' ids), each prompt read once for all its answers."""
        found: list[list[float]] = []
        for start in range(0, len(lists), batch_size):
            part = lists[start : start + batch_size]
            scores = self.scale(self.head(self.base.encode_lists(part, REWARD))).tolist()
            for _, answers in part:
                found.append(scores[: len(answers)])
                del scores[: len(answers)]
            if on_batch:
                on_batch(len(part))
        return found
