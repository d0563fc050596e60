"""Writes docs/performance.md from what the benchmarks measured (`benchmarks/results/`). It measures nothing itself.

    python benchmarks/performance.py

The prose around the tables lies in docs/performance-notes.md, so that writing the tables anew does not lose it.
"""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean, median

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PEER = "TRL 1.12.0"
SHAPES = ("16x16", "32x48")
# Scores of single updates are noisy: what a side learnt is read from the mean of the last few.
LAST = 5


def main() -> None:
    parts = ["# Performance", "", notes("head"), *(side_by_side(shape) for shape in SHAPES), *scaling(), notes("tail")]
    (ROOT / "docs" / "performance.md").write_text("\n".join(parts).rstrip() + "\n", encoding="utf-8")


def notes(part: str) -> str:
    """The prose before ("head") or after ("tail") the line of three dashes."""
    file = ROOT / "docs" / "performance-notes.md"
    head, _, tail = file.read_text(encoding="utf-8").partition("\n---\n") if file.exists() else ("", "", "")
    return (head if part == "head" else tail).strip() + "\n"


def side_by_side(shape: str) -> str:
    file = RESULTS / f"side_by_side_{shape}.json"
    batch, response = shape.split("x")
    title = f"## {batch} answers of {response} tokens an update\n"
    if not file.exists():
        return f"{title}\nNot measured yet.\n"
    runs = json.loads(file.read_text(encoding="utf-8"))["runs"]
    sides = list(dict.fromkeys(run["side"] for run in runs))
    figures = {side: summary([run for run in runs if run["side"] == side]) for side in sides}
    lines = [title]
    lines += [f"    {command}" for command in dict.fromkeys(run["command"] for run in runs)]
    peer = figures[PEER]
    scored = f"score, last {peer['last']} of {peer['updates']} updates"
    lines += [
        "",
        f"| | CPU-s an update | peak GB | time / TRL | peak / TRL | {scored} | KL there |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for side in sides:
        f = figures[side]
        lines.append(
            f"| {side} | {f['cpu']:.1f} | {f['peak']:.2f} | **{f['cpu'] / peer['cpu']:.2f}** | "
            f"**{f['peak'] / peer['peak']:.2f}** | {f['score']:.2f} ({', '.join(f'{s:.2f}' for s in f['scores'])}) | {f['kl']:.1f} |"
        )
    lines += [
        "",
        f"Medians over all updates but each run's first; scores by seed {', '.join(map(str, figures[PEER]['seeds']))}.",
        "",
    ]
    return "\n".join(lines)


def summary(runs: list[dict]) -> dict:
    """A side's figures over its runs. The first update of a run, which also warms up, does not count for time."""
    steady = [u for run in runs for u in run["updates"][1:]]
    last = min(LAST, max(1, len(runs[0]["updates"]) // 3))
    scores = [fmean(u["score"] for u in run["updates"][-last:]) for run in runs]
    return {
        "cpu": median(u["cpu_s"] for u in steady),
        "peak": median(run["updates"][-1]["peak_gb"] for run in runs),
        "score": fmean(scores),
        "scores": scores,
        "kl": fmean(u["kl"] for run in runs for u in run["updates"][-last:]),
        "last": last,
        "updates": len(runs[0]["updates"]),
        "seeds": [run["seed"] for run in runs],
    }


def scaling() -> list[str]:
    file = RESULTS / "scaling.json"
    kept = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return [
        section(kept, "tokens", "Cost against tokens", tokens),
        section(kept, "roles", "Cost against roles", roles),
        section(kept, "rankings", "One reading of each ranked answer", rankings),
        parts(),
        drawing(),
    ]


def parts() -> str:
    file = RESULTS / "parts.json"
    title = "## What each part saves\n"
    if not file.exists():
        return f"{title}\nNot measured yet.\n"
    kept = json.loads(file.read_text(encoding="utf-8"))
    lines = [title, f"    {kept['command']}", "", "| part | CPU-s | the plain way | ratio |", "|---|---:|---:|---:|"]
    for p in kept["parts"]:
        lines.append(f"| {p['part']} | {p['kept']:.2f} | {p['plain']:.2f} | **{p['kept'] / p['plain']:.2f}** |")
    return "\n".join([*lines, ""])


def drawing() -> str:
    """Engines that draw a rollout in this process, side by side."""
    file = RESULTS / "drawing.json"
    title = "## Who draws a rollout\n"
    if not file.exists():
        return f"{title}\nNot measured yet.\n"
    kept = json.loads(file.read_text(encoding="utf-8"))
    lines = [
        title,
        f"    {kept['command']}",
        "",
        f"{kept['rows']} prompts of the quickstart, answers of at most {kept['tokens']} tokens by the policy that SFT left; with no end every answer "
        "has all of them. CPU-seconds\nof one thread, medians over turns, and the tokens drawn.",
        "",
        "| base | answers | engine | CPU-s | tokens | CPU-s / hf | range over turns |",
        "|---|---|---|---:|---:|---:|---:|",
    ]
    for p in kept["points"]:
        base = next(q for q in kept["points"] if q["engine"] == "hf" and all(q[k] == p[k] for k in ("dtype", "ends")))
        # Turn by turn: what else runs on the machine meets all engines of a turn.
        ratios = [a / b for a, b in zip(p["all_seconds"], base["all_seconds"], strict=True)]
        lines.append(
            f"| {p['dtype']} | {p['ends']} | `{p['engine']}` | {p['seconds']:.2f} | {p['drawn']:.0f} | "
            f"**{median(ratios):.2f}** | {min(ratios):.2f} to {max(ratios):.2f} |"
        )
    return "\n".join([*lines, ""])


def section(kept: dict, name: str, title: str, write) -> str:
    if name not in kept:
        return f"## {title}\n\nNot measured yet.\n"
    return f"## {title}\n\n    {kept[name]['command']}\n\n" + write(kept[name]["points"]) + "\n"


def tokens(points: list[dict]) -> str:
    import numpy as np

    rows = {t: [p for p in points if p["response"] == t] for t in dict.fromkeys(p["response"] for p in points)}
    x = [median(p["tokens"] for p in ps) for ps in rows.values()]
    y = [median(p["seconds"] for p in ps) for ps in rows.values()]
    slope, start = np.polyfit(x, y, 1)
    r2 = np.corrcoef(x, y)[0, 1] ** 2
    lines = [
        "| tokens an answer, at most | tokens an update | CPU-s an update | the line | peak GB |",
        "|---:|---:|---:|---:|---:|",
    ]
    for (t, ps), n, s in zip(rows.items(), x, y, strict=True):
        lines.append(f"| {t} | {n:.0f} | {s:.1f} | {start + slope * n:.1f} | {median(p['peak_gb'] for p in ps):.2f} |")
    said = f"Least squares: {start:.1f} s + {1000 * slope:.1f} ms a token, R² = {r2:.4f}. The constant is the reading of 16 prompts."
    return "\n".join([*lines, "", said, "", chart(x, y, "tokens an update", "CPU-seconds an update"), ""])


def roles(points: list[dict]) -> str:
    lines = [
        "| roles | one base, peak GB | a model each, peak GB | one base, CPU-s to read | a model each, CPU-s to read |",
        "|---:|---:|---:|---:|---:|",
    ]
    series: dict[str, list[float]] = {"shared": [], "separate": []}
    counts = sorted({p["roles"] for p in points})
    for n in counts:
        cells = {
            (way, figure): median(p[figure] for p in points if p["roles"] == n and p["way"] == way)
            for way in series
            for figure in ("peak_gb", "seconds")
        }
        for way in series:
            series[way].append(cells[way, "peak_gb"])
        lines.append(
            f"| {n} | {cells['shared', 'peak_gb']:.2f} | {cells['separate', 'peak_gb']:.2f} | "
            f"{cells['shared', 'seconds']:.2f} | {cells['separate', 'seconds']:.2f} |"
        )
    grown = {way: series[way][-1] / series[way][0] for way in series}
    said = (
        f"From one role to {counts[-1]}, the peak grows {grown['shared']:.2f}-fold on one base and {grown['separate']:.2f}-fold "
        "with a model for each. Each further role on the base reads the upper layers only."
    )
    curves = [
        chart(counts, series[way], f"roles, {name}", "peak GB", widest=max(series["separate"]), digits=2)
        for way, name in (("shared", "one base"), ("separate", "a model each"))
    ]
    return "\n".join([*lines, "", said, "", *curves, ""])


def rankings(points: list[dict]) -> str:
    lines = [
        "| K | way | readings of answers | CPU-s a step | peak GB | time / side by side |",
        "|---:|---|---:|---:|---:|---:|",
    ]
    for k in sorted({p["answers"] for p in points}):
        own = [p for p in points if p["answers"] == k]
        base = median(p["seconds"] for p in own if p["way"] == "side by side")
        for way in dict.fromkeys(p["way"] for p in own):
            these = [p for p in own if p["way"] == way]
            seconds = median(p["seconds"] for p in these)
            lines.append(
                f"| {k} | {way} | {these[0]['readings']} | {seconds:.2f} | {median(p['peak_gb'] for p in these):.2f} | "
                f"**{seconds / base:.1f}** |"
            )
    return "\n".join([*lines, ""])


def chart(x: list[float], y: list[float], across: str, up: str, *, widest: float | None = None, digits: int = 1) -> str:
    """A curve in plain text: one row a point, its length the value."""
    unit = 48 / (widest or max(y))
    rows = [f"{n:8.0f}  {'█' * max(1, round(unit * s))} {s:.{digits}f}" for n, s in zip(x, y, strict=True)]
    return "\n".join(["```", f"{across} → {up}", *rows, "```"])


if __name__ == "__main__":
    main()
