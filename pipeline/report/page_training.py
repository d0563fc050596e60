"""Sections about how the run went: failure detectors, looks of the judge, training curves."""

from __future__ import annotations

import math

from pipeline.report import charts, curves, markup, sentences, tables, wording
from pipeline.report.facts import Facts
from pipeline.report.marks import Line
from pipeline.report.markup import text

PPO_CURVES = (
    ("score", "Reward-model score", "What PPO maximises, mean of each update’s episodes.", "reward", (None, None)),
    ("kl", "KL to the reference", "How far the policy has moved from SFT, in nats a sequence.", "", (0, None)),
    ("response_tokens", "Response length", "Mean length in tokens.", "", (0, None)),
    ("entropy", "Entropy", "Nats a token. Near 0 the policy says one thing only.", "", (0, None)),
    ("eos_rate", "Finished answers", "Share that end by themselves within the limit.", "share", (0, 1)),
)


SMOOTH_FROM = 30  # curves of more steps than this get a running mean


def detectors(facts: Facts) -> str:
    rows = []
    for reading in tables.detector_readings(facts):
        sign = {"quiet": "✓", "warned": "!", "stopped": "✕"}[reading.state]
        style = {"quiet": "passed", "warned": "warned", "stopped": "missed"}[reading.state]
        pairs = "".join(
            f"<li>{text(seen)}<span>bound: {text(bound)}</span></li>"
            for seen, bound in zip(reading.seen, reading.bounds, strict=True)
        )
        rows.append(
            f'<tr><th scope="row">{text(reading.name)}</th><td><ul class="seen">{pairs}</ul></td>'
            f'<td><span class="state {style}"><i aria-hidden="true">{sign}</i>{text(reading.state)}</span></td></tr>'
        )
    if not rows:
        return ""
    table = markup.table(("Detector", "Seen last, and its bound", "State"), rows, "What the failure detectors saw", "watched")
    return f'<p class="intro">{text(sentences.detectors_note(facts))}</p>{table}'


def _looks(facts: Facts) -> list[str]:
    """Judge and reward on the same answers, look by look."""
    looks = facts.watched.get("looks", [])
    if len(looks) < 2:
        return []
    xs = [float(look["update"]) for look in looks]
    figures = []
    for title, key, note in (
        ("Independent judge", "mean", sentences.judge_note(facts)),
        ("Reward on the judge’s prompts", "proxy", "The same answers by the reward that PPO raises."),
    ):
        if any(look[key] is None for look in looks):
            continue
        ends = [look["ends"] for look in looks] if key == "mean" and all(look["ends"] for look in looks) else ()
        line = Line(title, xs, [float(look[key]) for look in looks], "ppo", ends=ends)
        figures.append(markup.figure(title, charts.line_chart(title, [line], x_name="update", show=wording.number), note))
    return figures


def training(facts: Facts) -> str:
    groups = []
    updates = facts.drawn
    figures = []
    for key, title, note, unit, bounds in PPO_CURVES:
        ys = curves.column(updates, key)
        if any(math.isfinite(y) for y in ys):
            show = markup.share if unit == "share" else wording.number
            xs = [float(row.get("update", k)) for k, row in enumerate(updates)]
            chart = charts.line_chart(title, [Line(title, xs, ys, "ppo")], x_name="update", show=show, bounds=bounds)
            figures.append(markup.figure(title, chart, note))
    figures += _looks(facts)
    if figures:
        groups.append(f"<h3>{facts.learner}, {facts.drawn_at[:-1]} by {facts.drawn_at[:-1]}</h3>{markup.grid(figures)}")
    figures = []
    for stage, style in (("sft", "sft"), ("reward", "ink")):
        rows = facts.logs.get(stage, [])
        for key, note in (("loss", "Training loss in nats"), ("accuracy", "Accuracy on the training pairs")):
            ys = curves.column(rows, key)
            if not any(math.isfinite(y) for y in ys):
                continue
            xs = [float(row.get("step", k)) for k, row in enumerate(rows)]
            title = f"{facts.stage_name(stage)} {key}"
            window = max(2, len(ys) // 15)
            lines = [Line(title, xs, ys, style)]
            if len(ys) > SMOOTH_FROM:
                lines = [Line(title, xs, ys, style, faint=True), Line("mean", xs, curves.rolling_mean(ys, window), style)]
                note += f"; the strong line is the mean of the last {window} steps"
            bounds = (0, None) if key == "loss" else (None, 1)
            show = markup.share if key == "accuracy" else wording.number
            chart = charts.line_chart(title, lines, x_name="step", show=show, bounds=bounds)
            figures.append(markup.figure(title, chart, f"{note}."))
    if figures:
        groups.append(f"<h3>SFT and reward model, step by step</h3>{markup.grid(figures)}")
    return "".join(groups)
