"""Small SVG charts for the report: lines, dots with intervals, scatter. Colours come from the page's CSS variables.

Every chart is drawn 340 units wide, so that on a phone and in a column of a wide page one unit is about one pixel and
the type stays readable. A series is told by its marker's shape as well as by its colour.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from pipeline.report.axes import (
    axis_name,
    extent,
    nice_ticks,
    plain_number,
    root_ticks,
    scale,
    spread,
    ticks_with_room,
    x_axis,
    y_axis,
)
from pipeline.report.marks import MARKERS, WIDTH, Line, Mark, ends_of, escaped, marker, shorten, svg

MAX_LABELLED_POINTS = 60


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
    x_at = scale(min(x for x, _ in points), max(x for x, _ in points), left, WIDTH - right)
    low, high = extent([y for _, y in points] + [end for line in lines for both in line.ends for end in both], bounds)
    y_at = scale(low, high, height - bottom, top)
    parts = [y_axis(nice_ticks(low, high), y_at, left, WIDTH - right, show)]
    for line in lines:
        parts += [
            f'<line class="bar s-{line.style}" x1="{x_at(x):.1f}" x2="{x_at(x):.1f}" y1="{y_at(least):.1f}" y2="{y_at(most):.1f}"/>'
            for x, (least, most) in zip(line.xs, line.ends, strict=False)
        ]
    whole = nice_ticks(min(x for x, _ in points), max(x for x, _ in points), 5)
    parts += [
        f'<text class="tick" x="{x_at(x):.1f}" y="{height - 14}" text-anchor="middle">{escaped(plain_number(x))}</text>'
        for x in whole
        if float(x).is_integer()
    ]
    parts.append(axis_name(x_name, left, WIDTH - right, height))
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
                marker(MARKERS[line.style], x_at(x), y_at(y), 2.6, line.style, f"{x_name} {plain_number(x)}: {show(y)}")
                for x, y in real
            ]
        x, y = real[-1]
        ends.append((y_at(y), line, show(y), x_at(x)))
    for place, (_, line, said, x) in zip(spread([y for y, *_ in ends], 13), ends, strict=True):
        said = f"{line.name} {said}" if len(ends) > 1 else said
        parts.append(f'<text class="value s-{line.style}" x="{x + 6:.1f}" y="{place + 4:.1f}">{escaped(said)}</text>')
    said = "; ".join(f"{line.name} ends at {value}" for _, line, value, _ in ends)
    return svg(title, f"{said}. Axis: {x_name}.", height, parts)


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
    low, high = extent(numbers + ([reference] if reference is not None else []), bounds)
    left, right, top = label_width, 50, 18 if reference_name else 8
    x_at = scale(low, high, left, WIDTH - right)
    step, gap = 15, 9
    height = top + sum(len(row) * step + gap for _, row in rows) + 20
    parts = [x_axis(ticks_with_room(low, high, x_at, show), x_at, top - 4, height - 20, show)]
    if reference is not None:
        x = x_at(reference)
        parts.append(f'<line class="reference" x1="{x:.1f}" x2="{x:.1f}" y1="{top - 4}" y2="{height - 20}"/>')
        parts.append(
            f'<text class="tick" x="{x:.1f}" y="{top - 8}" text-anchor="middle">{escaped(reference_name)}</text>'
        )
    y = float(top)
    for label, row in rows:
        middle = y + len(row) * step / 2
        parts.append(f'<text class="label" x="0" y="{middle + 4:.1f}">{escaped(shorten(label, label_width // 6))}</text>')
        for mark in row:
            at = y + step / 2
            said = f"{mark.name}: {show(mark.value)}{ends_of(mark, show)}"
            if mark.low is not None and mark.high is not None:
                parts.append(
                    f'<line class="bar s-{mark.style}" x1="{x_at(mark.low):.1f}" x2="{x_at(mark.high):.1f}" '
                    f'y1="{at:.1f}" y2="{at:.1f}"/>'
                )
            parts.append(marker(MARKERS[mark.style], x_at(mark.value), at, 4.5, mark.style, said))
            parts.append(
                f'<text class="value s-{mark.style}" x="{WIDTH}" y="{at + 4:.1f}" text-anchor="end">'
                f"{escaped(show(mark.value))}</text>"
            )
            y += step
        y += gap
    said = "; ".join(
        f"{label}: " + ", ".join(f"{m.name} {show(m.value)}{ends_of(m, show)}" for m in row) for label, row in rows
    )
    return svg(title, said, height, parts)


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
    root = scale(0.0, math.sqrt(furthest), left + 10, WIDTH - right)
    numbers = [n for _, m in marks for n in (m.value, m.low, m.high) if n is not None]
    low, high = extent(numbers, (None, None))
    y_at = scale(low, high, height - bottom, top)
    parts = [y_axis(nice_ticks(low, high), y_at, left, WIDTH - right, show)]
    parts += [
        f'<text class="tick" x="{root(math.sqrt(kl)):.1f}" y="{height - 16}" text-anchor="middle">{plain_number(kl)}</text>'
        for kl in root_ticks(furthest)
    ]
    parts.append(axis_name(x_name, left, WIDTH - right, height))
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
            marker(MARKERS[mark.style], x, y, 5, mark.style, f"{mark.name}: {show(mark.value)} at {plain_number(kl)} nats")
        )
        anchor, dx = ("end", -9) if x > WIDTH * 0.7 else ("start", 9)
        parts.append(
            f'<text class="value s-{mark.style}" x="{x + dx:.1f}" y="{y + 4:.1f}" text-anchor="{anchor}">'
            f"{escaped(mark.name)} {escaped(show(mark.value))}</text>"
        )
    said = "; ".join(f"{m.name}: {show(m.value)}{ends_of(m, show)} at {plain_number(kl)} nats" for kl, m in marks)
    return svg(title, said, height, parts)


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
    x_low, x_high = extent([x for x, _ in points], (None, None))
    y_low, y_high = extent([y for _, y in points], (None, None))
    x_at, y_at = scale(x_low, x_high, left, WIDTH - right), scale(y_low, y_high, height - bottom, top)
    parts = [y_axis(nice_ticks(y_low, y_high), y_at, left, WIDTH - right, show)]
    parts += [
        f'<text class="tick" x="{x_at(x):.1f}" y="{height - 16}" text-anchor="middle">{escaped(plain_number(x))}</text>'
        for x in nice_ticks(x_low, x_high, 5)
    ]
    parts.append(axis_name(x_name, left, WIDTH - right, height))
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
            f"{escaped(name)}</text>"
        )
    said = "; ".join(f"mean of {name}: {x_name} {plain_number(x)}, {show(y)}" for name, _, x, y in means)
    return svg(title, said, height, parts)


def calibration(
    title: str, marks: Sequence[tuple[float, Mark]], *, x_name: str, show: Callable[[float], str], height: int = 280
) -> str:
    """A reliability diagram: marks with their intervals at (stated, right), both shares from 1/2 on, and the diagonal of a model that
    is as often right as it says."""
    if not marks:
        return ""
    left, right, top, bottom = 42, 14, 14, 32
    lowest = min([0.5, *(m.value if m.low is None else m.low for _, m in marks)])
    x_at, y_at = scale(0.5, 1.0, left, WIDTH - right), scale(lowest, 1.0, height - bottom, top)
    parts = [y_axis(nice_ticks(lowest, 1.0), y_at, left, WIDTH - right, show)]
    parts += [
        f'<text class="tick" x="{x_at(x):.1f}" y="{height - 16}" text-anchor="middle">{escaped(show(x))}</text>'
        for x in nice_ticks(0.5, 1.0, 5)
    ]
    parts.append(axis_name(x_name, left, WIDTH - right, height))
    ends = f'x1="{x_at(0.5):.1f}" y1="{y_at(0.5):.1f}" x2="{x_at(1.0):.1f}" y2="{y_at(1.0):.1f}"'
    parts.append(f'<line class="reference" {ends}/>')
    for x, m in marks:
        if m.low is not None and m.high is not None:
            line = f'x1="{x_at(x):.1f}" x2="{x_at(x):.1f}" y1="{y_at(m.low):.1f}" y2="{y_at(m.high):.1f}"'
            parts.append(f'<line class="bar s-{m.style}" {line}/>')
        parts.append(marker(MARKERS[m.style], x_at(x), y_at(m.value), 4, m.style, f"{m.name}{ends_of(m, show)}"))
    said = "; ".join(f"says {show(x)}, is right in {show(m.value)}{ends_of(m, show)}" for x, m in marks)
    return svg(title, said, height, parts)


def _runs(xs: Sequence[float], ys: Sequence[float]) -> list[list[tuple[float, float]]]:
    runs: list[list[tuple[float, float]]] = [[]]
    for x, y in zip(xs, ys, strict=True):
        if math.isfinite(y):
            runs[-1].append((x, y))
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]
