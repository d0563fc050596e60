"""What the report's charts are drawn with: curves and numbers, their markers and legend, and the drawing around them."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from dataclasses import dataclass

WIDTH = 340
MARKERS = {"base": "ring", "sft": "dot", "best": "diamond-ring", "ppo": "diamond", "ink": "dot", "soft": "ring"}


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


def marker(kind: str, x: float, y: float, r: float, style: str, said: str = "") -> str:
    """A filled or hollow circle or diamond at (x, y), with a tooltip."""
    hollow = " hollow" if kind.endswith("ring") else ""
    tip = f"<title>{escaped(said)}</title>" if said else ""
    if kind.startswith("diamond"):
        d = r * 1.25
        path = f"M{x:.1f} {y - d:.1f}L{x + d:.1f} {y:.1f}L{x:.1f} {y + d:.1f}L{x - d:.1f} {y:.1f}Z"
        return f'<path class="mark{hollow} s-{style}" d="{path}">{tip}</path>'
    return f'<circle class="mark{hollow} s-{style}" cx="{x:.1f}" cy="{y:.1f}" r="{r}">{tip}</circle>'


def key(names: Sequence[tuple[str, str]]) -> str:
    """The legend: (name, style) with the marker of each."""
    items = "".join(
        f'<li><svg width="14" height="14" viewBox="0 0 14 14" aria-hidden="true">'
        f"{marker(MARKERS[style], 7, 7, 4.5, style)}</svg>{escaped(name)}</li>"
        for name, style in names
    )
    return f'<ul class="key">{items}</ul>'


def shorten(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1].rstrip() + "…"


def ends_of(mark: Mark, show: Callable[[float], str]) -> str:
    return f" ({show(mark.low)} to {show(mark.high)})" if mark.low is not None and mark.high is not None else ""


def escaped(text: str) -> str:
    return html.escape(text, quote=True)


def svg(title: str, said: str, height: float, parts: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:g}" role="img">'
        f"<title>{escaped(title)}</title><desc>{escaped(said)}</desc>{''.join(parts)}</svg>"
    )
