"""Lone thumbs as data for the reward model: P(👍 | x, y) = σ(r(x, y) − b_rater − b_x).

A pair says which of two answers is better; a lone thumb says on which side of somebody's threshold an answer lies. Scores and thresholds are on
the scale of the pairs' logits: a pair compares two scores, a thumb compares a score with a threshold, both by a logistic draw.

The thresholds cannot all be free. With one thumb a prompt, a free b_x explains every thumb and r learns nothing; so b_x ~ N(0, σ²), which
leaves one thumb with |b_x| ≤ σ² and lets several thumbs on one prompt tell a hard prompt from bad answers. A rater's own b_rater keeps
somebody who presses 👍 nine times in ten from teaching that everything is good: at r = 0 the thumbs of each rater add up to no push at all.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class EncodedThumbs:
    """One prompt and its lone thumbs as token ids.

    Attributes:
        answers: each with its end-of-sequence token where it was finished.
        ups: whether each is 👍.
        offsets: b_rater of each, logits.
    """

    prompt: tuple[int, ...]
    answers: tuple[tuple[int, ...], ...]
    ups: tuple[bool, ...]
    offsets: tuple[float, ...]


def rater_offsets(given: Iterable[tuple[str | None, bool]], *, prior: float) -> dict[str | None, float]:
    """b_rater in logits for each rater: −logit of the rater's share of 👍, drawn towards everybody's share.

    share = (ups + prior · everybody's share) / (thumbs + prior), everybody's share itself counted with half a thumb of each kind. It is
    what explains the rater's thumbs when all answers are alike (r = 0).

    Args:
        given: (rater, whether 👍) of every thumb; rater None is somebody unknown, or several who agree.
        prior: thumbs at which a rater's own share and everybody's count alike; 0 takes each at its word.
    """
    ups: dict[str | None, float] = defaultdict(float)
    counts: dict[str | None, int] = defaultdict(int)
    for rater, up in given:
        ups[rater] += up
        counts[rater] += 1
    total = sum(counts.values())
    everybody = (sum(ups.values()) + 0.5) / (total + 1)
    found = {}
    for rater, count in counts.items():
        if rater is None:
            share = everybody
        else:
            # Half a thumb of each kind where there is no prior: nobody's threshold is infinite.
            extra = prior if prior > 0 else 1.0
            share = (ups[rater] + extra * (everybody if prior > 0 else 0.5)) / (count + extra)
        found[rater] = -math.log(share / (1 - share))
    return found


def prompt_offset(margins: Tensor, ups: Sequence[bool], spread: float) -> float:
    """b_x of one prompt: the maximum of Σ log σ(±(m − b)) − b²/(2σ²), in logits; 0 for σ = 0.

    The derivative Σ (σ(m − b) − y) − b/σ² falls in b, and its root lies within ±σ² n.

    Args:
        margins: (n,) r − b_rater of the prompt's thumbs.
        ups: (n,) whether each is 👍.
        spread: σ, logits.
    """
    if spread == 0:
        return 0.0
    from scipy.optimize import brentq

    m, y = margins.detach().double(), torch.tensor(ups, dtype=torch.float64, device=margins.device)
    bound = spread**2 * len(ups) + 1.0
    return brentq(lambda b: float((torch.sigmoid(m - b) - y).sum()) - b / spread**2, -bound, bound, xtol=1e-10)


def thumb_loss(scores: Tensor, ups: Sequence[bool], offsets: Sequence[float], spread: float) -> Tensor:
    """Mean over one prompt's thumbs of −log P(thumb), in nats, at the best b_x, whose prior counts too.

    b_x is put at its optimum first and held there. The gradient is that of the loss minimised over b_x all the same, since the
    derivative by b_x vanishes there (envelope theorem).

    Args:
        scores: (n,) r of the answers.
        ups: (n,) whether each thumb is 👍.
        offsets: (n,) b_rater of each.
        spread: σ of the prompts' offsets, logits.
    """
    margins = scores - torch.tensor(offsets, dtype=torch.float32, device=scores.device)
    b = prompt_offset(margins, ups, spread)
    signs = torch.tensor([1.0 if up else -1.0 for up in ups], device=scores.device)
    prior = b**2 / (2 * spread**2) if spread else 0.0
    return (prior - nn.functional.logsigmoid(signs * (margins - b)).sum()) / len(ups)
