"""The judge between the stages: each function looks at one finished stage and writes its card.

Answers are compared on held-out prompts, whose topics occur nowhere in training; every interval resamples questions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from data.loading import load as load_records
from data.records import Prompt
from data.yardsticks import load_facts
from pipeline.adapters import BASE, POLICY, REFERENCE, SharedBase
from pipeline.evaluation import calibration, judges, yardsticks
from pipeline.evaluation.answers import AnswerRow, answer_prompts, read_answers, with_gold, with_proxy, write_answers
from pipeline.evaluation.cards import Card, Entry, estimated, write_card
from pipeline.evaluation.floors import floor_entries, word_counts
from pipeline.evaluation.policy_card import (
    answer_entries,
    best_of_entries,
    compare_entries,
    judge_entries,
    length_gain_entries,
    limit_entry,
)
from pipeline.evaluation.reward_card import (
    accuracy_entries,
    calibration_entries,
    length_entries,
    mismatch_entry,
    turn_entries,
)
from pipeline.evaluation.reward_probes import probe_answers, probe_facts
from pipeline.evaluation.rouge import reference_entries
from pipeline.evaluation.scoring import asking, kl_to_reference, response_nll, score_answers, score_rankings
from pipeline.evaluation.statistics import (
    cluster_bootstrap,
    paired_difference,
)
from pipeline.evaluation.test_model import accuracy_of_test_model, judged
from pipeline.evaluation.yardsticks import Measured
from pipeline.roles import ADAPTER, RewardEnsemble, open_base, open_test_model
from reward.bag_of_words import BagOfWords
from reward.metrics import pairs_by
from reward.rubric import gold, rubric_parts
from reward.test_model import sides

ANSWERS = "answers.jsonl"
# The moving average of the policy's adapter, a role and a folder of the PPO stage; and its answers.
EMA = "ema"
EMA_ANSWERS = "ema_answers.jsonl"


def evaluate_base(ctx) -> dict[str, float]:
    """What the model says before any training: the later comparison."""
    base = open_base(ctx.config)
    rows = answer_prompts(base, BASE, _heldout(ctx), ctx.config, samples=1, progress=ctx.progress, label="base answers")
    measured = yardsticks.measure(base, BASE, ctx.inputs["prepare"], ctx.config)
    measured.write(ctx.out)
    return _finish(ctx, "base", rows, [*answer_entries(rows, ctx.config), *measured.entries()])


def evaluate_sft(ctx) -> dict[str, float]:
    """Answers of the SFT policy, and its loss on demonstrations that it has not seen."""
    base = open_base(ctx.config)
    base.load(POLICY, ctx.inputs["sft"] / ADAPTER, trainable=False)
    rows = _sampled(ctx, base, POLICY, _heldout(ctx), "SFT answers")
    entries = answer_entries(rows, ctx.config)
    demonstrations = load_records(ctx.inputs["prepare"] / "demonstrations.test.jsonl", "messages")
    before, clusters = response_nll(base, BASE, demonstrations, ctx.config)
    after, _ = response_nll(base, POLICY, demonstrations, ctx.config)
    questions = len(set(clusters))
    entries += [
        estimated("base_heldout_nll", cluster_bootstrap(before, clusters), questions, "nats/token"),
        estimated("heldout_nll", cluster_bootstrap(after, clusters), questions, "nats/token"),
        estimated(
            "heldout_nll_change",
            paired_difference(after, before, clusters),
            questions,
            "nats/token",
            "SFT minus base on demonstrations kept out of training",
        ),
    ]
    entries += reference_entries(base, {"SFT": POLICY, "base": BASE}, demonstrations, ctx.config, ctx.progress)
    reference = read_answers(ctx.inputs["evaluate-base"] / ANSWERS)
    entries += compare_entries(rows, reference, "base")
    untrained = Measured.read(ctx.inputs["evaluate-base"])
    measured = yardsticks.measure(base, POLICY, ctx.inputs["prepare"], ctx.config)
    measured.write(ctx.out)
    entries += measured.entries(untrained, untrained, "base")
    return _finish(ctx, "sft", rows, entries)


def evaluate_reward(ctx) -> dict[str, float]:
    """Does the reward model prefer what raters prefer, on prompts and topics that it has not seen?"""
    config = ctx.config
    base = open_base(config)
    model = RewardEnsemble.open(base, ctx.inputs["reward"], config.ppo)
    observed = load_records(ctx.inputs["prepare"] / "rankings.test.jsonl", "ranked")
    scores = score_rankings(model, observed, config, ctx.progress, "scoring test rankings")
    labelled = [r.pairs() for r in observed]
    entries = accuracy_entries("observed", observed, scores, labelled)
    entries += turn_entries(observed, scores, labelled)
    bag, learnt_from = _bag_of_words(ctx)
    entries += floor_entries("observed", observed, scores, labelled, bag, learnt_from)
    heldout_file = ctx.inputs["prepare"] / "heldout_rankings.jsonl"
    heldout = load_records(heldout_file, "ranked")[: config.evaluation.limit] if heldout_file.exists() else []
    entries += calibration_entries("observed_", observed, scores, labelled)
    clean, shown = None, (observed, scores, labelled)
    if heldout and config.evaluation.gold == "rubric":
        heldout_scores = score_rankings(model, heldout, config, ctx.progress, "scoring held-out topics")
        parts = [
            [rubric_parts(r.prompt[-1].content, a, f) for a, f in zip(r.responses, r.finished, strict=True)]
            for r in heldout
        ]
        golds = [[gold(p) for p in row] for row in parts]
        clean = [pairs_by(g) for g in golds]
        entries += accuracy_entries("clean", heldout, heldout_scores, clean)
        for name in parts[0][0]:
            pairs = [pairs_by([p[name] for p in row], margin=0.2) for row in parts]
            entries += accuracy_entries(f"clean_accuracy_{name}", heldout, heldout_scores, pairs, short=True)
        length = [[-n for n in row] for row in word_counts(heldout)]
        entries += accuracy_entries("length_rule_accuracy", heldout, length, clean, short=True)
        entries += calibration_entries("", heldout, heldout_scores, clean)
        shown = (heldout, heldout_scores, clean)
        entries += length_entries(heldout, heldout_scores, golds, clean)
        entries += floor_entries("clean", heldout, heldout_scores, clean, bag, learnt_from)
        entries.append(mismatch_entry(model, heldout, golds, heldout_scores, config))
        best = [int(np.argmax(g)) for g in golds]
    else:
        # Without a rubric the raters' own first choice is the answer to spoil.
        heldout = heldout or observed
        best = [r.ranks.index(min(r.ranks)) for r in heldout]
    if config.reward.test_share:
        entries += accuracy_of_test_model(open_test_model(base, ctx.inputs["reward"]), observed, heldout, clean, ctx)
    ask = asking(model, config)
    with ctx.progress(1, "probing the reward model", unit="sets") as bar:
        entries += probe_answers(heldout, best, ask)
        facts = ctx.inputs["prepare"] / yardsticks.FACTS
        entries += probe_facts(load_facts(facts), ask) if facts.exists() else []
        bar.advance(1)
    calibration.keep(ctx.out, calibration.bins_of(*shown))
    write_card(ctx.out / "card.json", card := Card("reward", tuple(entries)))
    return card.values()


def evaluate_ppo(ctx) -> dict[str, float]:
    """Is the PPO policy better than SFT, better than picking the best of n SFT answers, and at what distance?"""
    config = ctx.config
    base = open_base(config)
    base.load(POLICY, ctx.inputs["ppo"] / ADAPTER, trainable=False)
    base.load(REFERENCE, ctx.inputs["sft"] / ADAPTER, trainable=False)
    model = RewardEnsemble.open(base, ctx.inputs["reward"], config.ppo)
    prompts = _heldout(ctx)
    rows = _sampled(ctx, base, POLICY, prompts, f"{config.learner.upper()} answers")
    sft = read_answers(ctx.inputs["evaluate-sft"] / ANSWERS)
    rows = with_proxy(rows, score_answers(model, rows, prompts, config, ctx.progress, f"scoring {config.learner.upper()} answers"))
    sft = with_proxy(sft, score_answers(model, sft, prompts, config, ctx.progress, "scoring SFT answers"))
    test_model = open_test_model(base, ctx.inputs["reward"]) if config.reward.test_share else None
    tested = []
    if test_model is not None:
        untrained = read_answers(ctx.inputs["evaluate-base"] / ANSWERS)
        rows, sft, tested = judged(test_model, untrained, sft, rows, prompts, ctx)
    write_answers(ctx.out / "sft_answers.jsonl", sft)
    entries = [*answer_entries(rows, config), *tested]
    entries += compare_entries(rows, sft, "sft")
    entries += length_gain_entries(rows, sft, entries)
    entries += best_of_entries(rows, sft, config)
    if (ctx.inputs["ppo"] / EMA).exists():
        entries += _average_entries(ctx, base, rows, sft, prompts, test_model)
    if config.judge.url:
        entries += judge_entries(rows, sft, config.judge, judges.of_config(config.judge), ctx.progress)
    kl, clusters = kl_to_reference(base, POLICY, rows, prompts, config)
    entries.append(
        estimated(
            "kl_to_reference", cluster_bootstrap(kl, clusters), len(set(clusters)), "nats/sequence", "k1, on its own answers"
        )
    )
    entries.append(limit_entry(rows, sft, float(np.mean(kl))))
    entries.append(
        Entry(
            "kl_at_start",
            _first_kl(ctx.inputs["ppo"]),
            1,
            unit="nats/sequence",
            note="in the first update, before any step",
        )
    )
    measured = yardsticks.measure(base, POLICY, ctx.inputs["prepare"], config)
    measured.write(ctx.out)
    entries += measured.entries(
        Measured.read(ctx.inputs["evaluate-base"]), Measured.read(ctx.inputs["evaluate-sft"]), "sft"
    )
    return _finish(ctx, "ppo", rows, entries)


def _sampled(ctx, base: SharedBase, role: str, prompts: Sequence[Prompt], label: str) -> list[AnswerRow]:
    """A trained policy's answers, as many to each prompt as the config says."""
    samples = ctx.config.evaluation.samples_per_prompt
    return answer_prompts(base, role, prompts, ctx.config, samples=samples, progress=ctx.progress, label=label)


def _average_entries(
    ctx, base: SharedBase, rows: Sequence[AnswerRow], sft: Sequence[AnswerRow], prompts: Sequence[Prompt], test_model
) -> list[Entry]:
    """The averaged policy beside the raw one, on the same prompts with the same chance: which of them to use is for the gold
    score or a person to say, never for the reward model."""
    config = ctx.config
    base.load(EMA, ctx.inputs["ppo"] / EMA, trainable=False)
    averaged = _sampled(ctx, base, EMA, prompts, "averaged PPO answers")
    if config.evaluation.gold == "test_model":
        averaged = with_gold(
            averaged, score_answers(test_model, averaged, prompts, config, ctx.progress, "judging averaged PPO answers")
        )
    write_answers(ctx.out / EMA_ANSWERS, averaged)
    shown = ("gold", "eos_rate", "answer_tokens")
    found = [e for e in answer_entries(averaged, config) if e.metric in shown]
    found += [e for e in compare_entries(averaged, sft, "sft") if e.metric in ("gold_minus_sft", "win_rate_vs_sft")]
    found += [e for e in compare_entries(averaged, rows, "raw") if e.metric in ("gold_minus_raw", "eos_rate_minus_raw")]
    kl, clusters = kl_to_reference(base, EMA, averaged, prompts, config)
    found.append(estimated("kl_to_reference", cluster_bootstrap(kl, clusters), len(set(clusters)), "nats/sequence"))
    note = f"by the average of the adapter, decay {config.ppo.ema_decay:g} an update"
    return [replace(e, metric=f"ema_{e.metric}", note=f"{e.note}; {note}" if e.note else note) for e in found]


def _bag_of_words(ctx) -> tuple[BagOfWords, str]:
    """Fitted on the rankings that the reward model was given, and how many these are."""
    given = load_records(ctx.inputs["prepare"] / "rankings.train.jsonl", "ranked")
    own, _ = sides(given, ctx.config.reward.test_share)
    rankings = [r for r in own if r.pairs()]
    epochs = ctx.config.reward.epochs
    read = "" if epochs >= 1 else f", of which the reward model read {epochs:.0%}"
    return BagOfWords.of_rankings(rankings), f"{len(rankings)} training lists{read}"


def _heldout(ctx) -> list[Prompt]:
    prompts = load_records(ctx.inputs["prepare"] / "heldout_prompts.jsonl", "prompts")
    return prompts[: ctx.config.evaluation.limit] if ctx.config.evaluation.limit else prompts


def _first_kl(stage: Path) -> float:
    import json

    with (stage / "log.jsonl").open(encoding="utf-8") as file:
        return float(json.loads(file.readline())["kl"])


def _finish(ctx, stage: str, rows: Sequence[AnswerRow], entries: Sequence[Entry]) -> dict[str, float]:
    write_answers(ctx.out / ANSWERS, rows)
    write_card(ctx.out / "card.json", card := Card(stage, tuple(entries)))
    return card.values()
