"""Training on rankings: every pair of one prompt's answers, from one encoding of each answer (Ouyang et al. 2022, eq. 1)."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from reward.model import ListEncoder, ScalarHead


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
    return -nn.functional.logsigmoid(scores[better].float() - scores[worse].float()).mean()


def with_mismatched(rankings: Sequence[EncodedRanking], rng: random.Random) -> list[EncodedRanking]:
    """Adds to each ranking a good answer to *another* prompt, as worse than the prompt's own best.

    Rankings compare answers to one prompt, all of them about it more or less, so a scorer may ignore the question and still be
    right on most pairs. A borrowed answer can only be told by reading the question. It takes part in one pair, and not in
    those with the worse answers: a finished answer to another question may well be no worse than a broken one to this.
    """
    if len(rankings) < 2:
        return list(rankings)
    out = []
    for i, ranking in enumerate(rankings):
        j = rng.randrange(len(rankings) - 1)
        other = rankings[j if j < i else j + 1]
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
    on_step: Callable[[dict[str, float]], None] = lambda figures: None,
) -> None:
    """Fits the reward adapter and head in place.

    A ranking is one element of a batch: its pairs are never spread over steps, which would overfit to its answers (Ouyang
    et al. 2022, section 3.5). The learning rate warms up, then falls linearly to zero.

    Args:
        encode: the reward role's encoder, differentiable with respect to `adapter`.
        settings: the `reward` section of the config.
        on_step: receives step, loss, accuracy on the step's own pairs, seconds, learning_rate and grad_norm.

    Raises:
        FloatingPointError: the loss is not finite; the message names the step.
    """
    rng = random.Random(seed)
    steps = total_steps(len(rankings), settings)
    optimizer = torch.optim.AdamW(
        [
            {"params": list(adapter), "lr": settings.learning_rate},
            {"params": list(head.parameters()), "lr": settings.head_learning_rate},
        ],
        weight_decay=settings.weight_decay,
    )
    warmup = max(1, round(settings.warmup_share * steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warmup, max(0.0, (steps - step) / max(1, steps - warmup)))
    )
    for step, batch in enumerate(_batches(rankings, settings, steps, rng)):
        started = time.monotonic()
        scores = head(encode([(ranking.prompt, ranking.answers) for ranking in batch]))
        loss, centre = scores.new_zeros(()), scores.new_zeros(())
        right = pairs = start = 0
        for ranking in batch:
            own = scores[start : start + len(ranking.answers)]
            start += len(ranking.answers)
            loss = loss + ranking_loss(own, ranking.pairs) / len(batch)
            # Pairs leave the level of the scores undetermined. (r_c + r_r)² for a pair, generalised to K answers
            # (Eisenstein et al. 2023), holds it near zero and leaves the differences alone.
            centre = centre + (2 * own.mean()).square() / len(batch)
            better, worse = torch.tensor(ranking.pairs).T
            right += int((own[better] > own[worse]).sum())
            pairs += len(ranking.pairs)
        if not torch.isfinite(loss):
            raise FloatingPointError(f"reward model: loss is {loss.item()} at step {step}. Lower reward.learning_rate.")
        (loss + settings.center_coef * centre).backward()
        norm = nn.utils.clip_grad_norm_([*adapter, *head.parameters()], settings.max_grad_norm)
        rate = optimizer.param_groups[0]["lr"]
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        on_step(
            {
                "step": step,
                "loss": loss.item(),
                "accuracy": right / pairs,
                "seconds": time.monotonic() - started,
                "learning_rate": rate,
                "grad_norm": float(norm),
            }
        )


def total_steps(rankings: int, settings) -> int:
    per_epoch = -(-rankings // settings.lists_per_step)
    return max(1, round(per_epoch * settings.epochs))


def _batches(rankings, settings, steps: int, rng: random.Random) -> Iterator[list[EncodedRanking]]:
    """Shuffled anew each epoch; a fresh answer is borrowed for every ranking each time."""
    done = 0
    while done < steps:
        epoch = with_mismatched(rankings, rng) if settings.mismatched_negatives else list(rankings)
        rng.shuffle(epoch)
        for start in range(0, len(epoch), settings.lists_per_step):
            if done == steps:
                return
            yield epoch[start : start + settings.lists_per_step]
            done += 1
