"""Token ids as the base reads them: texts row by row, or prompts with their answers side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# Layers that look back, and know of earlier tokens nothing else. Others carry a state along (linear attention, Mamba, convolutions).
_ATTENTION = {"full_attention", "sliding_attention"}


@dataclass(frozen=True)
class Batch:
    """Right-padded token ids.

    Attributes:
        ids: (b, t) int64.
        mask: (b, t) bool, True on real tokens.
    """

    ids: Tensor
    mask: Tensor

    @staticmethod
    def of(sequences: Sequence[Sequence[int]], pad_id: int, device: torch.device | str = "cpu") -> Batch:
        """Right padding: positions then count from 0 in every row, and no real token attends to a pad."""
        width = max(len(s) for s in sequences)
        ids = torch.tensor([list(s) + [pad_id] * (width - len(s)) for s in sequences], device=device)
        lengths = torch.tensor([len(s) for s in sequences], device=device)
        return Batch(ids, torch.arange(width, device=device) < lengths[:, None])


@dataclass(frozen=True)
class Lists:
    """Prompts with their answers side by side, one list a row, right-padded.

    Attributes:
        ids: (b, t) int64.
        positions: (b, t) int64, those that an answer's tokens would have behind the prompt alone.
        allowed: (b, 1, t, t) bool, True where a query may look.
        ends: (2, Σ K) row and column of every answer's last token, list by list.
    """

    ids: Tensor
    positions: Tensor
    allowed: Tensor
    ends: Tensor

    @staticmethod
    def of(
        lists: Sequence[tuple[Sequence[int], Sequence[Sequence[int]]]], pad_id: int, device: torch.device | str = "cpu"
    ) -> Lists:
        """The layout of (prompt ids, K answers' ids), each answer at least one token."""
        rows = [[*prompt, *(token for answer in answers for token in answer)] for prompt, answers in lists]
        width = max(map(len, rows))
        ids = torch.full((len(rows), width), pad_id)
        positions = torch.zeros((len(rows), width), dtype=torch.long)
        # 0 is the prompt, 1…K the answers, −1 padding (which attends to itself alone, so that its softmax is defined).
        segment = torch.full((len(rows), width), -1)
        ends: list[tuple[int, int]] = []
        for i, (row, (prompt, answers)) in enumerate(zip(rows, lists, strict=True)):
            ids[i, : len(row)] = torch.tensor(row)
            positions[i, : len(prompt)] = torch.arange(len(prompt))
            segment[i, : len(prompt)] = 0
            at = len(prompt)
            for k, answer in enumerate(answers, start=1):
                span = slice(at, at + len(answer))
                positions[i, span] = torch.arange(len(prompt), len(prompt) + len(answer))
                segment[i, span] = k
                at += len(answer)
                ends.append((i, at - 1))
        # From here on the squares of the width, which are made where they are used.
        ids, positions, segment = (x.to(device) for x in (ids, positions, segment))
        causal = torch.ones(width, width, dtype=torch.bool, device=device).tril()
        own = segment[:, :, None] == segment[:, None, :]
        allowed = causal & (own | (segment[:, None, :] == 0)) & (segment[:, :, None] >= 0) | torch.eye(
            width, dtype=torch.bool, device=device
        )
        return Lists(ids, positions, allowed[:, None], torch.tensor(ends, device=device).T)


def attends(config) -> bool:
    """Whether all layers of a decoder look back at the tokens that they are let see, and carry nothing along besides."""
    return _ATTENTION.issuperset(getattr(config, "layer_types", None) or ())


def side_by_side(config, allowed: Tensor, positions: Tensor, dtype: torch.dtype) -> Tensor | dict[str, Tensor]:
    """What is added to the attention's scores: 0 where a query may look, the least number elsewhere; by kind of layer where a model has
    several. A layer with a window looks back as far as it would in an answer that stands alone: by position, not by column.

    Args:
        allowed: (b, 1, t, t) bool; positions: (b, t).

    Raises:
        ValueError: the model has layers that carry a state.
    """

    def added(allowed: Tensor) -> Tensor:
        return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill(~allowed, torch.finfo(dtype).min)

    if not attends(config):
        raise ValueError("the model's layers carry a state from token to token, past the end of an answer into the next")
    kinds, window = getattr(config, "layer_types", None), getattr(config, "sliding_window", None)
    if window is None or (kinds and "sliding_attention" not in kinds):
        return added(allowed)
    near = allowed & (positions[:, None, :, None] - positions[:, None, None, :] < window)
    return {"full_attention": added(allowed), "sliding_attention": added(near)} if kinds else added(near)
