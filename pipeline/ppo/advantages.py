"""How much better each token was than expected."""

from __future__ import annotations

import torch
from torch import Tensor


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
    zero = torch.zeros_like(values)
    rewards = torch.where(mask, rewards, zero).detach()
    values = torch.where(mask, values, zero).detach()
    advantages = torch.zeros_like(values)
    following = torch.zeros_like(values[:, 0])
    for t in reversed(range(values.shape[1])):
        after = values[:, t + 1] if t + 1 < values.shape[1] else torch.zeros_like(following)
        delta = rewards[:, t] + gamma * after - values[:, t]
        following = torch.where(mask[:, t], delta + gamma * lam * following, torch.zeros_like(following))
        advantages[:, t] = following
    return advantages, torch.where(mask, advantages + values, zero)
