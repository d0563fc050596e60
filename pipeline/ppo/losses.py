"""What the policy and the value model minimise."""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.ppo.masking import masked_mean, masked_var


def policy_loss(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, mask: Tensor, *, clip_range: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """The clipped surrogate (Schulman et al. 2017, eq. 7), negated, averaged over real tokens.

        ρ = exp(log π − log π_old)      L = mean max(−Â ρ, −Â clip(ρ, 1−ε, 1+ε))

    Args:
        logprobs: (b, t) nats under the policy being trained, with gradient.
        old_logprobs: (b, t) nats under the policy that sampled.
        advantages: (b, t).
        mask: (b, t) bool.
        clip_range: ε.

    Returns:
        The scalar loss, and figures without gradient: clip_fraction (share of tokens where the clipped term counts),
        approx_kl (k3 of old ‖ new, nats a token), ratio_max (largest ρ).
    """
    # Replaced before exp, so that whatever stands under a False cannot reach the gradient as 0 · inf.
    log_ratio = torch.where(mask, logprobs - old_logprobs, 0.0)
    ratio = log_ratio.exp()
    plain, clipped = -advantages * ratio, -advantages * ratio.clamp(1 - clip_range, 1 + clip_range)
    with torch.no_grad():
        figures = {
            "clip_fraction": masked_mean((clipped > plain).float(), mask),
            "approx_kl": masked_mean(ratio - 1 - log_ratio, mask),
            "ratio_max": ratio[mask].max(),
        }
    return masked_mean(torch.maximum(plain, clipped), mask), figures


def value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, *, clip_range: float | None
) -> Tensor:
    """Half the squared error, with the new value held near the old one (Huang et al. 2024, after Schulman's code).

        L = ½ mean max((V − R)², (clip(V, V_old ± ε) − R)²)

    Args:
        values: (b, t) with gradient; old_values: (b, t) when the answers were collected; returns: (b, t). Reward units.
        clip_range: ε in reward units; None leaves the plain squared error.
    """
    plain = (values - returns).square()
    if clip_range is None:
        return 0.5 * masked_mean(plain, mask)
    near = old_values + (values - old_values).clamp(-clip_range, clip_range)
    return 0.5 * masked_mean(torch.maximum(plain, (near - returns).square()), mask)


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """1 − Var(R − V) / Var(R) over real tokens: 1 is perfect, 0 no better than a constant; NaN when R does not vary."""
    spread = masked_var(returns, mask)
    if spread == 0:
        return torch.full_like(spread, torch.nan)
    return 1 - masked_var(returns - values, mask) / spread


def importance_weights(
    logprobs: Tensor, sampled: Tensor, mask: Tensor, *, cap: float | None
) -> tuple[Tensor, dict[str, float]]:
    """Truncated importance sampling (Ionides 2008) for tokens that another implementation of the policy drew.

        wₜ = min(π(yₜ) / μ(yₜ), cap)

    E over μ of w·A equals E over π of A where nothing is truncated; the cap bounds the variance that a rare token brings.

    Args:
        logprobs: (b, t) log π of the tokens by the arithmetic that trains, nats.
        sampled: (b, t) log μ as the sampler gave it, nats.
        mask: (b, t) bool, True on answer tokens up to and including EOS.
        cap: the largest weight; None gives weights of 1.

    Returns:
        (b, t) weights, 1 where the mask is False, and how far the two are apart: `sampler_kl`, the mean of log μ − log π over the tokens,
        an estimate of KL(μ ‖ π) in nats a token; with a cap also `importance_capped`, the share of tokens that it held.
    """
    apart = torch.where(mask, logprobs - sampled, torch.zeros_like(logprobs))
    tokens = mask.sum()
    figures = {"sampler_kl": float(-apart.sum() / tokens)}
    if cap is None:
        return torch.ones_like(logprobs), figures
    ratio = apart.exp()
    figures["importance_capped"] = float((ratio > cap).sum() / tokens)
    return ratio.clamp(max=cap), figures
