"""KL(policy ‖ reference) from tokens that the policy sampled, and the reward that charges for it."""

from __future__ import annotations

import torch
from torch import Tensor

ESTIMATORS = ("k1", "k2", "k3")


def token_kl(logprobs: Tensor, ref_logprobs: Tensor, *, estimator: str) -> Tensor:
    """Per-token estimate of KL(policy ‖ reference) in nats, from tokens the policy sampled (Schulman 2020).

        d = log π − log π_ref       k1 = d       k2 = d²/2       k3 = e^(−d) − 1 + d

    k1 is unbiased and may be negative; k3 is unbiased and never negative; k2 is biased and not comparable with them.

    Args:
        logprobs, ref_logprobs: (b, t) log-probabilities of the sampled tokens, nats.
    """
    difference = logprobs - ref_logprobs
    if estimator == "k1":
        return difference
    if estimator == "k2":
        return difference.square() / 2
    if estimator == "k3":
        return torch.expm1(-difference) + difference
    raise ValueError(f"unknown KL estimator {estimator!r}; there are {', '.join(ESTIMATORS)}")


def sequence_kl(logprobs: Tensor, ref_logprobs: Tensor, mask: Tensor, *, estimator: str = "k1") -> Tensor:
    """(b,) KL(policy ‖ reference) in nats a sequence: the per-token estimates summed over real tokens."""
    kl = token_kl(logprobs, ref_logprobs, estimator=estimator)
    return torch.where(mask, kl, torch.zeros_like(kl)).sum(1)


def shape_rewards(
    scores: Tensor, logprobs: Tensor, ref_logprobs: Tensor, mask: Tensor, *, kl_coef: float, estimator: str = "k1"
) -> Tensor:
    """What each token is paid (Ziegler et al. 2019, eq. 2; Ouyang et al. 2022, eq. 2).

        r_t = −β · KL_t + [t is the last real token] · score

    Args:
        scores: (b,) reward-model score of the whole answer, reward units.
        logprobs, ref_logprobs: (b, t) nats.
        mask: (b, t) bool, at least one True a row.
        kl_coef: β ≥ 0, reward units a nat.

    Returns:
        (b, t) without gradient; 0 where the mask is False. Its sum over t is score − β · KL of the sequence.

    Raises:
        ValueError: a row without a real token has no place for its score.
    """
    if not bool(mask.any(1).all()):
        raise ValueError(f"{int((~mask.any(1)).sum())} of {len(mask)} rows have no real token to put the score on")
    kl = token_kl(logprobs, ref_logprobs, estimator=estimator).detach()
    rewards = torch.where(mask, -kl_coef * kl, torch.zeros_like(kl))
    positions = torch.arange(mask.shape[1], device=mask.device)
    last = (positions * mask).max(1).values
    rewards[torch.arange(len(rewards), device=mask.device), last] += scores.to(rewards)
    return rewards


class FixedKLController:
    """The same β throughout."""

    def __init__(self, coef: float):
        self.value = coef

    def update(self, kl: float, n: int) -> None:
        """Nothing to learn."""

    def state_dict(self) -> dict[str, float]:
        return {"value": self.value}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.value = state["value"]


class AdaptiveKLController(FixedKLController):
    """Steers β so that the KL settles at a target (Ziegler et al. 2019, section 2.2).

    β ← β · (1 + clip(KL / target − 1, ±0.2) · n / horizon)
    """

    def __init__(self, coef: float, target: float, horizon: int):
        super().__init__(coef)
        self.target, self.horizon = target, horizon

    def update(self, kl: float, n: int) -> None:
        """Takes note of the mean KL (nats a sequence) over n episodes."""
        error = min(0.2, max(-0.2, kl / self.target - 1.0))
        self.value *= 1.0 + error * n / self.horizon
