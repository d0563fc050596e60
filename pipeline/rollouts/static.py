"""Answers drawn in this process from a cache of fixed size, so that on a card one token's pass is recorded once and played back (CUDA graphs).

A small model's pass is hundreds of small kernels, and the time to start each one from Python is longer than the kernel. Played back as one
they cost what they compute. The price: rows that ended stay in the batch until all have, and the cache has its full size from the start.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers import DynamicCache, StaticCache
from transformers.cache_utils import DynamicLayer

from pipeline.adapters import SharedBase
from pipeline.generation import Sample, Sampling, sample
from pipeline.memory import is_out_of_memory
from pipeline.rollouts.saying import Said
from pipeline.sampling import draw

# Tokens between two looks whether all rows have ended: each look waits for the card.
LOOK_EVERY = 8


class StaticEngine:
    """As `InProcess`, but for which row meets which chance once rows have ended."""

    foreign = False

    def __init__(self):
        self._said = Said()

    def sample(
        self,
        base: SharedBase,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        *,
        generator: torch.Generator,
        batch_size: int,
    ) -> list[Sample]:
        tokenizer = base.tokenizer
        ends = {"eos_id": tokenizer.eos_token_id, "pad_id": tokenizer.pad_token_id}
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        answers: list[Sample | None] = [None] * len(prompts)
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            part = [prompts[i] for i in rows]
            drawn = _draw(base.causal_lm, part, sampling, generator, said=self._said, **ends)
            if drawn is None:
                self._said.once("the model keeps windows or states, for which engine static has no cache; engine hf draws.")
                drawn = sample(
                    base.causal_lm, part, sampling, generator=generator, batch_size=batch_size, **ends
                )
            for i, answer in zip(rows, drawn, strict=True):
                answers[i] = answer
        return answers

    def close(self) -> None:
        """Holds nothing between two rollouts."""


@torch.inference_mode()
def _draw(
    model,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    generator: torch.Generator,
    *,
    said: Said,
    eos_id: int,
    pad_id: int,
) -> list[Sample] | None:
    """One answer a prompt; None where the model's cache is none of keys and values by position."""
    device = model.device
    # At least one token is read before the first is drawn, which gives the cache its shape.
    width = max(2, *(len(p) for p in prompts))
    tokens = torch.tensor([[pad_id] * (width - len(p)) + list(p) for p in prompts], device=device)
    lengths = torch.tensor([len(p) for p in prompts], device=device)
    mask = torch.arange(width, device=device) >= width - lengths[:, None]
    positions = (mask.long().cumsum(1) - 1).clamp(min=0)
    cache = _filled(model, tokens, mask, positions, room=width - 1 + sampling.max_new_tokens)
    if cache is None:
        return None
    ids, at = tokens[:, -1:].clone(), positions[:, -1:].clone()
    # What is added to the attention's scores, (b, 1, 1, columns of the cache): columns that hold nothing yet are hidden.
    hidden = torch.finfo(model.dtype).min
    allowed = torch.full((len(prompts), 1, 1, width - 1 + sampling.max_new_tokens), hidden, dtype=model.dtype, device=device)
    allowed[:, 0, 0, :width] = allowed[:, 0, 0, :width].masked_fill(mask, 0.0)
    step = _step(model, cache, ids, at, allowed, before=width - 1, said=said)
    drawn, logprobs = [], []
    ended = torch.zeros(len(prompts), dtype=torch.bool, device=device)
    for number in range(sampling.max_new_tokens):
        token, logprob = draw(step(), sampling, generator)
        drawn.append(token)
        logprobs.append(logprob)
        ended |= token == eos_id
        if number + 1 == sampling.max_new_tokens or (number % LOOK_EVERY == LOOK_EVERY - 1 and bool(ended.all())):
            break
        ids.copy_(token[:, None])
        at += 1
        allowed[:, :, :, width + number] = 0.0
    rows = zip(torch.stack(drawn, 1).tolist(), torch.stack(logprobs, 1).tolist(), strict=True)
    return [_cut(ids, values, eos_id) for ids, values in rows]


def _filled(model, tokens: Tensor, mask: Tensor, positions: Tensor, *, room: int) -> StaticCache | None:
    """A cache of `room` columns that holds all but the last token of every prompt."""
    read = DynamicCache(config=model.config)
    model.get_decoder()(
        input_ids=tokens[:, :-1],
        attention_mask=mask[:, :-1].long(),
        position_ids=positions[:, :-1],
        past_key_values=read,
        use_cache=True,
    )
    if not all(type(layer) is DynamicLayer for layer in read.layers):
        return None
    cache = StaticCache(config=model.config, max_cache_len=room)
    for layer, held in zip(cache.layers, read.layers, strict=True):
        layer.update(held.keys, held.values)
        held.keys = held.values = None
    return cache


def _step(
    model, cache: StaticCache, ids: Tensor, at: Tensor, allowed: Tensor, *, before: int, said: Said
) -> Callable[[], Tensor]:
    """Reads `ids` at the positions `at`, and gives the logits (b, v) of the next token. All three are read where they lie."""

    def forward() -> Tensor:
        return model(
            input_ids=ids, attention_mask=allowed, position_ids=at, past_key_values=cache, use_cache=True
        ).logits[:, -1]

    if ids.device.type != "cuda":
        return forward
    # Libraries make their working memory in a first pass, which must not be recorded; what it wrote is written over.
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        forward()
    torch.cuda.current_stream().wait_stream(side)
    for layer in cache.layers:
        layer.cumulative_length.fill_(before)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            logits = forward()
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        said.once(f"this model's pass cannot be recorded ({str(error).splitlines()[0][:200]}); each is started by itself.")
        for layer in cache.layers:
            layer.cumulative_length.fill_(before)
        return forward

    def play() -> Tensor:
        graph.replay()
        return logits

    return play


def _cut(ids: list[int], logprobs: list[float], eos_id: int) -> Sample:
    """Up to and including the first end."""
    length = ids.index(eos_id) + 1 if eos_id in ids else len(ids)
    return Sample(tuple(ids[:length]), tuple(logprobs[:length]), eos_id in ids)
