"""How a token is drawn from logits."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sampling:
    """How to draw tokens. Temperature 0 is greedy. `top_k` 0 and `top_p` 1 leave the distribution whole, which is what PPO needs."""

    max_new_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None

    def generator(self, device: torch.device | str) -> torch.Generator | None:
        """A generator that starts at the seed; None, torch's own, where there is no seed."""
        return None if self.seed is None else torch.Generator(device=device).manual_seed(self.seed)


def draw(logits: Tensor, sampling: Sampling, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """One token per row of `logits` (b, v), and its log-probability (b,) in nats under the distribution it was drawn from."""
    logits = logits.float()
    if sampling.temperature == 0:
        drawn = logits.argmax(-1)
        return drawn, torch.zeros_like(drawn, dtype=torch.float32)
    logprobs = torch.log_softmax(_truncate(logits / sampling.temperature, sampling), dim=-1)
    drawn = torch.multinomial(logprobs.exp(), 1, generator=generator)
    return drawn.squeeze(1), logprobs.gather(1, drawn).squeeze(1)


def _truncate(logits: Tensor, sampling: Sampling) -> Tensor:
    """Top-k, then nucleus (Holtzman et al. 2020): everything outside becomes −inf."""
    if 0 < sampling.top_k < logits.shape[-1]:
        kth = logits.topk(sampling.top_k).values[:, -1:]
        logits = logits.masked_fill(logits < kth, -torch.inf)
    if sampling.top_p < 1.0:
        ordered, index = logits.sort(dim=-1, descending=True)
        probability = ordered.softmax(-1)
        # A token stays while the mass before it is below top_p, so the most likely one always stays.
        outside = probability.cumsum(-1) - probability >= sampling.top_p
        logits = logits.masked_fill(outside.scatter(1, index, outside), -torch.inf)
    return logits
