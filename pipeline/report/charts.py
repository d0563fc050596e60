"""Small SVG charts for the report: lines, dots with intervals, scatter. Colours come from the page's CSS variables.

Every chart is drawn 340 units wide, so that on a phone and in a column of a wide page one unit is about one pixel and
the type stays readable. A series is told by its marker's shape as well as by its colour.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

WIDTH = 340
MARKERS = {"base": "ring", "sft": "dot", "best": "diamond-ring", "ppo": "diamond", "ink": "dot", "soft": "ring"}
MAX_LABELLED_POINTS = 60
# Of a tick's label, in units of the drawing: the width of a character at most, and the space between two labels at least.
CHARACTER, ROOM = 6.5, 8.0


@dataclass(frozen=True)
class Line:
    """One curve. `style` names a colour (base, sft, best, ppo, ink, soft); a faint line is drawn without its points.

    Attributes:
        ends: lower and upper end of each point's interval, empty where there are none.
    """

    name: str
    xs: Sequence[float]
    ys: Sequence[float]
    style: str = "ink"
    faint: bool = False
    ends: Sequence[tuple[float, float]] = ()


@dataclass(frozen=True)
class Mark:
    """A number with its interval, None where there is none."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    style: str = "ink"


def line_chart(
    title: str,
    lines: Sequence[Line],
    *,
    x_name: str,
    show: Callable[[float], str],
    bounds: tuple[float | None, float | None] = (None, None),
    height: int = 190,
) -> str:
    """Curves over a common x, the last value of each written at its end. A value that is not finite leaves a gap."""
    points = [(x, y) for line in lines for x, y in zip(line.xs, line.ys, strict=True) if math.isfinite(y)]
    if not points:
        return ""
    left, right, top, bottom = 42, 48, 10, 30
    x_at = _scale(min(x for x, _ in points), max(x for x, _ in points), left, WIDTH - right)
    low, high = _range([y for _, y in points] + [end for line in lines for both in line.ends for end in both], bounds)
    y_at = _scale(low, high, height - bottom, top)
    parts = [_y_axis(nice_ticks(low, high), y_at, left, WIDTH - right, show)]
    for line in lines:
        parts += [
            f'<line class="bar s-{line.style}" x1="{x_at(x):.1f}" x2="{x_at(x):.1f}" y1="{y_at(least):.1f}" y2="{y_at(most):.1f}"/>'
            for x, (least, most) in zip(line.xs, line.ends, strict=False)
        ]
    whole = nice_ticks(min(x for x, _ in points), max(x for x, _ in points), 5)
    parts += [
        f'<text class="tick" x="{x_at(x):.1f}" y="{height - 14}" text-anchor="middle">{_text(_plain(x))}</text>'
        for x in whole
        if float(x).is_integer()
    ]
    parts.append(_end_label(x_name, left, WIDTH - right, height))
    ends = []
    for line in lines:
        runs = _runs(line.xs, line.ys)
        kind = "line faint" if line.faint else "line"
        for run in runs:
            path = " ".join(f"{x_at(x):.1f},{y_at(y):.1f}" for x, y in run)
            parts.append(f'<polyline class="{kind} s-{line.style}" points="{path}"/>')
        real = [point for run in runs for point in run]
        if line.faint or not real:
            continue
        if len(real) <= MAX_LABELLED_POINTS:
            parts += [
                marker(MARKERS[line.style], x_at(x), y_at(y), 2.6, line.style, f"{x_name} {_plain(x)}: {show(y)}")
                for x, y in real
            ]
        x, y = real[-1]
        ends.append((y_at(y), line, show(y), x_at(x)))
    for place, (_, line, said, x) in zip(spread([y for y, *_ in ends], 13), ends, strict=True):
        said = f"{line.name} {said}" if len(ends) > 1 else said
        parts.append(f'<text class="value s-{line.style}" x="{x + 6:.1f}" y="{place + 4:.1f}">{_text(said)}</text>')
    said = "; ".join(f"{line.name} ends at {value}" for _, line, value, _ in ends)
    return _svg(title, f"{said}. Axis: {x_name}.", height, parts)


def interval_rows(
    title: str,
    rows: Sequence[tuple[str, Sequence[Mark]]],
    *,
    show: Callable[[float], str],
    reference: float | None = None,
    reference_name: str = "",
    bounds: tuple[float | None, float | None] = (None, None),
    label_width: int = 84,
) -> str:
    """One row a name, one dot with its interval a mark, the values in a column at the right."""
    marks = [mark for _, row in rows for mark in row]
    if not marks:
        return ""
    numbers = [n for mark in marks for n in (mark.value, mark.low, mark.high) if n is not None and math.isfinite(n)]
    low, high = _range(numbers + ([reference] if reference is not None else []), bounds)
    left, right, top = label_width, 50, 18 if reference_name else 8
    x_at = _scale(low, high, left, WIDTH - right)
    step, gap = 15, 9
    height = top + sum(len(row) * step + gap for _, row in rows) + 20
    parts = [_x_axis(_ticks_with_room(low, high, x_at, show), x_at, top - 4, height - 20, show)]
    if reference is not None:
        x = x_at(reference)
        parts.append(f'<line class="reference" x1="{x:.1f}" x2="{x:.1f}" y1="{top - 4}" y2="{height - 20}"/>')
        parts.append(
            f'<text class="tick" x="{x:.1f}" y="{top - 8}" text-anchor="middle">{_text(reference_name)}</text>'
        )
    y = float(top)
    for label, row in rows:
        middle = y + len(row) * step / 2
        parts.append(f'<text class="label" x="0" y="{middle + 4:.1f}">{_text(shorten(label, label_width // 6))}</text>')
        for mark in row:
            at = y + step / 2
            said = f"{mark.name}: {show(mark.value)}{_interval(mark, show)}"
            if mark.low is not None and mark.high is not None:
                parts.append(
                    f'<line class="bar s-{mark.style}" x1="{x_at(mark.low):.1f}" x2="{x_at(mark.high):.1f}" '
                    f'y1="{at:.1f}" y2="{at:.1f}"/>'
                )
            parts.append(marker(MARKERS[mark.style], x_at(mark.value), at, 4.5, mark.style, said))
            parts.append(
                f'<text class="value s-{mark.style}" x="{WIDTH}" y="{at + 4:.1f}" text-anchor="end">'
                f"{_text(show(mark.value))}</text>"
            )
            y += step
        y += gap
    said = "; ".join(
        f"{label}: " + ", ".join(f"{m.name} {show(m.value)}{_interval(m, show)}" for m in row) for label, row in rows
    )
    return _svg(title, said, height, parts)


def frontier(
    title: str, marks: Sequence[tuple[float, Mark]], *, x_name: str, show: Callable[[float], str], height: int = 280
) -> str:
    """Gold score against distance from the reference. Equal steps on the axis are equal steps of √KL.

    Args:
        marks: (KL in nats, what was reached there); those of the style `sft` and `best` are joined in order of KL.
    """
    if not marks:
        return ""
    left, right, top, bottom = 42, 22, 14, 32
    furthest = max(max(kl for kl, _ in marks), 0.25)
    root = _scale(0.0, math.sqrt(furthest), left + 10, WIDTH - right)
    numbers = [n for _, m in marks for n in (m.value, m.low, m.high) if n is not None]
    low, high = _range(numbers, (None, None))
    y_at = _scale(low, high, height - bottom, top)
    parts = [_y_axis(nice_ticks(low, high), y_at, left, WIDTH - right, show)]
    parts += [
        f'<text class="tick" x="{root(math.sqrt(kl)):.1f}" y="{height - 16}" text-anchor="middle">{_plain(kl)}</text>'
        for kl in root_ticks(furthest)
    ]
    parts.append(_end_label(x_name, left, WIDTH - right, height))
    joined = sorted((kl, m.value) for kl, m in marks if m.style in ("sft", "best"))
    path = " ".join(f"{root(math.sqrt(max(kl, 0))):.1f},{y_at(value):.1f}" for kl, value in joined)
    parts.append(f'<polyline class="line dashed s-sft" points="{path}"/>')
    for kl, mark in marks:
        x, y = root(math.sqrt(max(kl, 0))), y_at(mark.value)
        if mark.low is not None and mark.high is not None:
            parts.append(
                f'<line class="bar s-{mark.style}" x1="{x:.1f}" x2="{x:.1f}" '
                f'y1="{y_at(mark.low):.1f}" y2="{y_at(mark.high):.1f}"/>'
            )
        parts.append(
            marker(MARKERS[mark.style], x, y, 5, mark.style, f"{mark.name}: {show(mark.value)} at {_plain(kl)} nats")
        )
        anchor, dx = ("end", -9) if x > WIDTH * 0.7 else ("start", 9)
        parts.append(
            f'<text class="value s-{mark.style}" x="{x + dx:.1f}" y="{y + 4:.1f}" text-anchor="{anchor}">'
            f"{_text(mark.name)} {_text(show(mark.value))}</text>"
        )
    said = "; ".join(f"{m.name}: {show(m.value)}{_interval(m, show)} at {_plain(kl)} nats" for kl, m in marks)
    return _svg(title, said, height, parts)


def scatter(
    title: str,
    clouds: Sequence[tuple[str, str, Sequence[tuple[float, float]]]],
    *,
    x_name: str,
    show: Callable[[float], str],
    height: int = 280,
) -> str:
    """Points of several clouds (name, style, points), the mean of each marked and named."""
    points = [point for _, _, cloud in clouds for point in cloud]
    if not points:
        return ""
    left, right, top, bottom = 42, 14, 14, 32
    x_low, x_high = _range([x for x, _ in points], (None, None))
    y_low, y_high = _range([y for _, y in points], (None, None))
    x_at, y_at = _scale(x_low, x_high, left, WIDTH - right), _scale(y_low, y_high, height - bottom, top)
    parts = [_y_axis(nice_ticks(y_low, y_high), y_at, left, WIDTH - right, show)]
    parts += [
        f'<text class="tick" x="{x_at(x):.1f}" y="{height - 16}" text-anchor="middle">{_text(_plain(x))}</text>'
        for x in nice_ticks(x_low, x_high, 5)
    ]
    parts.append(_end_label(x_name, left, WIDTH - right, height))
    for _, style, cloud in clouds:
        parts += [f'<circle class="speck s-{style}" cx="{x_at(x):.1f}" cy="{y_at(y):.1f}" r="2.2"/>' for x, y in cloud]
    means = [
        (name, style, sum(x for x, _ in cloud) / len(cloud), sum(y for _, y in cloud) / len(cloud))
        for name, style, cloud in clouds
        if cloud
    ]
    places = spread([y_at(y) for *_, y in means], 16)
    for place, (name, style, x, y) in zip(places, means, strict=True):
        parts.append(marker(MARKERS[style], x_at(x), y_at(y), 6, style, f"mean of {name}"))
        anchor, dx = ("end", -11) if x_at(x) > WIDTH * 0.6 else ("start", 11)
        parts.append(
            f'<text class="value halo s-{style}" x="{x_at(x) + dx:.1f}" y="{place + 4:.1f}" text-anchor="{anchor}">'
            f"{_text(name)}</text>"
        )
    said = "; ".join(f"mean of {name}: {x_name} {_plain(x)}, {show(y)}" for name, _, x, y in means)
    return _svg(title, said, height, parts)


def calibration(
    title: str, marks: Sequence[tuple[float, Mark]], *, x_name: str, show: Callable[[float], str], height: int = 280
) -> str:
    """A reliability diagram: marks with their intervals at (stated, right), both shares from 1/2 on, and the diagonal of a model that
    is as often right as it says."""
    if not marks:
        return ""
    left, right, top, bottom = 42, 14, 14, 32
    lowest = min([0.5, *(m.value if m.low is None else m.low for _, m in marks)])
    x_at, y_at = _scale(0.5, 1.0, left, WIDTH - right), _scale(lowest, 1.0, height - bottom, top)
    parts = [_y_axis(nice_ticks(lowest, 1.0), y_at, left, WIDTH - right, show)]
    parts += [
        f'<text class="tick" x="{x_at(x):.1f}" y="{height - 16}" text-anchor="middle">{_text(show(x))}</text>'
        for x in nice_ticks(0.5, 1.0, 5)
    ]
    parts.append(_end_label(x_name, left, WIDTH - right, height))
    ends = f'x1="{x_at(0.5):.1f}" y1="{y_at(0.5):.1f}" x2="{x_at(1.0):.1f}" y2="{y_at(1.0):.1f}"'
    parts.append(f'<line class="reference" {ends}/>')
    for x, m in marks:
        if m.low is not None and m.high is not None:
            line = f'x1="{x_at(x):.1f}" x2="{x_at(x):.1f}" y1="{y_at(m.low):.1f}" y2="{y_at(m.high):.1f}"'
            parts.append(f'<line class="bar s-{m.style}" {line}/>')
        parts.append(marker(MARKERS[m.style], x_at(x), y_at(m.value), 4, m.style, f"{m.name}{_interval(m, show)}"))
    said = "; ".join(f"says {show(x)}, is right in {show(m.value)}{_interval(m, show)}" for x, m in marks)
    return _svg(title, said, height, parts)


def marker(kind: str, x: float, y: float, r: float, style: str, said: str = "") -> str:
    """A filled or hollow circle or diamond at (x, y), with a tooltip."""
    hollow = " hollow" if kind.endswith("ring") else ""
    tip = f"<title>{_text(said)}</title>" if said else ""
    if kind.startswith("diamond"):
        d = r * 1.25
        path = f"M{x:.1f} {y - d:.1f}L{x + d:.1f} {y:.1f}L{x:.1f} {y + d:.1f}L{x - d:.1f} {y:.1f}Z"
        return f'<path class="mark{hollow} s-{style}" d="{path}">{tip}</path>'
    return f'<circle class="mark{hollow} s-{style}" cx="{x:.1f}" cy="{y:.1f}" r="{r}">{tip}</circle>'


def key(names: Sequence[tuple[str, str]]) -> str:
    """The legend: (name, style) with the marker of each."""
    items = "".join(
        f'<li><svg width="14" height="14" viewBox="0 0 14 14" aria-hidden="true">'
        f"{marker(MARKERS[style], 7, 7, 4.5, style)}</svg>{_text(name)}</li>"
        for name, style in names
    )
    return f'<ul class="key">{items}</ul>'


def nice_ticks(low: float, high: float, about: float = 4) -> list[float]:
    """Multiples of 1, 2, 2.5 or 5 · 10ᵏ within [low, high], about as many as asked for."""
    span = high - low
    if span <= 0:
        return [low]
    power = 10 ** math.floor(math.log10(span / about))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= span / about * 0.75)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(k * step, 12) for k in range(first, last + 1)]


def _ticks_with_room(
    low: float, high: float, x_at: Callable[[float], float], show: Callable[[float], str]
) -> list[float]:
    """Nice ticks, as many of about four as leave ROOM between the labels of neighbours."""
    ticks: list[float] = []
    for about in (4, 3.5, 3, 2, 1):
        ticks = nice_ticks(low, high, about)
        said = [len(_tick(tick, ticks, show)) * CHARACTER for tick in ticks]
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


def shorten(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1].rstrip() + "…"


def _interval(mark: Mark, show: Callable[[float], str]) -> str:
    return f" ({show(mark.low)} to {show(mark.high)})" if mark.low is not None and mark.high is not None else ""


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    span = high - low or 1.0
    return lambda value: start + (value - low) / span * (end - start)


def _range(numbers: Sequence[float], bounds: tuple[float | None, float | None]) -> tuple[float, float]:
    low, high = min(numbers), max(numbers)
    pad = (high - low) * 0.06 or abs(high) * 0.1 or 0.5
    return (
        low - pad if bounds[0] is None else min(bounds[0], low),
        high + pad if bounds[1] is None else max(bounds[1], high),
    )


def _runs(xs: Sequence[float], ys: Sequence[float]) -> list[list[tuple[float, float]]]:
    runs: list[list[tuple[float, float]]] = [[]]
    for x, y in zip(xs, ys, strict=True):
        if math.isfinite(y):
            runs[-1].append((x, y))
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def _y_axis(
    ticks: Sequence[float], y_at: Callable[[float], float], left: float, right: float, show: Callable[[float], str]
) -> str:
    parts = []
    for tick in ticks:
        y, said = y_at(tick), _text(_tick(tick, ticks, show))
        parts.append(f'<line class="grid" x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{said}</text>')
    return "".join(parts)


def _x_axis(
    ticks: Sequence[float], x_at: Callable[[float], float], top: float, bottom: float, show: Callable[[float], str]
) -> str:
    parts = []
    for tick in ticks:
        x, said = x_at(tick), _text(_tick(tick, ticks, show))
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{bottom}"/>')
        parts.append(f'<text class="tick" x="{x:.1f}" y="{bottom + 14}" text-anchor="middle">{said}</text>')
    return "".join(parts)


def _tick(value: float, ticks: Sequence[float], show: Callable[[float], str]) -> str:
    return show(value) if "%" in show(value) else _plain(value, ticks)


def _end_label(name: str, left: float, right: float, height: float) -> str:
    return f'<text class="tick" x="{(left + right) / 2:.1f}" y="{height - 1}" text-anchor="middle">{_text(name)}</text>'


def _plain(value: float, among: Sequence[float] = ()) -> str:
    """A tick's number, with as many decimals as its neighbours need."""
    if not among:
        return f"{value:.3g}".replace("-", "−")
    step = min((abs(b - a) for a, b in pairwise(among)), default=abs(value) or 1.0)
    decimals = next((d for d in range(7) if abs(round(step, d) - step) < step * 1e-6), 6)
    return f"{value:.{decimals}f}".replace("-", "−")


def _text(text: str) -> str:
    return html.escape(text, quote=True)


def _svg(title: str, said: str, height: float, parts: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:g}" role="img">'
        f"<title>{_text(title)}</title><desc>{_text(said)}</desc>{''.join(parts)}</svg>"
    )
