"""Sections about the policies: the header, the gold score, people, and what stands beside the task."""

from __future__ import annotations

import math

from data.numbers import many
from pipeline.evaluation.standings_words import NOTE, p_value
from pipeline.report import charts, markup, sentences, tables, wording
from pipeline.report.facts import POLICIES, Facts
from pipeline.report.marks import Line, key
from pipeline.report.markup import text


def header(facts: Facts) -> str:
    marks = [
        (facts.stage_name(p), [markup.mark(facts.stage_name(p), entry, p)])
        for p in ("base", "sft")
        if (entry := facts.entry(p, "gold"))
    ]
    marks += [(f"Best of {n}", [markup.mark(f"best of {n}", gold, "best")]) for n, gold, _ in facts.best_of()]
    if ppo := facts.entry("ppo", "gold"):
        marks.append((facts.learner, [markup.mark(facts.learner, ppo, "ppo")]))
    if averaged := facts.entry("ppo", "ema_gold"):
        marks.append(("PPO (EMA)", [markup.mark("PPO, averaged over its updates", averaged, "ppo")]))
    figure = markup.figure(
        "Gold score on held-out prompts",
        charts.interval_rows("Gold score on held-out prompts", marks, show=wording.number, label_width=70),
        f"Mean with 95 % interval over questions. The {'test model' if sentences.by_test_model(facts) else 'rubric'} stands in for people.",
    )
    verdict = text(sentences.verdict(facts)).replace(" %", "&nbsp;%")
    return (
        f'<header><p class="eyebrow">Run report · {text(facts.run)}</p><h1>{verdict}</h1>'
        f'<div class="lead">{_tiles(facts)}{figure}</div></header>'
    )


def _tiles(facts: Facts) -> str:
    chosen = [
        ("ppo", "gold_minus_sft", "Gold over SFT"),
        ("ppo", "gold_minus_best_of_2", "Gold over best of 2"),
        ("ppo", "kl_to_reference", "KL to the reference"),
        ("ppo", "eos_rate", f"Finished answers, {facts.learner}"),
    ]
    if not facts.entry("ppo", "gold"):
        chosen = [("sft", "gold_minus_base", "Gold over base"), ("sft", "eos_rate", "Finished answers, SFT")]
    chosen.append(("reward", "clean_accuracy", "Reward-model accuracy"))
    tiles = [(name, entry) for stage, metric, name in chosen if (entry := facts.entry(stage, metric))]
    cells = "".join(
        f"<div><dt>{text(name)}</dt><dd><b>{markup.small_unit(wording.figure(entry))}</b>"
        f"<span>{text(wording.interval(entry) or 'no interval')}</span></dd></div>"
        for name, entry in tiles
    )
    return f'<dl class="tiles">{cells}</dl>' if cells else ""


def gold(facts: Facts) -> str:
    policies = [p for p in POLICIES if facts.entry(p, "gold")]
    parts = dict.fromkeys(part for p in policies for part in facts.parts(p, "gold_"))
    rows = [
        (
            part.replace("_", " "),
            [markup.mark(facts.stage_name(p), entry, p) for p in policies if (entry := facts.entry(p, f"gold_{part}"))],
        )
        for part in parts
    ]
    figures = []
    if rows:
        legend = key([(facts.stage_name(p), p) for p in policies])
        shares = all(
            facts.entry(p, f"gold_{part}").unit == "share" for p in policies for part in facts.parts(p, "gold_")
        )
        show = markup.share if shares else wording.number
        chart = charts.interval_rows("Gold score part by part", rows, show=show, bounds=(0, 1) if shares else (0, None))
        figures.append(markup.figure("Part by part", legend + chart, "Each part of the gold score with its 95 % interval."))
    gamed = (
        "The same answers by the reward model, which PPO raises. Where this climbs and gold does not, it is being gamed."
        if facts.learner == "PPO"
        else "The same answers by the reward model, which nothing raises here."
    )
    for by, score, title, note in (
        ("gold", "Gold score", "Beside best-of-n", sentences.BEST_OF_NOTE),
        ("proxy", "Reward-model score", "… by the reward model", gamed),
    ):
        if points := tables.frontier_points(facts, by):
            chart = charts.frontier(
                f"{score} against distance from SFT",
                [(kl, markup.mark(name, value, style)) for name, style, kl, value in points],
                x_name="KL to SFT in nats a sequence (axis in √KL)",
                show=wording.number,
            )
            figures.append(markup.figure(title, chart, note))
    figures += markup.clouds_figure(
        "Reward-model score against gold",
        "Gold score against reward-model score",
        tables.proxy_and_gold(facts),
        stage_name=facts.stage_name,
        x_name="reward-model score",
        note="One speck a prompt, means marked. Moving right without moving up would be reward hacking.",
    )
    about = " ".join(filter(None, (sentences.gold_note(facts), sentences.parts_note(facts))))
    return f'<p class="intro">{text(about)}</p>{markup.grid(figures)}' if figures else ""


def people(facts: Facts) -> str:
    found = tables.people_pairs(facts)
    if not found:
        return ""
    rows = [
        f'<tr><th scope="row">{text(name)}</th>'
        f'<td class="number"><b>{text(wording.figure(rate))}</b><span>{text(wording.interval(rate) or "no interval")}</span></td>'
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
        markup.figure(
            "Preferred",
            charts.interval_rows(
                "Share of blind votes",
                [(name, [markup.mark(name, rate, style_of(p.first))]) for name, p, rate in found],
                show=markup.share,
                reference=0.5,
                reference_name="even",
                bounds=(0, 1),
                label_width=wide,
            ),
            "Share of the blind votes that the first one won, with 95 % intervals.",
        )
    ]
    for group in tables.people_places(facts):
        chart = charts.interval_rows(
            "Places by people's votes",
            [(name, [markup.mark(name, at, style_of(name))]) for name, at in group],
            show=lambda points: f"{points:+.0f}".replace("-", "−"),
            reference=0.0,
            reference_name="mean",
            label_width=112,
        )
        figures.append(markup.figure("Places", chart, "By Bradley-Terry, in points of Elo: 400 are odds of 10 to 1."))
    table = markup.table(head, rows, "Blind votes between checkpoints", "people")
    how = f'<p class="intro">{text(NOTE)}</p>'
    return f'<p class="intro">{text(sentences.people_note(facts))}</p>{markup.grid(figures)}{table}{how}'


def style_of(checkpoint: str) -> str:
    """The colour of a stage, as in the other charts; of a round's assistant or another run's the plain one."""
    return checkpoint if checkpoint in POLICIES else "ink"


def beside(facts: Facts) -> str:
    """What the training did to things that it did not pay for."""
    figures = []
    ratios = [
        (facts.stage_name(p), [markup.mark(facts.stage_name(p), entry, p)])
        for p in ("sft", "ppo")
        if (entry := facts.entry(p, "general_perplexity_ratio"))
    ]
    if ratios:
        chart = charts.interval_rows(
            "Perplexity of ordinary text over the base model's",
            ratios,
            show=wording.number,
            reference=1.0,
            reference_name="base",
        )
        before = facts.entry("base", "general_perplexity")
        level = f" The base model has {wording.number(before.value)}." if before else ""
        note = f"Of ordinary text, over the base model’s, with 95 % intervals over paragraphs.{level}"
        figures.append(markup.figure("Perplexity", chart, note))
    shares = tables.beside_rows(facts)
    if shares:
        rows = [(said, [markup.mark(facts.stage_name(p), e, p) for p, e in marks]) for said, marks in shares]
        legend = key([(facts.stage_name(p), p) for p, _ in shares[0][1]])
        chart = charts.interval_rows("A wrong answer is preferred", rows, show=markup.share, label_width=104)
        note = "Share of questions on which the wrong of two replies is the more probable one."
        figures.append(markup.figure("Preferring a wrong answer", legend + chart, note))
    alike = [
        (facts.stage_name(p), [markup.mark(facts.stage_name(p), entry, p)])
        for p in POLICIES
        if (entry := facts.entry(p, "self_bleu"))
    ]
    if alike:
        chart = charts.interval_rows("Self-BLEU", alike, show=wording.number, bounds=(0, None))
        note = "How alike a policy’s answers to different prompts are: 0 shares no phrase, 1 says the same to everybody."
        figures.append(markup.figure("Sameness of answers", chart, note))
    probes = facts.watched.get("probes", [])
    if len(probes) > 1:
        xs = [float(p["update"]) for p in probes]
        if probes[0]["nll"]:
            ys = [math.exp(sum(p["nll"]) / p["tokens"]) for p in probes]
            chart = charts.line_chart(
                f"Perplexity while {facts.learner} ran", [Line("perplexity", xs, ys, "ppo")], x_name="update", show=wording.number
            )
            note = f"On {len(probes[0]['nll'])} of the texts, at every look; the first is SFT’s."
            figures.append(markup.figure(f"Perplexity while {facts.learner} ran", chart, note))
    return f'<p class="intro">{text(sentences.BESIDE_NOTE)}</p>{markup.grid(figures)}' if figures else ""
