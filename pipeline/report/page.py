"""report.html: one file, no network, light and dark, from a phone to a wide screen.

Every text that comes from disk passes through `text()`. The page also carries a content-security policy that allows
its own one script, by hash, and no connection, so that a hole in the escaping would still do nothing.
"""

from __future__ import annotations

import base64
import hashlib
from importlib import resources

from pipeline.evaluation.cards import is_finite
from pipeline.report import markup, page_policies, page_reward, page_training, provenance, sentences, tables, wording
from pipeline.report.caveats import caveats
from pipeline.report.facts import Facts
from pipeline.report.markup import text
from pipeline.report.meanings import meaning
from pipeline.report.side_by_side import side_by_side, side_by_side_note

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
        ("gold", "Gold score", page_policies.gold(facts)),
        ("people", "What people prefer", page_policies.people(facts)),
        ("beside", "Beside the task", page_policies.beside(facts)),
        ("reward", "Reward model", page_reward.reward_model(facts)),
        ("detectors", "Failure detectors", page_training.detectors(facts)),
        ("training", "Training", page_training.training(facts)),
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
        f'{page_policies.header(facts)}\n<nav aria-label="Sections"><ul>{links}</ul></nav>\n<main>{body}</main>\n'
        f"<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )


def _stages(facts: Facts) -> str:
    rows = []
    for stage in facts.stages:
        figures = "".join(f"<li>{text(name)} <b>{text(value)}</b></li>" for name, value in tables.key_figures(facts, stage))
        judged = provenance.seconds_of(facts.evaluations.get(stage))
        judging = f"<span>+ {text(wording.duration(judged))} evaluation</span>" if is_finite(judged) else ""
        spent = provenance.seconds_of(facts.manifests.get(stage))
        gates = text(tables.gate_summary(facts, stage) or "no gate")
        rows.append(
            f'<tr><th scope="row">{text(facts.stage_name(stage))}</th>'
            f'<td class="number">{text(wording.duration(spent))}{judging}</td>'
            f'<td><ul class="figures-list">{figures}</ul></td><td>{gates}</td></tr>'
        )
    return markup.table(("Stage", "Time", "Key figures", "Gates"), rows, "The stages of this run", "stages") if rows else ""


def _gates(facts: Facts) -> str:
    if not facts.gates:
        return ""
    rows = []
    for gate in facts.gates:
        state = gate.state.replace(" ", "-")
        sign = {"passed": "✓", "missed": "✕", "accepted": "!", "warned": "!"}.get(gate.state, "·")
        rows.append(
            f'<tr><th scope="row"><code>{markup.breakable(gate.name)}</code><span>{text(meaning(gate, facts))}</span></th>'
            f'<td class="number"><b>{text(wording.gate_value(gate))}</b><span>{text(wording.interval(gate.result))}</span></td>'
            f'<td class="number">{text(wording.bound(gate.result))}</td>'
            f'<td><span class="state {state}"><i aria-hidden="true">{sign}</i>{text(gate.state)}</span></td></tr>'
        )
    said = "".join(
        f"<li>{text(g.result.problem)}{f' <b>Accepted: {text(g.why)}</b>' if g.why else ''}</li>"
        for g in facts.gates
        if g.result.problem
    )
    table = markup.table(
        ("Gate", "Value and 95 % interval", "Bound", "Result"), rows, "Bounds that the run had to hold", "gates"
    )
    return table + (f'<ul class="problems">{said}</ul>' if said else "")


def _doubts(facts: Facts) -> str:
    said = "".join(f"<li>{text(line)}</li>" for line in caveats(facts))
    return f'<ul class="doubts">{said}</ul>' if said else ""


def _answers(facts: Facts) -> str:
    found = side_by_side(facts)
    if not found:
        return ""
    cards = []
    for pair in found:
        answers = "".join(
            f'<div class="answer p-{policy}"><h4>{text(facts.stage_name(policy))} '
            f"<small>{text(sentences.answer_note(row))}</small></h4>"
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
    return f'<p class="intro">{text(side_by_side_note(facts))}</p>{search}{"".join(cards)}'


def _cut(row: dict) -> str:
    return "" if row.get("finished", True) else '<span class="cut" title="cut off before its end">…</span>'


def _all_numbers(facts: Facts) -> str:
    out = []
    for stage, card in facts.cards.items():
        rows = [
            f'<tr><th scope="row"><code>{markup.breakable(e.metric)}</code></th>'
            f'<td class="number"><b>{text(wording.figure(e))}</b><span>{text(wording.interval(e))}</span></td>'
            f'<td class="number">{e.n}</td><td>{text(e.note)}</td></tr>'
            for e in card.entries
        ]
        name = text(facts.stage_name(stage))
        table = markup.table(("Metric", "Value and 95 % interval", "n", "Note"), rows, f"Card of {facts.stage_name(stage)}")
        out.append(f"<details><summary>{name} <small>{len(rows)} numbers</small></summary>{table}</details>")
    return f'<p class="intro">{text(sentences.COUNTED)}</p>{"".join(out)}' if out else ""


def _run(facts: Facts) -> str:
    rows = "".join(f"<div><dt>{text(name)}</dt><dd>{text(value)}</dd></div>" for name, value in provenance.run_facts(facts))
    hashes = "".join(
        f'<tr><th scope="row">{markup.breakable(name)}</th><td><code class="hash">{text(digest)}</code></td></tr>'
        for name, digest in provenance.data_hashes(facts)
    )
    table = markup.table(("Data file", "sha256"), [hashes], "Data files of this run") if hashes else ""
    return f'<dl class="facts">{rows}</dl>{table}'
