"""The section about the reward model."""

from __future__ import annotations

from data.numbers import many
from pipeline.report import charts, markup, sentences, tables
from pipeline.report.facts import Facts
from pipeline.report.marks import Mark
from pipeline.report.markup import text


def reward_model(facts: Facts) -> str:
    rows = tables.accuracy_rows(facts)
    if not rows:
        return ""
    whole = {"labels as given", "labels without noise"}
    overall = [(name, entry) for name, entry in rows if name in whole or name.startswith(("rule", "against", "test"))]
    parts = [row for row in rows if row not in overall]
    figures = [
        markup.figure(
            title,
            charts.interval_rows(
                f"Reward-model accuracy, {title.lower()}",
                [(name, [markup.mark(name, entry, "ink")]) for name, entry in chosen],
                show=markup.share,
                reference=0.5,
                reference_name="guessing",
                label_width=146 if chosen is overall else 84,
            ),
            note,
        )
        for title, chosen, note in (
            ("Overall", overall, "Share of pairs in the right order, with 95 % intervals over questions."),
            ("By part of the rubric", parts, "Pairs that differ in this part: does the model see it?"),
        )
        if chosen
    ]
    for title, chosen, reference, name, note in (
        (
            "Probes",
            tables.probe_rows(facts),
            0.7,
            "70 %",
            "Share of good answers that score above a spoilt copy, or are not moved by what should not matter.",
        ),
        (
            "By length",
            tables.third_rows(facts),
            0.5,
            "guessing",
            "Thirds of the pairs, by how much longer the better answer is.",
        ),
        (
            "By turn",
            tables.turn_rows(facts),
            0.5,
            "guessing",
            "Pairs with the labels as given, by how often the person has spoken.",
        ),
    ):
        if chosen:
            chart = charts.interval_rows(
                f"Reward model: {title.lower()}",
                [(said, [markup.mark(said, entry, "ink")]) for said, entry in chosen],
                show=markup.share,
                reference=reference,
                reference_name=name,
                label_width=112,
            )
            figures.append(markup.figure(title, chart, note))
    if facts.calibration:
        chart = charts.calibration(
            "Calibration of the reward model",
            [(b.stated, Mark(many(b.pairs, 'pair'), b.right, b.low, b.high)) for b in facts.calibration],
            x_name="how sure it says it is",
            show=markup.share,
        )
        note = "How often it is right where it says so, tenths of the pairs. Below the diagonal it is too sure; before any temperature."
        figures.append(markup.figure("Calibration", chart, note))
    figures += markup.clouds_figure(
        "Score against length",
        "Reward-model score against length",
        tables.length_and_proxy(facts),
        stage_name=facts.stage_name,
        x_name="tokens of the answer",
        note="One speck an answer, means marked. A cloud that rises or falls along a line is a score that reads length.",
    )
    said = " ".join(filter(None, (sentences.ACCURACY_NOTE, sentences.floor_note(facts))))
    return f'<p class="intro">{text(said)}</p>{markup.grid(figures)}'
