"""Pieces of HTML that every section uses. Every text that comes from disk passes through `text()`."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence

from pipeline.evaluation.cards import Entry, is_finite
from pipeline.report import charts, wording
from pipeline.report.marks import Mark, key


def text(value: object) -> str:
    """Anything, as text that HTML shows and never runs, in an element or in a quoted attribute."""
    return html.escape(str(value), quote=True)


def table(head: Sequence[str], rows: Sequence[str], caption: str, kind: str = "plain") -> str:
    """A table; the roles are spelt out because a phone lays the rows of some out as blocks, which would drop them."""
    cells = "".join(f'<th scope="col" role="columnheader">{text(name)}</th>' for name in head)
    body = "".join(rows).replace("<tr>", '<tr role="row">').replace("<td", '<td role="cell"')
    body = body.replace('<th scope="row"', '<th scope="row" role="rowheader"')
    return (
        f'<div class="scroll" role="region" aria-label="{text(caption)}" tabindex="0">'
        f'<table role="table" class="{kind}">'
        f'<caption>{text(caption)}</caption><thead role="rowgroup"><tr role="row">{cells}</tr></thead>'
        f'<tbody role="rowgroup">{body}</tbody></table></div>'
    )


def figure(title: str, drawing: str, note: str) -> str:
    if not drawing:
        return ""
    return (
        f"<figure><figcaption><b>{text(title)}</b> <span>{text(note)}</span></figcaption><div>{drawing}</div></figure>"
    )


def grid(figures: Sequence[str]) -> str:
    return f'<div class="figures">{"".join(figures)}</div>'


def mark(name: str, entry: Entry, style: str) -> Mark:
    around = is_finite(entry.ci_low) and is_finite(entry.ci_high)
    return Mark(name, entry.value, entry.ci_low if around else None, entry.ci_high if around else None, style)


def clouds_figure(
    caption: str, title: str, clouds, *, stage_name: Callable[[str], str], x_name: str, note: str
) -> list[str]:
    """The figure of a scatter by policy with its key; none without a cloud."""
    if not clouds:
        return []
    named = [(stage_name(p), p, cloud) for p, cloud in clouds.items()]
    chart = charts.scatter(title, named, x_name=x_name, show=wording.number)
    return [figure(caption, key([(name, p) for name, p, _ in named]) + chart, note)]


def share(value: float) -> str:
    return f"{100 * value:.0f} %"


def small_unit(said: str) -> str:
    value, _, unit = said.partition(" ")
    return f"{text(value)} <small>{text(unit)}</small>" if unit else text(value)


def breakable(name: str) -> str:
    """A long dotted name that may break after a dot or an underscore."""
    return text(name).replace(".", ".<wbr>").replace("_", "_<wbr>").replace("/", "/<wbr>")
