"""Who draws the answers of a rollout: this process, or a server beside it. The trainer knows this protocol alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

from pipeline.adapters import SharedBase
from pipeline.generation import Sample, Sampling, sample


class RolloutEngine(Protocol):
    """Answers of the policy as it is now, `base` acting as POLICY when it is called."""

    # Whether the log-probabilities come from other arithmetic than that which trains.
    foreign: bool

    def sample(
        self,
        base: SharedBase,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        *,
        generator: torch.Generator,
        batch_size: int,
    ) -> list[Sample]:
        """An answer for every prompt, in the order given; all chance follows from `generator`."""

    def close(self) -> None:
        """Gives back what it holds."""


class InProcess:
    """The sampling loop of `pipeline/generation.py`, on the weights that train."""

    foreign = False

    def sample(self, base, prompts, sampling, *, generator, batch_size) -> list[Sample]:
        return sample(
            base.causal_lm,
            prompts,
            sampling,
            eos_id=base.tokenizer.eos_token_id,
            pad_id=base.tokenizer.pad_token_id,
            batch_size=batch_size,
            generator=generator,
        )

    def close(self) -> None:
        """Holds nothing."""


def open_engine(settings, *, longest: int, temperature: float | None = None) -> RolloutEngine:
    """The engine that `ppo.rollout` asks for.

    Args:
        longest: tokens of the longest prompt and answer together, which a server must be able to hold.
        temperature: that all answers will be drawn at; None where that is not known.

    Raises:
        UserError: the server cannot be used; the message says why.
    """
    if settings.engine == "hf":
        return InProcess()
    if settings.engine == "static":
        from pipeline.rollouts.static import StaticEngine

        return StaticEngine()
    if settings.engine == "continuous":
        from pipeline.rollouts.continuous import ContinuousEngine

        return ContinuousEngine(record=settings.record)
    from pipeline.rollouts.vllm import VllmServer

    return VllmServer(settings, longest=longest, temperature=temperature)
