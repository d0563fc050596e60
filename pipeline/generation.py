"""Sampling answers in batches. One loop serves rollouts, evaluation and the chat.

Why not `generate()`: the rollout needs each token's log-probability under the distribution it was drawn from, finished
answers must leave the batch (on a CPU the time is linear in the rows), and the chat must stop between two tokens.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from pipeline.decoder import Decoder, Step
from pipeline.sampling import Sampling, draw

__all__ = ["Sample", "Sampling", "Step", "draw", "sample", "stream"]


@dataclass(frozen=True)
class Sample:
    """One answer: ids up to and including EOS when `finished`, and log π(token) in nats under the sampling distribution."""

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finished: bool


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
    generator = generator if generator is not None else sampling.generator(model.device)
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
    decoder = Decoder(model, eos_id=eos_id, pad_id=pad_id)
    decoder.join(prompts, sampling, generator)
    while decoder.rows and not (stop is not None and stop.is_set()):
        yield from decoder.step()
