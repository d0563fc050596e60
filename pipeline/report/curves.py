"""Training curves: one figure of every row of a log, smoothed, and its two ends."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.evaluation.cards import is_finite


def column(rows: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    """One figure of every row; NaN, which the charts leave out, where a row has none."""
    return [float(value) if is_finite(value := row.get(name)) else math.nan for row in rows]


def rolling_mean(values: Sequence[float], window: int) -> list[float]:
    """Mean of the last `window` values at each place (of as many as there are so far), without those that are none."""
    out = []
    for end in range(1, len(values) + 1):
        near = [v for v in values[max(0, end - window) : end] if math.isfinite(v)]
        out.append(sum(near) / len(near) if near else math.nan)
    return out


def ends(values: Sequence[float]) -> tuple[float, float] | None:
    """Means of the first and of the last tenth of a curve: what it did, without the noise of one step."""
    real = [v for v in values if math.isfinite(v)]
    if not real:
        return None
    tenth = max(1, len(real) // 10)
    return sum(real[:tenth]) / tenth, sum(real[-tenth:]) / tenth
