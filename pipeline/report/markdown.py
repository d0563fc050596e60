"""The report of a run: report.md and report.html, made from what lies on disk and from nothing else."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from data.numbers import many
from pipeline.evaluation.cards import Entry, is_finite
from pipeline.evaluation.standings_words import NOTE, p_value
from pipeline.report import curves, learning, provenance, sentences, tables, wording
from pipeline.report.caveats import caveats
from pipeline.report.facts import POLICIES, Facts
from pipeline.report.meanings import meaning
from pipeline.report.side_by_side import side_by_side, side_by_side_note

CURVES = {
    "score": ("score", "reward"),
    "kl": ("KL", "nats/sequence"),
    "response_tokens": ("length", "tokens"),
    "entropy": ("entropy", "nats/token"),
    "eos_rate": ("finished", "share"),
}
CURVE_ROWS = 8


def to_markdown(facts: Facts) -> str:
    """The report in Markdown. Text of models and people is escaped: it stays text in any viewer."""
    sections = [
        [f"# Run {escape(facts.run)}", "", escape(sentences.verdict(facts))],
        _stages(facts),
        _gates(facts),
        _caveats(facts),
        _gold(facts),
        _people(facts),
        _best_of_n(facts),
        _beside(facts),
        _reward_model(facts),
        _detectors(facts),
        _training(facts),
        _answers(facts),
        _all_numbers(facts),
        _run(facts),
    ]
    return "\n\n".join("\n".join(lines) for lines in sections if lines) + "\n"


def escape(text: object) -> str:
    """Text that Markdown shows as it is, on one line: no tag, link, image, emphasis, table or list comes of it."""
    line = re.sub(r"\s+", " ", str(text)).strip()
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    line = re.sub(r"([\\`*_{}\[\]|~$!])", r"\\\1", line)
    line = re.sub(r"(?i)(https?|ftp|www)(:|\.)", r"\1&#8203;\2", line)
    line = re.sub(r"^(#|=|[+-](?=[\s-]|$))", r"\\\1", line)
    return re.sub(r"^(\d+)(?=[.)](\s|$))", r"\1&#8203;", line)


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    def line(cells: Sequence[object]) -> str:
        return "| " + " | ".join(escape(cell) for cell in cells) + " |"

    return [line(head), "|" + "---|" * len(head), *(line(row) for row in rows)]


def _stages(facts: Facts) -> list[str]:
    rows = [
        (
            facts.stage_name(stage),
            wording.duration(provenance.seconds_of(facts.manifests.get(stage))),
            wording.duration(provenance.seconds_of(facts.evaluations.get(stage))),
            "; ".join(f"{name} {value}" for name, value in tables.key_figures(facts, stage)) or "–",
            tables.gate_summary(facts, stage) or "–",
        )
        for stage in facts.stages
    ]
    return ["## Stages", "", *_table(("Stage", "Time", "Evaluation", "Key figures", "Gates"), rows)] if rows else []


def _gates(facts: Facts) -> list[str]:
    if not facts.gates:
        return []
    rows = [
        (g.name, meaning(g, facts) or "–", wording.gate_value(g), wording.interval(g.result) or "–", wording.bound(g.result), g.state)
        for g in facts.gates
    ]
    lines = ["## Gates", "", *_table(("Gate", "What it asks", "Value", "95 % interval", "Bound", "Result"), rows)]
    lines += [f"\n- {escape(g.result.problem)}" for g in facts.gates if g.result.problem]
    lines += [f"\n- accepted {escape(g.name)}: {escape(g.why)}" for g in facts.gates if g.state == "accepted"]
    return lines


def _caveats(facts: Facts) -> list[str]:
    found = caveats(facts)
    return ["## What to doubt", "", *(f"- {escape(said)}" for said in found)] if found else []


def _gold(facts: Facts) -> list[str]:
    policies = [p for p in POLICIES if facts.entry(p, "gold")]
    if not policies:
        return []
    parts = dict.fromkeys(part for p in policies for part in facts.parts(p, "gold_"))
    rows = [("gold score", *(_cell(facts.entry(p, "gold")) for p in policies))]
    rows += [(part.replace("_", " "), *(_cell(facts.entry(p, f"gold_{part}")) for p in policies)) for part in parts]
    head = ("Part", *(facts.stage_name(p) for p in policies))
    notes = [escape(said) for said in (sentences.gold_note(facts), sentences.parts_note(facts)) if said]
    return ["## Gold score, part by part", "", "\n\n".join(notes), "", *_table(head, rows)]


def _people(facts: Facts) -> list[str]:
    rows = [
        (name, _cell(rate), p.won, p.lost, p.tied, p.both_bad, p.people, p_value(p.p_holm))
        for name, p, rate in tables.people_pairs(facts)
    ]
    if not rows:
        return []
    head = ("Pair", "Preferred", "Won", "Lost", "Ties", "Both bad", "People", "Sign test")
    lines = ["## What people prefer", "", escape(sentences.people_note(facts)), "", *_table(head, rows)]
    for group in tables.people_places(facts):
        lines += ["", "Places by Bradley-Terry, in points of Elo around their mean:", ""]
        lines += _table(("Checkpoint", "Points"), [(name, _cell(at)) for name, at in group])
    return [*lines, "", escape(NOTE)]


def _best_of_n(facts: Facts) -> list[str]:
    rows = tables.frontier_points(facts)
    if not rows:
        return []
    table = [(name, wording.number(kl), _cell(gold)) for name, _, kl, gold in rows]
    lines = ["## Beside best-of-n", "", sentences.BEST_OF_NOTE, ""]
    lines += _table(("Policy", "KL to SFT, nats", "Gold score"), table)
    clouds = tables.proxy_and_gold(facts)
    if clouds:
        means = [
            (facts.stage_name(p), *(wording.number(sum(points[k] for points in cloud) / len(cloud)) for k in (0, 1)), len(cloud))
            for p, cloud in clouds.items()
        ]
        lines += ["", "Reward-model score and gold score, means over prompts:", ""]
        lines += _table(("Policy", "Reward-model score", "Gold score", "Prompts"), means)
    return lines


def _reward_model(facts: Facts) -> list[str]:
    rows = tables.accuracy_rows(facts)
    if not rows:
        return []
    lines = ["## Reward model", "", sentences.ACCURACY_NOTE, ""]
    lines += _table(
        ("Pairs", "Accuracy"), [(n, _cell(e)) for n, e in [*rows, *tables.third_rows(facts), *tables.turn_rows(facts)]]
    )
    if said := sentences.floor_note(facts):
        lines += ["", escape(said)]
    if facts.calibration:
        right = [_cell(Entry("right", b.right, b.pairs, b.low, b.high, "share")) for b in facts.calibration]
        rows = [(wording.quantity(b.stated, "share"), r, b.pairs) for b, r in zip(facts.calibration, right, strict=True)]
        lines += ["", "How sure it says it is, and how often it is then right:", ""]
        lines += _table(("Stated", "Right", "Pairs"), rows)
    if probes := tables.probe_rows(facts):
        lines += ["", "Good answers against spoilt copies:", ""]
        lines += _table(("Probe", "Share right"), [(n, _cell(e)) for n, e in probes])
    return lines


def _beside(facts: Facts) -> list[str]:
    named = {
        "general_perplexity": "perplexity of ordinary text",
        "general_perplexity_ratio": "over the base model's",
        "general_bits_per_byte": "bits a byte",
        "wrong_unprompted": "prefers a wrong answer",
        "wrong_suggested": "prefers it when it was suggested",
        "self_bleu": "self-BLEU of the answers",
    }
    policies = [p for p in POLICIES if any(facts.entry(p, metric) for metric in named)]
    if not policies:
        return []
    rows = [(said, *(_cell(facts.entry(p, metric)) for p in policies)) for metric, said in named.items()]
    head = ("", *(facts.stage_name(p) for p in policies))
    return ["## Beside the task", "", escape(sentences.BESIDE_NOTE), "", *_table(head, rows)]


def _detectors(facts: Facts) -> list[str]:
    rows = [
        (r.name, seen, bound, r.state if k == 0 else "")
        for r in tables.detector_readings(facts)
        for k, (seen, bound) in enumerate(zip(r.seen, r.bounds, strict=True))
    ]
    if not rows:
        return []
    head = ("Detector", "Seen last", "Bound", "State")
    return ["## Failure detectors", "", escape(sentences.detectors_note(facts)), "", *_table(head, rows)]


def _training(facts: Facts) -> list[str]:
    lines: list[str] = []
    for stage in ("sft", "reward"):
        for figure in ("loss", "accuracy"):
            change = curves.ends(curves.column(facts.logs.get(stage, ()), figure))
            if change:
                said = " to ".join(wording.number(value) for value in change)
                steps = len(facts.logs[stage])
                lines.append(
                    f"- {facts.stage_name(stage)} {figure}: {said} (means of the first and last tenth of {many(steps, 'step')})"
                )
    updates = facts.drawn
    if updates:
        chosen = sorted({round(k * (len(updates) - 1) / (CURVE_ROWS - 1)) for k in range(CURVE_ROWS)})
        known = {key: said for key, said in CURVES.items() if any(is_finite(row.get(key)) for row in updates)}
        head = ["Update", *(f"{name}, {unit}" for name, unit in known.values())]
        rows = [
            [
                updates[k].get("update", k),
                *(wording.quantity(updates[k].get(key), "share" if key == "eos_rate" else "") for key in known),
            ]
            for k in chosen
        ]
        lines += ["", f"{facts.learner}, {len(chosen)} of {len(updates)} {facts.drawn_at}:", "", *_table(head, rows)]
    looks = facts.watched.get("looks", [])
    if looks:
        paid = [key for key in ("mean", "proxy") if all(look[key] is not None for look in looks)]
        rows = [[look["update"], _judged(look), *([wording.number(look["proxy"])] if "proxy" in paid else [])] for look in looks]
        head = ("Updates", "Judge", "Reward")[: 1 + len(paid)]
        lines += ["", escape(sentences.judge_note(facts)), "", *_table(head, rows)]
    if shown := learning.moments(facts):
        rows = [(row["update"], row["prompt"], row["response"], learning.score(row)) for row in shown]
        lines += ["", escape(learning.note(facts, shown)), "", *_table(learning.HEAD, rows)]
    return ["## Training", "", *lines] if lines else []


def _judged(look: Mapping[str, Any]) -> str:
    mean = wording.number(look["mean"])
    return f"{mean} ({' to '.join(map(wording.number, look['ends']))})" if look["ends"] else mean


def _answers(facts: Facts) -> list[str]:
    found = [pair for pair in side_by_side(facts) if pair.shown]
    if not found:
        return []
    lines = ["## The same prompts, side by side", "", side_by_side_note(facts)]
    for pair in found:
        # A paragraph each, or the turns of a conversation would run together.
        lines += ["", "\n\n".join(f"**{escape(part)}**" for part in pair.prompt.split("\n\n") if part.strip()), ""]
        lines += [
            f"- *{facts.stage_name(p)}* ({escape(sentences.answer_note(row))}): {escape(row['answer'])}" for p, row in pair.answers
        ]
    return lines


def _all_numbers(facts: Facts) -> list[str]:
    lines: list[str] = []
    for stage, card in facts.cards.items():
        rows = [(e.metric, wording.figure(e), wording.interval(e) or "–", e.n, e.note or "–") for e in card.entries]
        lines += ["", f"### {escape(facts.stage_name(stage))}", ""]
        lines += _table(("Metric", "Value", "95 % interval", "n", "Note"), rows)
    return ["## Every number on the cards", "", sentences.COUNTED, *lines] if lines else []


def _run(facts: Facts) -> list[str]:
    lines = ["## How this run was made", "", *_table(("", ""), provenance.run_facts(facts))]
    hashes = provenance.data_hashes(facts)
    return [*lines, "", *_table(("Data file", "sha256"), hashes)] if hashes else lines


def _cell(entry: Entry | None) -> str:
    if entry is None:
        return "–"
    around = wording.interval(entry)
    return f"{wording.figure(entry)} ({around})" if around else wording.figure(entry)
