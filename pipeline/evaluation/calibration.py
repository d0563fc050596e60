"""The reliability diagram of a reward model: how sure it says it is, and how often it is then right (Guo et al. 2017)."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from data.quality import questions_of
from data.records import Ranking
from pipeline.disk import write_json
from pipeline.evaluation.statistics import cluster_share
from reward.metrics import margins

FILE = "calibration.json"
BINS = 10


@dataclass(frozen=True)
class Bin:
    """Pairs of like |margin|. `low` and `high` are the ends of the interval of `right` over questions, None where there is none."""

    stated: float
    right: float
    low: float | None
    high: float | None
    pairs: int


def bins_of(
    rankings: Sequence[Ranking],
    scores: Sequence[Sequence[float]],
    pairs: Sequence[Sequence[tuple[int, int]]],
    bins: int = BINS,
) -> list[Bin]:
    """Pairs in bins of equal mass by |margin|, the least sure first; a Bradley–Terry model claims to be right with σ(|margin|).

    Args:
        scores: the reward model's, of every answer.
        pairs: (better, worse) indices of every ranking.
    """
    found = [m for s, own in zip(scores, pairs, strict=True) for m in margins(s, own)]
    gaps = list(zip(found, questions_of(rankings, pairs), strict=True))
    gaps.sort(key=lambda gap: abs(gap[0]))
    out = []
    for chunk in np.array_split(np.arange(len(gaps)), min(bins, len(gaps)) or 1):
        rows = [gaps[i] for i in chunk]
        if not rows:
            continue
        stated = float(np.mean([1 / (1 + math.exp(-abs(m))) for m, _ in rows]))
        right, low, high = cluster_share([(m > 0) + 0.5 * (m == 0) for m, _ in rows], [name for _, name in rows])
        out.append(Bin(stated, right, *(None if math.isnan(end) else end for end in (low, high)), len(rows)))
    return out


def keep(folder: Path, bins: Sequence[Bin]) -> None:
    write_json(folder / FILE, {"bins": [asdict(b) for b in bins]})


def read(folder: Path) -> tuple[Bin, ...]:
    """The bins beside a card; none where the card is of earlier code."""
    file = folder / FILE
    return tuple(Bin(**b) for b in json.loads(file.read_text(encoding="utf-8"))["bins"]) if file.exists() else ()
