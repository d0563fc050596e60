"""Key-value caches of rows that were read apart and go on together."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer


def can_be_joined(cache: DynamicCache) -> bool:
    """Whether every layer holds keys and values by position and nothing else: a recurrent state has no room for padding."""
    return all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers)


def join(upper: DynamicCache, lower: DynamicCache, *, rows: tuple[int, int], width: int) -> None:
    """Puts the rows of `lower` under those of `upper`, in `upper`.

    Both are set right-aligned into `width` columns: the shorter gets zeros on the left, which the attention mask must hide,
    and the longer loses columns there, which nobody may need.

    Args:
        rows: how many each cache has; a cache of prompts of one token is empty and does not know.
        width: columns afterwards, at least those that a row of either needs.
    """
    for above, below in zip(upper.layers, lower.layers, strict=True):
        filled = [layer for layer in (above, below) if layer.get_seq_length()]
        if not filled:
            # Nothing was read but the token to come; layers that use another's keys never hold any.
            continue
        keys, values = (
            torch.cat(
                [_aligned(layer, name, n, filled[0], width) for layer, n in zip((above, below), rows, strict=True)]
            )
            for name in ("keys", "values")
        )
        if not above.is_initialized:
            above.lazy_initialization(keys, values)
        above.keys, above.values = keys, values
        if above.is_sliding:
            above.cumulative_length = width


def _aligned(layer: DynamicLayer, name: str, rows: int, like: DynamicLayer, width: int) -> Tensor:
    """(rows, heads, columns, size); a layer with a sliding window keeps no more columns than it looks back on."""
    held = getattr(layer, name) if layer.get_seq_length() else getattr(like, name)[:1, :, :0].expand(rows, -1, -1, -1)
    columns = min(width, layer.sliding_window - 1) if layer.is_sliding else width
    # A negative width of padding takes columns away.
    return pad(held, (0, 0, columns - held.shape[-2], 0))
