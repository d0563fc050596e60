"""report.html: one file, no network, light and dark, from a phone to a wide screen.

Every text that comes from disk passes through `text()`. The page also carries a content-security policy that allows
its own one script, by hash, and no connection, so that a hole in the escaping would still do nothing.
"""

from __future__ import annotations

import base64
import hashlib
import html
import math
from collections.abc import Sequence
from importlib import resources

from pipeline.evaluation import charts
from pipeline.evaluation import facts as f
from pipeline.evaluation.caveats import caveats
from pipeline.evaluation.charts import Line, Mark
from pipeline.evaluation.facts import Facts
from pipeline.evaluation.standings_words import NOTE, many, p_value

PPO_CURVES = (
    ("score", "Reward-model score", "What PPO maximises, mean of each update’s episodes.", "reward", (None, None)),
    ("kl", "KL to the reference", "How far the policy has moved from SFT, in nats a sequence.", "", (0, None)),
    ("response_tokens", "Response length", "Mean length in tokens.", "", (0, None)),
    ("entropy", "Entropy", "Nats a token. Near 0 the policy says one thing only.", "", (0, None)),
    ("eos_rate", "Finished answers", "Share that end by themselves within the limit.", "share", (0, 1)),
)
SMOOTH_FROM = 30  # curves of more steps than this get a running mean

SCRIPT = """
(() => {
  const box = document.getElementById("search"), count = document.getElementById("count");
  if (!box) return;
  const cards = [...document.querySelectorAll("article.prompt")];
  const shownFirst = new Set(cards.filter((card) => !card.hidden));
  const texts = cards.map((card) => card.textContent.toLowerCase());
  const show = () => {
    const wanted = box.value.trim().toLowerCase().split(/\\s+/).filter(Boolean);
    let found = 0;
    cards.forEach((card, i) => {
      const hit = wanted.length ? wanted.every((word) => texts[i].includes(word)) : shownFirst.has(card);
      card.hidden = !hit;
      found += hit;
    });
    count.textContent = `${found} of ${cards.length} prompts shown`;
  };
  box.closest(".search").hidden = false;
  box.addEventListener("input", show);
  show();
})();
"""


def page(facts: Facts) -> str:
    """The whole document."""
    sections = [
        ("stages", "Stages", _stages(facts)),
        ("gates", "Gates", _gates(facts)),
        ("doubts", "What to doubt", _doubts(facts)),
        ("gold", "Gold score", _gold(facts)),
        ("people", "What people prefer", _people(facts)),
        ("beside", "Beside the task", _beside(facts)),
        ("reward", "Reward model", _reward_model(facts)),
        ("detectors", "Failure detectors", _detectors(facts)),
        ("training", "Training", _training(facts)),
        ("answers", "Answers", _answers(facts)),
        ("numbers", "All numbers", _all_numbers(facts)),
        ("run", "This run", _run(facts)),
    ]
    present = [(name, title, body) for name, title, body in sections if body]
    links = "".join(f'<li><a href="#{name}">{title}</a></li>' for name, title, _ in present)
    body = "".join(
        f'<section id="{name}" aria-labelledby="h-{name}"><h2 id="h-{name}">{title}</h2>{inner}</section>'
        for name, title, inner in present
    )
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; form-action 'none'"
    style = resources.files(__package__).joinpath("report.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>Run {text(facts.run)}: report</title>\n<style>{style}</style>\n</head>\n<body>\n"
        f'{_header(facts)}\n<nav aria-label="Sections"><ul>{links}</ul></nav>\n<main>{body}</main>\n'
        f"<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )


def text(value: object) -> str:
    """Anything, as text that HTML shows and never runs, in an element or in a quoted attribute."""
    return html.escape(str(value), quote=True)


def _header(facts: Facts) -> str:
    marks = [
        (f.stage_name(p), [_mark(f.stage_name(p), entry, p)])
        for p in ("base", "sft")
        if (entry := facts.entry(p, "gold"))
    ]
    marks += [(f"Best of {n}", [_mark(f"best of {n}", gold, "best")]) for n, gold, _ in facts.best_of()]
    if ppo := facts.entry("ppo", "gold"):
        marks.append(("PPO", [_mark("PPO", ppo, "ppo")]))
    if averaged := facts.entry("ppo", "ema_gold"):
        marks.append(("PPO (EMA)", [_mark("PPO, averaged over its updates", averaged, "ppo")]))
    figure = _figure(
        "Gold score on held-out prompts",
        charts.interval_rows("Gold score on held-out prompts", marks, show=f.number, label_width=70),
        f"Mean with 95 % interval over prompts. The {'test model' if f.by_test_model(facts) else 'rubric'} stands in for people.",
    )
    verdict = text(f.verdict(facts)).replace(" %", "&nbsp;%")
    return (
        f'<header><p class="eyebrow">Run report · {text(facts.run)}</p><h1>{verdict}</h1>'
        f'<div class="lead">{_tiles(facts)}{figure}</div></header>'
    )


def _tiles(facts: Facts) -> str:
    chosen = [
        ("ppo", "gold_minus_sft", "Gold over SFT"),
        ("ppo", "gold_minus_best_of_2", "Gold over best of 2"),
        ("ppo", "kl_to_reference", "KL to the reference"),
        ("ppo", "eos_rate", "Finished answers, PPO"),
    ]
    if not facts.entry("ppo", "gold"):
        chosen = [("sft", "gold_minus_base", "Gold over base"), ("sft", "eos_rate", "Finished answers, SFT")]
    chosen.append(("reward", "clean_accuracy", "Reward-model accuracy"))
    tiles = [(name, entry) for stage, metric, name in chosen if (entry := facts.entry(stage, metric))]
    cells = "".join(
        f"<div><dt>{text(name)}</dt><dd><b>{_small_unit(f.figure(entry))}</b>"
        f"<span>{text(f.interval(entry) or 'no interval')}</span></dd></div>"
        for name, entry in tiles
    )
    return f'<dl class="tiles">{cells}</dl>' if cells else ""


def _stages(facts: Facts) -> str:
    rows = []
    for stage in facts.stages:
        figures = "".join(f"<li>{text(name)} <b>{text(value)}</b></li>" for name, value in f.key_figures(facts, stage))
        judged = f.seconds_of(facts.evaluations.get(stage))
        judging = f"<span>+ {text(f.duration(judged))} evaluation</span>" if f.is_finite(judged) else ""
        spent = f.seconds_of(facts.manifests.get(stage))
        gates = text(f.gate_summary(facts, stage) or "no gate")
        rows.append(
            f'<tr><th scope="row">{text(f.stage_name(stage))}</th>'
            f'<td class="number">{text(f.duration(spent))}{judging}</td>'
            f'<td><ul class="figures-list">{figures}</ul></td><td>{gates}</td></tr>'
        )
    return _table(("Stage", "Time", "Key figures", "Gates"), rows, "The stages of this run", "stages") if rows else ""


def _gates(facts: Facts) -> str:
    if not facts.gates:
        return ""
    rows = []
    for gate in facts.gates:
        state = gate.state.replace(" ", "-")
        sign = {"passed": "✓", "missed": "✕", "accepted": "!", "warned": "!"}.get(gate.state, "·")
        rows.append(
            f'<tr><th scope="row"><code>{_breakable(gate.name)}</code></th>'
            f'<td class="number"><b>{text(f.gate_value(gate))}</b><span>{text(f.interval(gate.result))}</span></td>'
            f'<td class="number">{text(f.bound(gate.result))}</td>'
            f'<td><span class="state {state}"><i aria-hidden="true">{sign}</i>{text(gate.state)}</span></td></tr>'
        )
    said = "".join(
        f"<li>{text(g.result.problem)}{f' <b>Accepted: {text(g.why)}</b>' if g.why else ''}</li>"
        for g in facts.gates
        if g.result.problem
    )
    table = _table(
        ("Gate", "Value and 95 % interval", "Bound", "Result"), rows, "Bounds that the run had to hold", "gates"
    )
    return table + (f'<ul class="problems">{said}</ul>' if said else "")


def _doubts(facts: Facts) -> str:
    said = "".join(f"<li>{text(line)}</li>" for line in caveats(facts))
    return f'<ul class="doubts">{said}</ul>' if said else ""


def _gold(facts: Facts) -> str:
    policies = [p for p in f.POLICIES if facts.entry(p, "gold")]
    parts = dict.fromkeys(part for p in policies for part in facts.parts(p, "gold_"))
    rows = [
        (
            part.replace("_", " "),
            [_mark(f.stage_name(p), entry, p) for p in policies if (entry := facts.entry(p, f"gold_{part}"))],
        )
        for part in parts
    ]
    figures = []
    if rows:
        legend = charts.key([(f.stage_name(p), p) for p in policies])
        shares = all(
            facts.entry(p, f"gold_{part}").unit == "share" for p in policies for part in facts.parts(p, "gold_")
        )
        show = _share if shares else f.number
        chart = charts.interval_rows("Gold score part by part", rows, show=show, bounds=(0, 1) if shares else (0, None))
        figures.append(_figure("Part by part", legend + chart, "Each part of the gold score with its 95 % interval."))
    gamed = "The same answers by the reward model, which PPO raises. Where this climbs and gold does not, it is being gamed."
    for by, score, title, note in (
        ("gold", "Gold score", "Beside best-of-n", f.BEST_OF_NOTE),
        ("proxy", "Reward-model score", "… by the reward model", gamed),
    ):
        if points := f.frontier_points(facts, by):
            chart = charts.frontier(
                f"{score} against distance from SFT",
                [(kl, _mark(name, value, style)) for name, style, kl, value in points],
                x_name="KL to SFT in nats a sequence (axis in √KL)",
                show=f.number,
            )
            figures.append(_figure(title, chart, note))
    figures += _clouds(
        "Reward-model score against gold",
        "Gold score against reward-model score",
        f.proxy_and_gold(facts),
        x_name="reward-model score",
        note="One speck a prompt, means marked. Moving right without moving up would be reward hacking.",
    )
    return f'<p class="intro">{text(f.gold_note(facts))}</p>{_grid(figures)}' if figures else ""


def _people(facts: Facts) -> str:
    found = f.people_pairs(facts)
    if not found:
        return ""
    rows = [
        f'<tr><th scope="row">{text(name)}</th>'
        f'<td class="number"><b>{text(f.figure(rate))}</b><span>{text(f.interval(rate) or "no interval")}</span></td>'
        f'<td class="number"><b>{p.won} won, {p.lost} lost</b><span>{p.tied} tied, {p.both_bad} both bad</span></td>'
        f'<td class="number"><b>{many(p.people, "person", "people")}</b>'
        f"<span>{many(p.conversations, 'conversation')}</span></td>"
        f'<td class="number">{text(p_value(p.p_holm))}</td></tr>'
        for name, p, rate in found
    ]
    head = ("Pair", "Preferred, and 95 % interval", "Votes", "Of", "Sign test")
    # Wider and the axis has no room for its numbers; of a longer name the table has the whole.
    wide = min(140, max(84, *(round(6.3 * len(name)) for name, _, _ in found)))
    figures = [
        _figure(
            "Preferred",
            charts.interval_rows(
                "Share of blind votes",
                [(name, [_mark(name, rate, _style(p.first))]) for name, p, rate in found],
                show=_share,
                reference=0.5,
                reference_name="even",
                bounds=(0, 1),
                label_width=wide,
            ),
            "Share of the blind votes that the first one won, with 95 % intervals.",
        )
    ]
    for group in f.people_places(facts):
        chart = charts.interval_rows(
            "Places by people's votes",
            [(name, [_mark(name, at, _style(name))]) for name, at in group],
            show=lambda points: f"{points:+.0f}".replace("-", "−"),
            reference=0.0,
            reference_name="mean",
            label_width=112,
        )
        figures.append(_figure("Places", chart, "By Bradley-Terry, in points of Elo: 400 are odds of 10 to 1."))
    table = _table(head, rows, "Blind votes between checkpoints", "people")
    how = f'<p class="intro">{text(NOTE)}</p>'
    return f'<p class="intro">{text(f.people_note(facts))}</p>{_grid(figures)}{table}{how}'


def _style(checkpoint: str) -> str:
    """The colour of a stage, as in the other charts; of a round's assistant or another run's the plain one."""
    return checkpoint if checkpoint in f.POLICIES else "ink"


def _beside(facts: Facts) -> str:
    """What the training did to things that it did not pay for."""
    figures = []
    ratios = [
        (f.stage_name(p), [_mark(f.stage_name(p), entry, p)])
        for p in ("sft", "ppo")
        if (entry := facts.entry(p, "general_perplexity_ratio"))
    ]
    if ratios:
        chart = charts.interval_rows(
            "Perplexity of ordinary text over the base model's",
            ratios,
            show=f.number,
            reference=1.0,
            reference_name="base",
        )
        before = facts.entry("base", "general_perplexity")
        level = f" The base model has {f.number(before.value)}." if before else ""
        note = f"Of ordinary text, over the base model’s, with 95 % intervals over paragraphs.{level}"
        figures.append(_figure("Perplexity", chart, note))
    shares = f.beside_rows(facts)
    if shares:
        rows = [(said, [_mark(f.stage_name(p), e, p) for p, e in marks]) for said, marks in shares]
        legend = charts.key([(f.stage_name(p), p) for p, _ in shares[0][1]])
        chart = charts.interval_rows("A wrong answer is preferred", rows, show=_share, label_width=104)
        note = "Share of questions on which the wrong of two replies is the more probable one."
        figures.append(_figure("Preferring a wrong answer", legend + chart, note))
    alike = [
        (f.stage_name(p), [_mark(f.stage_name(p), entry, p)])
        for p in f.POLICIES
        if (entry := facts.entry(p, "self_bleu"))
    ]
    if alike:
        chart = charts.interval_rows("Self-BLEU", alike, show=f.number, bounds=(0, None))
        count = facts.entry(next(p for p in f.POLICIES if facts.entry(p, "self_bleu")), "self_bleu").n
        note = f"How alike {count} answers to as many prompts are: 0 shares no phrase, 1 says the same to everybody."
        figures.append(_figure("Sameness of answers", chart, note))
    probes = facts.watched.get("probes", [])
    if len(probes) > 1:
        xs = [float(p["update"]) for p in probes]
        if probes[0]["nll"]:
            ys = [math.exp(sum(p["nll"]) / p["tokens"]) for p in probes]
            chart = charts.line_chart(
                "Perplexity while PPO ran", [Line("perplexity", xs, ys, "ppo")], x_name="update", show=f.number
            )
            note = f"On {len(probes[0]['nll'])} of the texts, at every look; the first is SFT’s."
            figures.append(_figure("Perplexity while PPO ran", chart, note))
    return f'<p class="intro">{text(f.BESIDE_NOTE)}</p>{_grid(figures)}' if figures else ""


def _detectors(facts: Facts) -> str:
    rows = []
    for reading in f.detector_readings(facts):
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
    table = _table(("Detector", "Seen last, and its bound", "State"), rows, "What the failure detectors saw", "watched")
    return f'<p class="intro">{text(f.DETECTORS_NOTE)}</p>{table}'


def _reward_model(facts: Facts) -> str:
    rows = f.accuracy_rows(facts)
    if not rows:
        return ""
    whole = {"labels as given", "labels without noise"}
    overall = [(name, entry) for name, entry in rows if name in whole or name.startswith(("rule", "against", "test"))]
    parts = [row for row in rows if row not in overall]
    figures = [
        _figure(
            title,
            charts.interval_rows(
                f"Reward-model accuracy, {title.lower()}",
                [(name, [_mark(name, entry, "ink")]) for name, entry in chosen],
                show=_share,
                reference=0.5,
                reference_name="guessing",
                label_width=146 if chosen is overall else 84,
            ),
            note,
        )
        for title, chosen, note in (
            ("Overall", overall, "Share of pairs in the right order, with 95 % intervals over lists of answers."),
            ("By part of the rubric", parts, "Pairs that differ in this part: does the model see it?"),
        )
        if chosen
    ]
    for title, chosen, reference, name, note in (
        (
            "Probes",
            f.probe_rows(facts),
            0.7,
            "70 %",
            "Share of good answers that score above a spoilt copy, or are not moved by what should not matter.",
        ),
        (
            "By length",
            f.third_rows(facts),
            0.5,
            "guessing",
            "Thirds of the pairs, by how much longer the better answer is.",
        ),
        (
            "By turn",
            f.turn_rows(facts),
            0.5,
            "guessing",
            "Pairs with the labels as given, by how often the person has spoken.",
        ),
    ):
        if chosen:
            chart = charts.interval_rows(
                f"Reward model: {title.lower()}",
                [(said, [_mark(said, entry, "ink")]) for said, entry in chosen],
                show=_share,
                reference=reference,
                reference_name=name,
                label_width=112,
            )
            figures.append(_figure(title, chart, note))
    if facts.calibration:
        chart = charts.calibration(
            "Calibration of the reward model",
            [(b.stated, Mark(f"{b.pairs} pairs", b.right, b.low, b.high)) for b in facts.calibration],
            x_name="how sure it says it is",
            show=_share,
        )
        note = "How often it is right where it says so, tenths of the pairs. Below the diagonal it is too sure; before any temperature."
        figures.append(_figure("Calibration", chart, note))
    figures += _clouds(
        "Score against length",
        "Reward-model score against length",
        f.length_and_proxy(facts),
        x_name="tokens of the answer",
        note="One speck an answer, means marked. A cloud that rises or falls along a line is a score that reads length.",
    )
    said = " ".join(filter(None, (f.ACCURACY_NOTE, f.floor_note(facts))))
    return f'<p class="intro">{text(said)}</p>{_grid(figures)}'


def _clouds(caption: str, title: str, clouds, *, x_name: str, note: str) -> list[str]:
    """The figure of a scatter by policy with its key; none without a cloud."""
    if not clouds:
        return []
    named = [(f.stage_name(p), p, cloud) for p, cloud in clouds.items()]
    chart = charts.scatter(title, named, x_name=x_name, show=f.number)
    return [_figure(caption, charts.key([(name, p) for name, p, _ in named]) + chart, note)]


def _looks(facts: Facts) -> list[str]:
    """Judge and reward on the same answers, look by look."""
    looks = facts.watched.get("looks", [])
    if len(looks) < 2:
        return []
    xs = [float(look["update"]) for look in looks]
    figures = []
    for title, key, note in (
        ("Independent judge", "mean", f.judge_note(facts)),
        ("Reward on the judge’s prompts", "proxy", "The same answers by the reward that PPO raises."),
    ):
        ends = [look["ends"] for look in looks] if key == "mean" and all(look["ends"] for look in looks) else ()
        line = Line(title, xs, [float(look[key]) for look in looks], "ppo", ends=ends)
        figures.append(_figure(title, charts.line_chart(title, [line], x_name="update", show=f.number), note))
    return figures


def _training(facts: Facts) -> str:
    groups = []
    updates = facts.logs.get("ppo", [])
    figures = []
    for key, title, note, unit, bounds in PPO_CURVES:
        ys = f.column(updates, key)
        if any(math.isfinite(y) for y in ys):
            show = _share if unit == "share" else f.number
            xs = [float(row.get("update", k)) for k, row in enumerate(updates)]
            chart = charts.line_chart(title, [Line(title, xs, ys, "ppo")], x_name="update", show=show, bounds=bounds)
            figures.append(_figure(title, chart, note))
    figures += _looks(facts)
    if figures:
        groups.append(f"<h3>PPO, update by update</h3>{_grid(figures)}")
    figures = []
    for stage, style in (("sft", "sft"), ("reward", "ink")):
        rows = facts.logs.get(stage, [])
        for key, note in (("loss", "Training loss in nats"), ("accuracy", "Accuracy on the training pairs")):
            ys = f.column(rows, key)
            if not any(math.isfinite(y) for y in ys):
                continue
            xs = [float(row.get("step", k)) for k, row in enumerate(rows)]
            title = f"{f.stage_name(stage)} {key}"
            window = max(2, len(ys) // 15)
            lines = [Line(title, xs, ys, style)]
            if len(ys) > SMOOTH_FROM:
                lines = [Line(title, xs, ys, style, faint=True), Line("mean", xs, f.rolling_mean(ys, window), style)]
                note += f"; the strong line is the mean of the last {window} steps"
            bounds = (0, None) if key == "loss" else (None, 1)
            show = _share if key == "accuracy" else f.number
            chart = charts.line_chart(title, lines, x_name="step", show=show, bounds=bounds)
            figures.append(_figure(title, chart, f"{note}."))
    if figures:
        groups.append(f"<h3>SFT and reward model, step by step</h3>{_grid(figures)}")
    return "".join(groups)


def _answers(facts: Facts) -> str:
    found = f.side_by_side(facts)
    if not found:
        return ""
    cards = []
    for pair in found:
        answers = "".join(
            f'<div class="answer p-{policy}"><h4>{text(f.stage_name(policy))} '
            f"<small>{text(f.answer_note(row))}</small></h4>"
            f'<p dir="auto">{text(row["answer"])}{_cut(row)}</p></div>'
            for policy, row in pair.answers
        )
        topic = f'<p class="topic">{text(pair.topic)}</p>' if pair.topic else ""
        hidden = "" if pair.shown else " hidden"
        cards.append(
            f'<article class="prompt"{hidden}>{topic}<h3 dir="auto">{text(pair.prompt)}</h3>'
            f'<div class="answers">{answers}</div></article>'
        )
    search = (
        '<p class="search" hidden><label for="search">Search all prompts and answers</label>'
        '<input id="search" type="search" autocomplete="off" placeholder="a word of a prompt or an answer">'
        '<span id="count" role="status"></span></p>'
    )
    return f'<p class="intro">{text(f.side_by_side_note(facts))}</p>{search}{"".join(cards)}'


def _all_numbers(facts: Facts) -> str:
    out = []
    for stage, card in facts.cards.items():
        rows = [
            f'<tr><th scope="row"><code>{_breakable(e.metric)}</code></th>'
            f'<td class="number"><b>{text(f.figure(e))}</b><span>{text(f.interval(e))}</span></td>'
            f'<td class="number">{e.n}</td><td>{text(e.note)}</td></tr>'
            for e in card.entries
        ]
        name = text(f.stage_name(stage))
        table = _table(("Metric", "Value and 95 % interval", "n", "Note"), rows, f"Card of {f.stage_name(stage)}")
        out.append(f"<details><summary>{name} <small>{len(rows)} numbers</small></summary>{table}</details>")
    return "".join(out)


def _run(facts: Facts) -> str:
    rows = "".join(f"<div><dt>{text(name)}</dt><dd>{text(value)}</dd></div>" for name, value in f.run_facts(facts))
    hashes = "".join(
        f'<tr><th scope="row">{_breakable(name)}</th><td><code class="hash">{text(digest)}</code></td></tr>'
        for name, digest in f.data_hashes(facts)
    )
    table = _table(("Data file", "sha256"), [hashes], "Data files of this run") if hashes else ""
    return f'<dl class="facts">{rows}</dl>{table}'


def _table(head: Sequence[str], rows: Sequence[str], caption: str, kind: str = "plain") -> str:
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


def _figure(title: str, drawing: str, note: str) -> str:
    if not drawing:
        return ""
    return (
        f"<figure><figcaption><b>{text(title)}</b> <span>{text(note)}</span></figcaption><div>{drawing}</div></figure>"
    )


def _grid(figures: Sequence[str]) -> str:
    return f'<div class="figures">{"".join(figures)}</div>'


def _mark(name: str, entry: f.Entry, style: str) -> Mark:
    around = f.is_finite(entry.ci_low) and f.is_finite(entry.ci_high)
    return Mark(name, entry.value, entry.ci_low if around else None, entry.ci_high if around else None, style)


def _share(value: float) -> str:
    return f"{100 * value:.0f} %"


def _cut(row: dict) -> str:
    return "" if row.get("finished", True) else '<span class="cut" title="cut off before its end">…</span>'


def _small_unit(said: str) -> str:
    value, _, unit = said.partition(" ")
    return f"{text(value)} <small>{text(unit)}</small>" if unit else text(value)


def _breakable(name: str) -> str:
    """A long dotted name that may break after a dot or an underscore."""
    return text(name).replace(".", ".<wbr>").replace("_", "_<wbr>").replace("/", "/<wbr>")
