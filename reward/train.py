"""Training on rankings: every pair of one prompt's answers, from one encoding of each answer (Ouyang et al. 2022, eq. 1)."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TypeVar

import torch
from torch import Tensor, nn

from reward.model import ListEncoder, ScalarHead
from reward.optimizer import load_tensors, make_optimizer, tensors_of
from reward.thumbs import EncodedThumbs, thumb_loss

T = TypeVar("T")
# Answers to one prompt that share a reading of it. More than rankings have.
SIDE_BY_SIDE = 16


@dataclass(frozen=True)
class EncodedRanking:
    """One prompt and its K answers as token ids.

    Attributes:
        answers: each with its end-of-sequence token where it was finished.
        pairs: (better, worse) indices, at least one; ties give no pair.
        best: index of the answer ranked first.
    """

    prompt: tuple[int, ...]
    answers: tuple[tuple[int, ...], ...]
    pairs: tuple[tuple[int, int], ...]
    best: int


def ranking_loss(scores: Tensor, pairs: Sequence[tuple[int, int]]) -> Tensor:
    """Mean over a ranking's pairs of −log σ(s_better − s_worse) (Ouyang et al. 2022, eq. 1), in nats.

    Args:
        scores: (K,) one prompt's scores.
        pairs: (better, worse) indices.
    """
    better, worse = torch.tensor(pairs, device=scores.device).T
    return -nn.functional.logsigmoid(scores[better] - scores[worse]).mean()


def centring(scores: Tensor) -> Tensor:
    """(2 · mean s)², which for a pair is (s_better + s_worse)² (Eisenstein et al. 2023), in squared raw score units.

    Pairs leave the level of the scores undetermined; this holds it near zero and leaves the differences alone.

    Args:
        scores: (K,) one prompt's scores.
    """
    return (2 * scores.mean()).square()


def with_mismatched(
    rankings: Sequence[EncodedRanking], rng: random.Random, *, most: int | None = None
) -> list[EncodedRanking]:
    """Adds to each ranking a good answer to *another* prompt, as worse than the prompt's own best.

    Rankings compare answers to one prompt, all of them about it more or less, so a scorer may ignore the question and still be
    right on most pairs. A borrowed answer can only be told by reading the question. It takes part in one pair, and not in
    those with the worse answers: a finished answer to another question may well be no worse than a broken one to this.

    A prompt may have several rankings, whose best answers are good ones to it. A ranking for which nobody has an answer to lend stays
    as it is.

    Args:
        most: tokens that a prompt and an answer to it may have together, the model's context; None is any number.
    """
    if len(rankings) < 2:
        return list(rankings)

    def lends(other: EncodedRanking, prompt: tuple[int, ...]) -> bool:
        length = len(prompt) + len(other.answers[other.best])
        return other.prompt != prompt and (most is None or length <= most)

    @lru_cache(16)
    def lenders(prompt: tuple[int, ...]) -> list[EncodedRanking]:
        # Asked again and again for what everybody asks: each time is a walk over all rankings.
        return [one for one in rankings if lends(one, prompt)]

    out = []
    for i, ranking in enumerate(rankings):
        j = rng.randrange(len(rankings) - 1)
        other = rankings[j if j < i else j + 1]
        if not lends(other, ranking.prompt):
            if not (able := lenders(ranking.prompt)):
                out.append(ranking)
                continue
            other = rng.choice(able)
        pair = (ranking.best, len(ranking.answers))
        answers = (*ranking.answers, other.answers[other.best])
        out.append(replace(ranking, answers=answers, pairs=(*ranking.pairs, pair)))
    return out


def train(
    encode: ListEncoder,
    head: ScalarHead,
    adapter: Sequence[nn.Parameter],
    rankings: Sequence[EncodedRanking],
    settings,
    *,
    seed: int,
    thumbs: Sequence[EncodedThumbs] = (),
    most: int | None = None,
    resume: tuple[dict[str, Tensor], int] | None = None,
    on_step: Callable[[dict[str, float], Callable[[], dict[str, Tensor]]], None] = lambda figures, state: None,
    in_parts: Callable[[Callable[[int], T]], T] | None = None,
) -> None:
    """Fits the reward adapter and head in place.

    A ranking is one element of a batch: its pairs are never spread over steps, which would overfit to its answers (Ouyang
    et al. 2022, section 3.5). The learning rate warms up, then falls linearly to zero.

    Args:
        encode: the reward role's encoder, differentiable with respect to `adapter`.
        settings: the `reward` section of the config.
        thumbs: lone thumbs, prompt by prompt; each is one element of a batch like a ranking, with the weight `thumbs_weight`.
        most: as in `with_mismatched`.
        resume: what `state` gave after so many steps, and that number: the run goes on as if it had never stopped.
        on_step: receives step, loss, accuracy on the step's own pairs and thumbs, seconds, learning_rate and grad_norm, and `state`, a
            function that returns everything the next step depends on, as tensors by name: the live ones, to be saved before that step.
        in_parts: calls a function with the number of rankings a forward pass; again with fewer when memory ran out.

    Raises:
        FloatingPointError: the loss or its gradient is not finite; the message names the step, and nothing was changed by it.
    """
    rng = random.Random(seed)
    steps = total_steps(len(rankings) + len(thumbs), settings)
    optimizer = make_optimizer(
        settings.optimizer,
        [
            {"params": adapter, "lr": settings.learning_rate},
            {"params": head.parameters(), "lr": settings.head_learning_rate},
        ],
        weight_decay=settings.weight_decay,
    )
    peaks = [group["lr"] for group in optimizer.param_groups]
    warmup = max(1, round(settings.warmup_share * steps))
    done = 0
    if resume is not None:
        tensors, done = resume
        _load(tensors, adapter, head, optimizer)
    in_parts = in_parts or (lambda attempt: attempt(settings.micro_lists))
    for step, batch in enumerate(_batches(rankings, thumbs, settings, steps, rng, most)):
        if step < done:
            continue
        started = time.monotonic()
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * min((step + 1) / warmup, max(0.0, (steps - step) / max(1, steps - warmup)))
        loss, right, pairs = in_parts(
            lambda size, batch=batch: _backward(encode, head, optimizer, batch, settings, size)
        )
        norm = nn.utils.clip_grad_norm_([*adapter, *head.parameters()], settings.max_grad_norm)
        if not (math.isfinite(loss) and torch.isfinite(norm)):
            raise FloatingPointError(
                f"reward model: loss {loss}, gradient norm {float(norm)} at step {step}. Lower reward.learning_rate."
            )
        optimizer.step()
        # Nothing but memory: the next step begins with it anyway, and what comes after the last one needs no gradients.
        optimizer.zero_grad()
        on_step(
            {
                "step": step,
                "loss": loss,
                "accuracy": right / pairs,
                "seconds": time.monotonic() - started,
                "learning_rate": optimizer.param_groups[0]["lr"],
                "grad_norm": float(norm),
            },
            lambda: _state(adapter, head, optimizer),
        )


def _backward(
    encode: ListEncoder,
    head: ScalarHead,
    optimizer,
    batch: Sequence[EncodedRanking | EncodedThumbs],
    settings,
    size: int,
) -> tuple[float, int, int]:
    """Leaves the gradient of the batch's loss, from `size` elements a forward pass. Returns loss, pairs and thumbs right, and how many."""
    optimizer.zero_grad()
    total, right, pairs = 0.0, 0, 0
    for first in range(0, len(batch), size):
        part = batch[first : first + size]
        scores = head(encode(_rows(part)))
        loss, centre = scores.new_zeros(()), scores.new_zeros(())
        for ranking, own in zip(part, scores.split([len(r.answers) for r in part]), strict=True):
            if isinstance(ranking, EncodedThumbs):
                own_loss = thumb_loss(own, ranking.ups, ranking.offsets, settings.thumbs_prompt_spread)
                loss = loss + settings.thumbs_weight * own_loss / len(batch)
                agrees = zip(own.tolist(), ranking.offsets, ranking.ups, strict=True)
                right += sum((score > offset) == up for score, offset, up in agrees)
                pairs += len(ranking.ups)
                continue
            loss = loss + ranking_loss(own, ranking.pairs) / len(batch)
            centre = centre + centring(own) / len(batch)
            better, worse = torch.tensor(ranking.pairs, device=own.device).T
            right += int((own[better] > own[worse]).sum())
            pairs += len(ranking.pairs)
        (loss + settings.center_coef * centre).backward()
        total += loss.item()
    return total, right, pairs


def _rows(part: Sequence[EncodedRanking | EncodedThumbs]) -> list[tuple[Sequence[int], Sequence[Sequence[int]]]]:
    """Prompts with their answers as they are read, at most `SIDE_BY_SIDE` in a row: who may look at whom grows with the square of a row, and
    a question that many people ask has any number of thumbs. The answers of one prompt are never spread over steps."""
    return [
        (one.prompt, one.answers[k : k + SIDE_BY_SIDE]) for one in part for k in range(0, len(one.answers), SIDE_BY_SIDE)
    ]


def _state(adapter: Sequence[nn.Parameter], head: ScalarHead, optimizer) -> dict[str, Tensor]:
    tensors = {f"adapter/{i}": p.detach() for i, p in enumerate(adapter)}
    tensors |= {f"head/{name}": t for name, t in head.state_dict().items()}
    return tensors | tensors_of(optimizer, "adam/")


def _load(tensors: dict[str, Tensor], adapter: Sequence[nn.Parameter], head: ScalarHead, optimizer) -> None:
    with torch.no_grad():
        for i, parameter in enumerate(adapter):
            parameter.copy_(tensors[f"adapter/{i}"])
    head.load_state_dict({n.removeprefix("head/"): t for n, t in tensors.items() if n.startswith("head/")})
    load_tensors(optimizer, tensors, "adam/")


def total_steps(elements: int, settings) -> int:
    per_epoch = -(-elements // settings.lists_per_step)
    return max(1, round(per_epoch * settings.epochs))


def _batches(
    rankings, thumbs, settings, steps: int, rng: random.Random, most: int | None
) -> Iterator[list[EncodedRanking | EncodedThumbs]]:
    """Shuffled anew each epoch; a fresh answer is borrowed for every ranking each time."""
    done = 0
    while True:
        epoch = with_mismatched(rankings, rng, most=most) if settings.mismatched_negatives else list(rankings)
        epoch += thumbs
        rng.shuffle(epoch)
        for start in range(0, len(epoch), settings.lists_per_step):
            if done == steps:
                return
            yield epoch[start : start + settings.lists_per_step]
            done += 1
