"""One decoding loop for rows that come and go: the only place where the model is asked for the next token.

Decoding is bound by reading the weights, so many rows cost little more than one. A row joins between two tokens (its prompt is
read, its keys and values are set beside the others') and leaves with its part of the cache: continuous batching (Yu et al. 2022, Orca).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache

from pipeline import kv_cache
from pipeline.sampling import Sampling, draw


@dataclass(frozen=True)
class Step:
    """One drawn token of one row, for streaming."""

    row: int
    token: int
    logprob: float
    last: bool


@dataclass
class _Group:
    """Rows that joined together: one way to draw, one generator, and so many tokens drawn."""

    rows: list[int]
    sampling: Sampling
    generator: torch.Generator | None
    drawn: int = 0


class Decoder:
    """Rows of one model, in the adapter that the caller keeps active, at whatever token each has come to."""

    def __init__(self, model, *, eos_id: int, pad_id: int):
        self._model, self._eos_id, self._pad_id = model, eos_id, pad_id
        self._groups: list[_Group] = []
        self._next_row = 0
        # For the rows in the order of their groups: the token to be read next (b, 1), its position (b, 1), the mask (b, t + 1) over
        # the t columns of the cache and that token.
        self._tokens = self._positions = self._mask = self._cache = None

    @property
    def rows(self) -> tuple[int, ...]:
        """Who is drawn for."""
        return tuple(row for group in self._groups for row in group.rows)

    @property
    def can_be_joined(self) -> bool:
        """False when the model keeps what others cannot be set beside: then all rows must join together."""
        return not self._groups or kv_cache.can_be_joined(self._cache)

    @torch.inference_mode()
    def join(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, generator: torch.Generator | None = None
    ) -> list[int]:
        """Reads prompts, and returns the numbers of their rows, for which `step` draws from now on.

        The rows of one call are drawn together from one generator, `sampling`'s own where none is given. What a row of a call
        by itself draws does not depend on its company, but for the rounding of the logits.

        Args:
            prompts: token ids, ending where the assistant begins to speak.

        Raises:
            ValueError: a prompt is empty, or the model's rows cannot be joined.
        """
        if any(len(p) == 0 for p in prompts):
            raise ValueError("generation needs at least one prompt token in every row")
        if not self.can_be_joined:
            raise ValueError("this model's rows must join together; wait until those that run have ended")
        device = self._model.device
        width = max(len(p) for p in prompts)
        # Left padding: the last column of every row is its last real token, so one position feeds the next token of all rows.
        tokens = torch.tensor([[self._pad_id] * (width - len(p)) + list(p) for p in prompts], device=device)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        cache = DynamicCache(config=self._model.config)
        if width > 1:
            # All but the last prompt token only fill the cache. Through the whole model, `logits_to_keep=1` would multiply a
            # strided slice by the output embedding, for which torch copies that matrix once a row: gigabytes for nothing.
            self._model.get_decoder()(
                input_ids=tokens[:, :-1],
                attention_mask=mask[:, :-1],
                position_ids=positions[:, :-1],
                past_key_values=cache,
                use_cache=True,
            )
        self._set_beside(tokens[:, -1:], positions[:, -1:], mask, cache)
        numbers = list(range(self._next_row, self._next_row + len(prompts)))
        self._next_row += len(prompts)
        generator = generator if generator is not None else sampling.generator(device)
        self._groups.append(_Group(list(numbers), sampling, generator))
        return numbers

    @torch.inference_mode()
    def step(self) -> list[Step]:
        """Draws the next token of every row. A row ends with EOS or after its `max_new_tokens`, and leaves."""
        if not self._groups:
            return []
        logits = self._model(
            input_ids=self._tokens,
            attention_mask=self._mask,
            position_ids=self._positions,
            past_key_values=self._cache,
            use_cache=True,
        ).logits[:, -1]
        parts = logits.split([len(group.rows) for group in self._groups])
        found = [draw(p, g.sampling, g.generator) for p, g in zip(parts, self._groups, strict=True)]
        drawn, logprobs = (torch.cat(kind) for kind in zip(*found, strict=True))
        self._tokens, self._positions = drawn[:, None], self._positions + 1
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(drawn), 1)], dim=1)
        for group in self._groups:
            group.drawn += 1
        at_limit = [g.drawn >= g.sampling.max_new_tokens for g in self._groups for _ in g.rows]
        steps = [
            Step(row, token, logprob, token == self._eos_id or full)
            for row, token, logprob, full in zip(self.rows, drawn.tolist(), logprobs.tolist(), at_limit, strict=True)
        ]
        self.leave([step.row for step in steps if step.last])
        return steps

    @torch.inference_mode()
    def leave(self, rows: Iterable[int]) -> None:
        """Takes rows out, together with their part of the cache."""
        gone = set(rows)
        if gone.isdisjoint(self.rows):
            return
        keep = [i for i, row in enumerate(self.rows) if row not in gone]
        for group in self._groups:
            group.rows = [row for row in group.rows if row not in gone]
        self._groups = [group for group in self._groups if group.rows]
        if not self._groups:
            self._tokens = self._positions = self._mask = self._cache = None
            return
        kept = torch.tensor(keep, device=self._tokens.device)
        self._tokens, self._positions, self._mask = self._tokens[kept], self._positions[kept], self._mask[kept]
        # Of states that are carried along too; `batch_select_indices` knows of keys and values alone.
        self._cache.reorder_cache(kept)

    def _set_beside(self, tokens: Tensor, positions: Tensor, mask: Tensor, cache: DynamicCache) -> None:
        if not self._groups:
            self._tokens, self._positions, self._mask, self._cache = tokens, positions, mask, cache
            return
        # Columns that no row uses any more, since the longest has left, go at this occasion: everything is copied anyway.
        width = max(int(self._mask.sum(1).max()), mask.shape[1])
        kv_cache.join(self._cache, cache, rows=(len(self._tokens), len(tokens)), width=width - 1)
        self._tokens = torch.cat([self._tokens, tokens])
        self._positions = torch.cat([self._positions, positions])
        self._mask = torch.cat([pad(m, (width - m.shape[1], 0)) for m in (self._mask, mask)])
