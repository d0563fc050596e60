"""Sampling answers in batches. One loop serves rollouts, evaluation and the chat.

Why not `generate()`: the rollout needs each token's log-probability under the distribution it was drawn from, finished
answers must leave the batch (on a CPU the time is linear in the rows), and the chat must stop between two tokens.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache


@dataclass(frozen=True)
class Sampling:
    """How to draw tokens. Temperature 0 is greedy. `top_k` 0 and `top_p` 1 leave the distribution whole, which is what PPO needs."""

    max_new_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None


@dataclass(frozen=True)
class Sample:
    """One answer: ids up to and including EOS when `finished`, and log π(token) in nats under the sampling distribution."""

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finished: bool


@dataclass(frozen=True)
class Step:
    """One drawn token of one row, for streaming."""

    row: int
    token: int
    logprob: float
    last: bool


def sample(
    model,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    *,
    eos_id: int,
    pad_id: int,
    batch_size: int = 64,
    generator: torch.Generator | None = None,
    on_batch: Callable[[int], None] | None = None,
) -> list[Sample]:
    """An answer for every prompt, in the order given.

    Prompts of similar length share a batch, because each row is padded to the longest one.

    Args:
        model: a causal LM (adapters already chosen by the caller).
        prompts: token ids, ending where the assistant begins to speak.
        on_batch: called with the number of answers done after each batch.
    """
    generator = generator if generator is not None else _generator(sampling.seed, model.device)
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    answers: list[Sample | None] = [None] * len(prompts)
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        ids: list[list[int]] = [[] for _ in rows]
        logprobs: list[list[float]] = [[] for _ in rows]
        for step in stream(
            model, [prompts[i] for i in rows], sampling, eos_id=eos_id, pad_id=pad_id, generator=generator
        ):
            ids[step.row].append(step.token)
            logprobs[step.row].append(step.logprob)
        for j, i in enumerate(rows):
            answers[i] = Sample(tuple(ids[j]), tuple(logprobs[j]), ids[j][-1] == eos_id)
        if on_batch:
            on_batch(len(rows))
    return answers


@torch.inference_mode()
def stream(
    model,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    *,
    eos_id: int,
    pad_id: int,
    generator: torch.Generator | None = None,
    stop: threading.Event | None = None,
) -> Iterator[Step]:
    """Draws one token for every unfinished row at a time and yields each as it falls.

    A row ends with EOS or after `max_new_tokens`. `stop` ends all rows before the next token. Rows that ended leave the
    batch, together with their part of the key-value cache.
    """
    if any(len(p) == 0 for p in prompts):
        raise ValueError("generation needs at least one prompt token in every row")
    generator = generator if generator is not None else _generator(sampling.seed, model.device)
    device = model.device
    width = max(len(p) for p in prompts)
    # Left padding: the last column of every row is its last real token, so one position feeds the next token of all rows.
    tokens = torch.tensor([[pad_id] * (width - len(p)) + list(p) for p in prompts], device=device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)
    rows = list(range(len(prompts)))
    cache = DynamicCache(config=model.config)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    if width > 1:
        # All but the last prompt token only fill the cache. Through the whole model, `logits_to_keep=1` would multiply a strided
        # slice by the output embedding, for which torch copies that matrix once a row: gigabytes for nothing.
        model.get_decoder()(
            input_ids=tokens[:, :-1],
            attention_mask=mask[:, :-1],
            position_ids=positions[:, :-1],
            past_key_values=cache,
            use_cache=True,
        )
        tokens, positions = tokens[:, -1:], positions[:, -1:]
    for count in range(1, sampling.max_new_tokens + 1):
        if stop is not None and stop.is_set():
            return
        logits = model(
            input_ids=tokens, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
        ).logits[:, -1]
        drawn, logprobs = draw(logits, sampling, generator)
        ended = (drawn == eos_id) | (count == sampling.max_new_tokens)
        for row, token, logprob, last in zip(rows, drawn.tolist(), logprobs.tolist(), ended.tolist(), strict=True):
            yield Step(row, token, logprob, last)
        if bool(ended.all()):
            return
        if bool(ended.any()):
            keep = (~ended).nonzero().squeeze(1)
            rows = [rows[i] for i in keep.tolist()]
            drawn, mask, positions = drawn[keep], mask[keep], positions[keep]
            cache.batch_select_indices(keep)
        tokens = drawn[:, None]
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
        positions = positions[:, -1:] + 1


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


def _generator(seed: int | None, device: torch.device) -> torch.Generator | None:
    return None if seed is None else torch.Generator(device=device).manual_seed(seed)
