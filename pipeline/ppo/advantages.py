"""How much better each token was than expected."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def gae(rewards: Tensor, values: Tensor, mask: Tensor, *, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Generalized advantage estimation over one response per row (Schulman et al. 2016, eq. 16).

        δₜ = rₜ + γ Vₜ₊₁ − Vₜ          Âₜ = δₜ + γλ Âₜ₊₁          Rₜ = Âₜ + Vₜ

    A response ends its episode, so V after the last real token is 0. At λ = 1 the return is the reward to come; at λ = 0 the
    advantage is the one-step error.

    Args:
        rewards: (b, t) reward for emitting token t, in reward units.
        values: (b, t) estimate of what is still to come before token t is emitted, same units.
        mask: (b, t) bool, True on response tokens up to and including EOS.
        gamma: discount a token, 1 for answers of tens of tokens.
        lam: λ, between the biased (0) and the noisy (1) end.

    Returns:
        advantages and returns, both (b, t), not whitened, without gradient, 0 where the mask is False.
    """
    values = torch.where(mask, values, 0.0)
    advantages = torch.empty_like(values)
    value_after = advantage_after = torch.zeros_like(values[:, 0])
    for t in reversed(range(values.shape[1])):
        delta = rewards[:, t] + gamma * value_after - values[:, t]
        advantages[:, t] = torch.where(mask[:, t], delta + gamma * lam * advantage_after, 0.0)
        value_after, advantage_after = values[:, t], advantages[:, t]
    return advantages, advantages + values
