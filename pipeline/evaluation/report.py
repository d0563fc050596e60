"""The report of a run: report.md and report.html, made from what lies on disk and from nothing else."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.disk import write_whole
from pipeline.evaluation import facts as f
from pipeline.evaluation.caveats import caveats
from pipeline.evaluation.facts import Facts
from pipeline.evaluation.page import page
from pipeline.evaluation.standings_words import NOTE, p_value

CURVES = {
    "score": ("score", "reward"),
    "kl": ("KL", "nats/sequence"),
    "response_tokens": ("length", "tokens"),
    "entropy": ("entropy", "nats/token"),
    "eos_rate": ("finished", "share"),
}
CURVE_ROWS = 8


def write_report(run_dir: Path, config: Any) -> tuple[Path, Path]:
    """Write `report.md` and `report.html` into `run_dir` and return their paths.

    Works on whatever has finished: a run that stopped after SFT gets a shorter report. The same files on disk give the
    same report, byte for byte.
    """
    facts = f.gather(run_dir, config)
    markdown, html = run_dir / "report.md", run_dir / "report.html"
    write_whole(markdown, f.clean(to_markdown(facts)))
    write_whole(html, f.clean(page(facts)))
    return markdown, html


def to_markdown(facts: Facts) -> str:
    """The report in Markdown. Text of models and people is escaped: it stays text in any viewer."""
    sections = [
        [f"# Run {escape(facts.run)}", "", escape(f.verdict(facts))],
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
            f.stage_name(stage),
            f.duration(f.seconds_of(facts.manifests.get(stage))),
            f.duration(f.seconds_of(facts.evaluations.get(stage))),
            "; ".join(f"{name} {value}" for name, value in f.key_figures(facts, stage)) or "–",
            f.gate_summary(facts, stage) or "–",
        )
        for stage in facts.stages
    ]
    return ["## Stages", "", *_table(("Stage", "Time", "Evaluation", "Key figures", "Gates"), rows)] if rows else []


def _gates(facts: Facts) -> list[str]:
    if not facts.gates:
        return []
    rows = [(g.name, f.gate_value(g), f.interval(g.result) or "–", f.bound(g.result), g.state) for g in facts.gates]
    lines = ["## Gates", "", *_table(("Gate", "Value", "95 % interval", "Bound", "Result"), rows)]
    lines += [f"\n- {escape(g.result.problem)}" for g in facts.gates if g.result.problem]
    lines += [f"\n- accepted {escape(g.name)}: {escape(g.why)}" for g in facts.gates if g.state == "accepted"]
    return lines


def _caveats(facts: Facts) -> list[str]:
    found = caveats(facts)
    return ["## What to doubt", "", *(f"- {escape(said)}" for said in found)] if found else []


def _gold(facts: Facts) -> list[str]:
    policies = [p for p in f.POLICIES if facts.entry(p, "gold")]
    if not policies:
        return []
    parts = dict.fromkeys(part for p in policies for part in facts.parts(p, "gold_"))
    rows = [("gold score", *(_cell(facts.entry(p, "gold")) for p in policies))]
    rows += [(part.replace("_", " "), *(_cell(facts.entry(p, f"gold_{part}")) for p in policies)) for part in parts]
    head = ("Part", *(f.stage_name(p) for p in policies))
    return ["## Gold score, part by part", "", escape(f.gold_note(facts)), "", *_table(head, rows)]


def _people(facts: Facts) -> list[str]:
    rows = [
        (name, _cell(rate), p.won, p.lost, p.tied, p.both_bad, p.people, p_value(p.p_holm))
        for name, p, rate in f.people_pairs(facts)
    ]
    if not rows:
        return []
    head = ("Pair", "Preferred", "Won", "Lost", "Ties", "Both bad", "People", "Sign test")
    lines = ["## What people prefer", "", escape(f.people_note(facts)), "", *_table(head, rows)]
    for group in f.people_places(facts):
        lines += ["", "Places by Bradley-Terry, in points of Elo around their mean:", ""]
        lines += _table(("Checkpoint", "Points"), [(name, _cell(at)) for name, at in group])
    return [*lines, "", escape(NOTE)]


def _best_of_n(facts: Facts) -> list[str]:
    rows = f.frontier_points(facts)
    if not rows:
        return []
    table = [(name, f.number(kl), _cell(gold)) for name, _, kl, gold in rows]
    lines = ["## Beside best-of-n", "", f.BEST_OF_NOTE, ""]
    lines += _table(("Policy", "KL to SFT, nats", "Gold score"), table)
    clouds = f.proxy_and_gold(facts)
    if clouds:
        means = [
            (f.stage_name(p), *(f.number(sum(points[k] for points in cloud) / len(cloud)) for k in (0, 1)), len(cloud))
            for p, cloud in clouds.items()
        ]
        lines += ["", "Reward-model score and gold score, means over prompts:", ""]
        lines += _table(("Policy", "Reward-model score", "Gold score", "Prompts"), means)
    return lines


def _reward_model(facts: Facts) -> list[str]:
    rows = f.accuracy_rows(facts)
    if not rows:
        return []
    lines = ["## Reward model", "", f.ACCURACY_NOTE, ""]
    lines += _table(
        ("Pairs", "Accuracy"), [(n, _cell(e)) for n, e in [*rows, *f.third_rows(facts), *f.turn_rows(facts)]]
    )
    if said := f.floor_note(facts):
        lines += ["", escape(said)]
    if facts.calibration:
        right = [_cell(f.Entry("right", b.right, b.pairs, b.low, b.high, "share")) for b in facts.calibration]
        rows = [(f.quantity(b.stated, "share"), r, b.pairs) for b, r in zip(facts.calibration, right, strict=True)]
        lines += ["", "How sure it says it is, and how often it is then right:", ""]
        lines += _table(("Stated", "Right", "Pairs"), rows)
    if probes := f.probe_rows(facts):
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
    policies = [p for p in f.POLICIES if any(facts.entry(p, metric) for metric in named)]
    if not policies:
        return []
    rows = [(said, *(_cell(facts.entry(p, metric)) for p in policies)) for metric, said in named.items()]
    head = ("", *(f.stage_name(p) for p in policies))
    return ["## Beside the task", "", escape(f.BESIDE_NOTE), "", *_table(head, rows)]


def _detectors(facts: Facts) -> list[str]:
    rows = [
        (r.name, seen, bound, r.state if k == 0 else "")
        for r in f.detector_readings(facts)
        for k, (seen, bound) in enumerate(zip(r.seen, r.bounds, strict=True))
    ]
    if not rows:
        return []
    head = ("Detector", "Seen last", "Bound", "State")
    return ["## Failure detectors", "", escape(f.DETECTORS_NOTE), "", *_table(head, rows)]


def _training(facts: Facts) -> list[str]:
    lines: list[str] = []
    for stage in ("sft", "reward"):
        for figure in ("loss", "accuracy"):
            change = f.ends(f.column(facts.logs.get(stage, ()), figure))
            if change:
                said = " to ".join(f.number(value) for value in change)
                steps = len(facts.logs[stage])
                lines.append(
                    f"- {f.stage_name(stage)} {figure}: {said} (means of the first and last tenth of {steps} steps)"
                )
    updates = facts.logs.get("ppo", [])
    if updates:
        chosen = sorted({round(k * (len(updates) - 1) / (CURVE_ROWS - 1)) for k in range(CURVE_ROWS)})
        known = {key: said for key, said in CURVES.items() if any(f.is_finite(row.get(key)) for row in updates)}
        head = ["Update", *(f"{name}, {unit}" for name, unit in known.values())]
        rows = [
            [
                updates[k].get("update", k),
                *(f.quantity(updates[k].get(key), "share" if key == "eos_rate" else "") for key in known),
            ]
            for k in chosen
        ]
        lines += ["", f"PPO, {len(chosen)} of {len(updates)} updates:", "", *_table(head, rows)]
    looks = facts.watched.get("looks", [])
    if looks:
        rows = [[look["update"], f.number(look["mean"]), f.number(look["proxy"])] for look in looks]
        head = ("Updates", "Judge", "Reward")
        lines += ["", escape(f.judge_note(facts)), "", *_table(head, rows)]
    return ["## Training", "", *lines] if lines else []


def _answers(facts: Facts) -> list[str]:
    found = [pair for pair in f.side_by_side(facts) if pair.shown]
    if not found:
        return []
    lines = ["## The same prompts, side by side", "", f.side_by_side_note(facts)]
    for pair in found:
        lines += ["", f"**{escape(pair.prompt)}**", ""]
        lines += [
            f"- *{f.stage_name(p)}* ({escape(f.answer_note(row))}): {escape(row['answer'])}" for p, row in pair.answers
        ]
    return lines


def _all_numbers(facts: Facts) -> list[str]:
    lines: list[str] = []
    for stage, card in facts.cards.items():
        rows = [(e.metric, f.figure(e), f.interval(e) or "–", e.n, e.note or "–") for e in card.entries]
        lines += ["", f"### {escape(f.stage_name(stage))}", ""]
        lines += _table(("Metric", "Value", "95 % interval", "n", "Note"), rows)
    return ["## Every number on the cards", *lines] if lines else []


def _run(facts: Facts) -> list[str]:
    lines = ["## How this run was made", "", *_table(("", ""), f.run_facts(facts))]
    hashes = f.data_hashes(facts)
    return [*lines, "", *_table(("Data file", "sha256"), hashes)] if hashes else lines


def _cell(entry: f.Entry | None) -> str:
    if entry is None:
        return "–"
    around = f.interval(entry)
    return f"{f.figure(entry)} ({around})" if around else f.figure(entry)
