"""Statistics over real tokens only. A mask is (b, t) bool, True on response tokens up to and including EOS.

What stands under a False may be anything, NaN included: it is replaced, never multiplied by zero.
"""

from __future__ import annotations

import torch
from torch import Tensor

_FEWEST = 8


def response_mask(lengths: Tensor) -> Tensor:
    """(b,) int tokens of each answer, its EOS counted → (b, t) bool, True on these; t is the longest."""
    return torch.arange(int(lengths.max()), device=lengths.device) < lengths[:, None]


class TooFewTokens(ValueError):
    """A spread over so few tokens says nothing."""


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean of x over the True positions of all rows together: Σ m·x / Σ m. Scalar, in the unit of x.

    Raises:
        ValueError: the mask is False everywhere.
    """
    return _kept(x, mask).mean()


def masked_var(x: Tensor, mask: Tensor) -> Tensor:
    """Biased variance of x over the True positions: Σ m·(x − mean)² / Σ m."""
    return _kept(x, mask).var(correction=0)


def masked_whiten(x: Tensor, mask: Tensor, *, shift_mean: bool = True) -> Tensor:
    """(x − mean) / √(var + 1e-8) over the True positions, 0 elsewhere (Huang et al. 2024, details 24 and 25).

    Args:
        x: (b, t) advantages or rewards.
        shift_mean: False keeps the mean: x' = (x − mean)/std + mean, used for rewards, whose level means something.

    Raises:
        TooFewTokens: fewer than 8 real tokens, whose spread says nothing.
    """
    kept = _kept(x, mask)
    if kept.numel() < _FEWEST:
        raise TooFewTokens(f"whitening needs at least {_FEWEST} real tokens, got {kept.numel()}; raise the batch size")
    mean, variance = kept.mean(), kept.var(correction=0)
    white = (x - mean) * torch.rsqrt(variance + 1e-8)
    if not shift_mean:
        white = white + mean
    return torch.where(mask, white, torch.zeros_like(white))


def _kept(x: Tensor, mask: Tensor) -> Tensor:
    kept = x[mask]
    if kept.numel() == 0:
        raise ValueError("the mask is False everywhere: there is no real token")
    return kept
