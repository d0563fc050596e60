"""Axes of the report's charts: ranges, ticks with room for their labels, and labels moved apart."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from pipeline.report.marks import escaped

# Of a tick's label, in units of the drawing: the width of a character at most, and the space between two labels at least.
CHARACTER, ROOM = 6.5, 8.0


def nice_ticks(low: float, high: float, about: float = 4) -> list[float]:
    """Multiples of 1, 2, 2.5 or 5 · 10ᵏ within [low, high], about as many as asked for."""
    span = high - low
    if span <= 0:
        return [low]
    power = 10 ** math.floor(math.log10(span / about))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= span / about * 0.75)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(k * step, 12) for k in range(first, last + 1)]


def ticks_with_room(
    low: float, high: float, x_at: Callable[[float], float], show: Callable[[float], str]
) -> list[float]:
    """Nice ticks, as many of about four as leave ROOM between the labels of neighbours."""
    ticks: list[float] = []
    for about in (4, 3.5, 3, 2, 1):
        ticks = nice_ticks(low, high, about)
        said = [len(tick_text(tick, ticks, show)) * CHARACTER for tick in ticks]
        places = [x_at(tick) for tick in ticks]
        if all(b - a - (x + y) / 2 >= ROOM for (a, b), (x, y) in zip(pairwise(places), pairwise(said), strict=True)):
            break
    return ticks


def root_ticks(furthest: float) -> list[float]:
    """Ticks in nats whose square roots stand about evenly."""
    unit = furthest / 9
    power = 10 ** math.floor(math.log10(unit))
    step = min((m * power for m in (1, 2, 5, 10)), key=lambda s: abs(math.log(s / unit)))
    return [kl for k in range(5) if (kl := round(k * k * step, 12)) <= furthest * 1.001]


def spread(places: Sequence[float], apart: float) -> list[float]:
    """The places moved as little as needed for labels to stand at least `apart`, in the given order."""
    order = sorted(range(len(places)), key=lambda i: places[i])
    moved = list(places)
    for before, after in pairwise(order):
        moved[after] = max(moved[after], moved[before] + apart)
    excess = [moved[i] - places[i] for i in order]
    shift = sum(excess) / len(excess) if excess else 0.0
    return [place - shift for place in moved]


def scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    span = high - low or 1.0
    return lambda value: start + (value - low) / span * (end - start)


def extent(numbers: Sequence[float], bounds: tuple[float | None, float | None]) -> tuple[float, float]:
    low, high = min(numbers), max(numbers)
    pad = (high - low) * 0.06 or abs(high) * 0.1 or 0.5
    return (
        low - pad if bounds[0] is None else min(bounds[0], low),
        high + pad if bounds[1] is None else max(bounds[1], high),
    )


def y_axis(
    ticks: Sequence[float], y_at: Callable[[float], float], left: float, right: float, show: Callable[[float], str]
) -> str:
    parts = []
    for tick in ticks:
        y, said = y_at(tick), escaped(tick_text(tick, ticks, show))
        parts.append(f'<line class="grid" x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{said}</text>')
    return "".join(parts)


def x_axis(
    ticks: Sequence[float], x_at: Callable[[float], float], top: float, bottom: float, show: Callable[[float], str]
) -> str:
    parts = []
    for tick in ticks:
        x, said = x_at(tick), escaped(tick_text(tick, ticks, show))
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{bottom}"/>')
        parts.append(f'<text class="tick" x="{x:.1f}" y="{bottom + 14}" text-anchor="middle">{said}</text>')
    return "".join(parts)


def tick_text(value: float, ticks: Sequence[float], show: Callable[[float], str]) -> str:
    return show(value) if "%" in show(value) else plain_number(value, ticks)


def axis_name(name: str, left: float, right: float, height: float) -> str:
    return f'<text class="tick" x="{(left + right) / 2:.1f}" y="{height - 1}" text-anchor="middle">{escaped(name)}</text>'


def plain_number(value: float, among: Sequence[float] = ()) -> str:
    """A tick's number, with as many decimals as its neighbours need."""
    if not among:
        return f"{value:.3g}".replace("-", "−")
    step = min((abs(b - a) for a, b in pairwise(among)), default=abs(value) or 1.0)
    decimals = next((d for d in range(7) if abs(round(step, d) - step) < step * 1e-6), 6)
    return f"{value:.{decimals}f}".replace("-", "−")
