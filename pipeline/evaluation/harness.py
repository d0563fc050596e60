"""The judge between the stages: each function looks at one finished stage and writes its card.

Answers are compared on held-out prompts, whose topics occur nowhere in training; every interval resamples prompts.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from data.loading import load as load_records
from data.records import Demonstration, Prompt, Ranking
from data.yardsticks import load_facts
from pipeline.adapters import BASE, POLICY, REFERENCE, SharedBase
from pipeline.evaluation import judges, yardsticks
from pipeline.evaluation.answers import AnswerRow, answer_prompts, read_answers, with_gold, with_proxy, write_answers
from pipeline.evaluation.cards import Card, Entry, write_card
from pipeline.evaluation.comparisons import length_controlled_win_rate
from pipeline.evaluation.diversity import self_bleu_change, self_bleu_entry
from pipeline.evaluation.floors import floor_entries
from pipeline.evaluation.judges import Comparison
from pipeline.evaluation.length import normalised_reward_gain
from pipeline.evaluation.likelihood import token_logprobs_of
from pipeline.evaluation.metrics import Answer, measure
from pipeline.evaluation.reward_card import calibration_entries, length_entries, turn_entries
from pipeline.evaluation.reward_probes import Asked, probe_answers, probe_facts
from pipeline.evaluation.statistics import (
    best_of_n_expectation,
    best_of_n_kl,
    cluster_bootstrap,
    fit_temperature,
    pair_ece,
    paired_difference,
    win_rate,
    wins,
)
from pipeline.evaluation.yardsticks import Measured
from pipeline.roles import ADAPTER, RewardEnsemble, RewardModel, open_base, open_test_model
from pipeline.template import prompt_ids, response_ids
from reward.bag_of_words import BagOfWords
from reward.metrics import margins, pair_outcomes, pairs_by
from reward.rubric import gold, rubric_parts
from reward.test_model import is_for_test_model

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
    return _finish(ctx, "base", rows, [*_answer_entries(rows, ctx.config), *measured.entries()])


def evaluate_sft(ctx) -> dict[str, float]:
    """Answers of the SFT policy, and its loss on demonstrations that it has not seen."""
    base = open_base(ctx.config)
    base.load(POLICY, ctx.inputs["sft"] / ADAPTER, trainable=False)
    rows = _sampled(ctx, base, POLICY, _heldout(ctx), "SFT answers")
    entries = _answer_entries(rows, ctx.config)
    demonstrations = load_records(ctx.inputs["prepare"] / "demonstrations.test.jsonl", "messages")
    before, clusters = _nll(base, BASE, demonstrations, ctx.config)
    after, _ = _nll(base, POLICY, demonstrations, ctx.config)
    entries += [
        _entry("base_heldout_nll", cluster_bootstrap(before, clusters), len(demonstrations), "nats/token"),
        _entry("heldout_nll", cluster_bootstrap(after, clusters), len(demonstrations), "nats/token"),
        _entry(
            "heldout_nll_change",
            paired_difference(after, before, clusters),
            len(demonstrations),
            "nats/token",
            "SFT minus base on demonstrations kept out of training",
        ),
    ]
    reference = read_answers(ctx.inputs["evaluate-base"] / ANSWERS)
    entries += _compare(rows, reference, "base")
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
    scores = _score_rankings(model, observed, config, ctx.progress, "scoring test rankings")
    labelled = [r.pairs() for r in observed]
    entries = _accuracy_entries("observed", observed, scores, labelled)
    entries += turn_entries(observed, scores, labelled)
    bag, learnt_from = _bag_of_words(ctx)
    entries += floor_entries("observed", observed, scores, labelled, bag, learnt_from)
    heldout_file = ctx.inputs["prepare"] / "heldout_rankings.jsonl"
    heldout = load_records(heldout_file, "ranked")[: config.evaluation.limit] if heldout_file.exists() else []
    entries += calibration_entries("observed_", observed, scores, labelled)
    if heldout and config.evaluation.gold == "rubric":
        heldout_scores = _score_rankings(model, heldout, config, ctx.progress, "scoring held-out topics")
        parts = [
            [rubric_parts(r.prompt[-1].content, a, f) for a, f in zip(r.responses, r.finished, strict=True)]
            for r in heldout
        ]
        golds = [[gold(p) for p in row] for row in parts]
        entries += _accuracy_entries("clean", heldout, heldout_scores, [pairs_by(g) for g in golds])
        for name in parts[0][0]:
            pairs = [pairs_by([p[name] for p in row], margin=0.2) for row in parts]
            entries += _accuracy_entries(f"clean_accuracy_{name}", heldout, heldout_scores, pairs, short=True)
        length = [[-len(a.split()) for a in r.responses] for r in heldout]
        entries += _accuracy_entries("length_rule_accuracy", heldout, length, [pairs_by(g) for g in golds], short=True)
        pairs = [pairs_by(g) for g in golds]
        entries += calibration_entries("", heldout, heldout_scores, pairs)
        entries += length_entries(heldout, heldout_scores, golds, pairs)
        entries += floor_entries("clean", heldout, heldout_scores, pairs, bag, learnt_from)
        entries.append(_mismatch_entry(model, heldout, golds, heldout_scores, config))
        best = [int(np.argmax(g)) for g in golds]
    else:
        # Without a rubric the raters' own first choice is the answer to spoil.
        heldout = heldout or observed
        best = [r.ranks.index(min(r.ranks)) for r in heldout]
    if config.reward.test_share:
        entries += _test_model_entries(open_test_model(base, ctx.inputs["reward"]), observed, heldout, ctx)
    ask = _asking(model, config)
    with ctx.progress(1, "probing the reward model", unit="sets") as bar:
        entries += probe_answers(heldout, best, ask)
        facts = ctx.inputs["prepare"] / yardsticks.FACTS
        entries += probe_facts(load_facts(facts), ask) if facts.exists() else []
        bar.advance(1)
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
    rows = _sampled(ctx, base, POLICY, prompts, "PPO answers")
    sft = read_answers(ctx.inputs["evaluate-sft"] / ANSWERS)
    rows = with_proxy(rows, _score_answers(model, rows, prompts, config, ctx.progress, "scoring PPO answers"))
    sft = with_proxy(sft, _score_answers(model, sft, prompts, config, ctx.progress, "scoring SFT answers"))
    test_model = open_test_model(base, ctx.inputs["reward"]) if config.reward.test_share else None
    tested = []
    if test_model is not None:
        untrained = read_answers(ctx.inputs["evaluate-base"] / ANSWERS)
        rows, sft, tested = _by_test_model(test_model, untrained, sft, rows, prompts, ctx)
    write_answers(ctx.out / "sft_answers.jsonl", sft)
    entries = [*_answer_entries(rows, config), *tested]
    entries += _compare(rows, sft, "sft")
    entries += _length_entries(rows, sft, entries)
    entries += _best_of_entries(rows, sft, config)
    if (ctx.inputs["ppo"] / EMA).exists():
        entries += _average_entries(ctx, base, rows, sft, prompts, test_model)
    if config.judge.url:
        entries += _judge_entries(rows, sft, config.judge, judges.of_config(config.judge), ctx.progress)
    kl, clusters = _kl_to_reference(base, POLICY, rows, prompts, config)
    entries.append(
        _entry(
            "kl_to_reference", cluster_bootstrap(kl, clusters), len(prompts), "nats/sequence", "k1, on its own answers"
        )
    )
    entries.append(_limit_entry(rows, sft, float(np.mean(kl))))
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


# -- parts of a card -------------------------------------------------------------------------------------------------------


def _answer_entries(rows: Sequence[AnswerRow], config) -> list[Entry]:
    """Figures of a policy's answers by themselves."""
    clusters = [r.prompt_id for r in rows]
    prompts = len(set(clusters))
    entries = []
    if rows[0].gold is not None:
        entries.append(_entry("gold", cluster_bootstrap([r.gold for r in rows], clusters), prompts, _unit(rows)))
        for name in rows[0].parts or ():
            entries.append(
                _entry(f"gold_{name}", cluster_bootstrap([r.parts[name] for r in rows], clusters), prompts, "share")
            )
    if rows[0].proxy is not None:
        entries.append(_entry("proxy", cluster_bootstrap([r.proxy for r in rows], clusters), prompts, "reward"))
    entries.append(_entry("eos_rate", cluster_bootstrap([float(r.finished) for r in rows], clusters), prompts, "share"))
    entries.append(
        _entry("answer_tokens", cluster_bootstrap([float(r.tokens) for r in rows], clusters), prompts, "tokens")
    )
    done = {e.metric for e in entries}
    for name, value in measure([Answer(r.answer, r.finished, r.tokens) for r in rows]).items():
        if name not in done:
            entries.append(Entry(name, value, len(rows)))
    entries.append(self_bleu_entry(rows))
    return entries


def _compare(rows: Sequence[AnswerRow], other: Sequence[AnswerRow], name: str) -> list[Entry]:
    """Differences per prompt; each side's samples are averaged first."""
    entries = []
    own, theirs = _by_prompt(rows), _by_prompt(other)
    prompts = [p for p in own if p in theirs]
    if rows[0].gold is not None:
        a = [float(np.mean([r.gold for r in own[p]])) for p in prompts]
        b = [float(np.mean([r.gold for r in theirs[p]])) for p in prompts]
        entries.append(_entry(f"gold_minus_{name}", paired_difference(a, b, prompts), len(prompts), _unit(rows)))
        for part in rows[0].parts or ():
            a = [float(np.mean([r.parts[part] for r in own[p]])) for p in prompts]
            b = [float(np.mean([r.parts[part] for r in theirs[p]])) for p in prompts]
            entries.append(_entry(f"gold_{part}_minus_{name}", paired_difference(a, b, prompts), len(prompts), "share"))
        pairs = [(x.gold, y.gold, p) for p in prompts for x in own[p] for y in theirs[p]]
        a, b, clusters = (list(column) for column in zip(*pairs, strict=True))
        entries.append(
            _entry(
                f"win_rate_vs_{name}",
                win_rate(a, b, clusters),
                len(prompts),
                "share",
                f"by the {'rubric' if rows[0].parts else 'test model'}; a tie counts half",
            )
        )
        longer = [x.tokens - y.tokens for p in prompts for x in own[p] for y in theirs[p]]
        entries.append(
            _entry(
                f"lc_win_rate_vs_{name}",
                length_controlled_win_rate(wins(a, b), longer, clusters),
                len(prompts),
                "share",
                "the same at equal length, by a logistic model",
            )
        )
    a = [float(np.mean([r.finished for r in own[p]])) for p in prompts]
    b = [float(np.mean([r.finished for r in theirs[p]])) for p in prompts]
    entries.append(_entry(f"eos_rate_minus_{name}", paired_difference(a, b, prompts), len(prompts), "share"))
    d = [
        measure([Answer(r.answer, r.finished, r.tokens) for r in _same_count(side, prompts)], ["distinct_2"])[
            "distinct_2"
        ]
        for side in (own, theirs)
    ]
    entries.append(
        Entry(
            f"distinct_2_ratio_{name}" if name != "sft" else "distinct_2_ratio",
            d[0] / d[1] if d[1] else math.nan,
            len(prompts),
            note=f"over {name}'s, one answer a prompt on both sides",
        )
    )
    entries.append(self_bleu_change(rows, other, name))
    return entries


def _unit(rows: Sequence[AnswerRow]) -> str:
    """Of the gold score: the rubric's points, or the test model's reward in spreads of its training answers."""
    return "points" if rows[0].parts else "reward"


def _by_test_model(
    model: RewardModel,
    untrained: Sequence[AnswerRow],
    sft: Sequence[AnswerRow],
    rows: Sequence[AnswerRow],
    prompts: Sequence[Prompt],
    ctx,
) -> tuple[list[AnswerRow], list[AnswerRow], list[Entry]]:
    """PPO's and SFT's answers, with the test model's score as their gold score where the config says so; and its verdict.

    The base model's and SFT's own cards were written before there was a test model: their means stand on PPO's card.
    """
    config = ctx.config
    scored = {
        name: _score_answers(model, answers, prompts, config, ctx.progress, f"test model on {name} answers")
        for name, answers in (("base", untrained), ("SFT", sft), ("PPO", rows))
    }
    judges = config.evaluation.gold == "test_model"
    name = "gold" if judges else "test_model"
    entries = []
    for policy, answers in (("base", untrained), ("SFT", sft), ("PPO", rows)):
        clusters = [r.prompt_id for r in answers]
        metric = name if policy == "PPO" else f"{policy.lower()}_{name}"
        estimate = cluster_bootstrap(scored[policy], clusters)
        entries.append(_entry(metric, estimate, len(set(clusters)), "reward", "by the test model, which PPO does not raise"))
    if judges:
        # PPO's own is among the figures of its answers, and in the differences.
        return with_gold(rows, scored["PPO"]), with_gold(sft, scored["SFT"]), entries[:2]
    own, theirs = (
        _by_prompt(with_gold(side, scored[policy])) for side, policy in ((rows, "PPO"), (sft, "SFT"))
    )
    a, b = ([float(np.mean([r.gold for r in side[p]])) for p in own] for side in (own, theirs))
    entries.append(_entry("test_model_minus_sft", paired_difference(a, b, list(own)), len(own), "reward"))
    return list(rows), list(sft), entries


def _same_count(side: dict[str, list[AnswerRow]], prompts: Sequence[str]) -> list[AnswerRow]:
    """One answer a prompt: distinct-n falls with the amount of text, so both sides must hold as much."""
    return [side[p][0] for p in prompts]


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
            averaged, _score_answers(test_model, averaged, prompts, config, ctx.progress, "judging averaged PPO answers")
        )
    write_answers(ctx.out / EMA_ANSWERS, averaged)
    shown = ("gold", "eos_rate", "answer_tokens")
    found = [e for e in _answer_entries(averaged, config) if e.metric in shown]
    found += [e for e in _compare(averaged, sft, "sft") if e.metric in ("gold_minus_sft", "win_rate_vs_sft")]
    found += [e for e in _compare(averaged, rows, "raw") if e.metric in ("gold_minus_raw", "eos_rate_minus_raw")]
    kl, clusters = _kl_to_reference(base, EMA, averaged, prompts, config)
    found.append(_entry("kl_to_reference", cluster_bootstrap(kl, clusters), len(prompts), "nats/sequence"))
    note = f"by the average of the adapter, decay {config.ppo.ema_decay:g} an update"
    return [replace(e, metric=f"ema_{e.metric}", note=f"{e.note}; {note}" if e.note else note) for e in found]


def _length_entries(rows: Sequence[AnswerRow], sft: Sequence[AnswerRow], entries: Sequence[Entry]) -> list[Entry]:
    """Is the gain a matter of length? And is the gain in reward one that this distance from SFT can give?"""
    prompts = len({r.prompt_id for r in rows})
    sides = [[(r.prompt_id, r.tokens, r.proxy) for r in side] for side in (rows, sft)]
    gain, shared = normalised_reward_gain(*sides)
    note = (
        f"share of the reward gained between answers of like length; {shared:.0%} of answers lie in shared buckets"
        if math.isfinite(gain.value)
        else "the reward did not rise, or no answers are of like length"
    )
    out = [_entry("normalised_reward_gain", gain, prompts, "share", note)]
    by_name = {e.metric: e for e in entries}
    raw, level = by_name.get("win_rate_vs_sft"), by_name.get("lc_win_rate_vs_sft")
    if raw and level:
        note = "length-controlled less raw win rate: what length adds to it counts against it"
        out.append(Entry("lc_minus_raw_win_rate", level.value - raw.value, prompts, unit="share", note=note))
    return out


def _best_of_entries(rows: Sequence[AnswerRow], sft: Sequence[AnswerRow], config) -> list[Entry]:
    """Best-of-n by the same reward model: what one gets without any training, at n times the cost of an answer."""
    entries = []
    own, pool = _by_prompt(rows), _by_prompt(sft)
    for n in config.evaluation.best_of:
        prompts = [p for p, answers in pool.items() if len(answers) >= n and p in own]
        if not prompts or rows[0].gold is None:
            continue
        best = [best_of_n_expectation([r.proxy for r in pool[p]], [r.gold for r in pool[p]], n) for p in prompts]
        proxy = [best_of_n_expectation([r.proxy for r in pool[p]], [r.proxy for r in pool[p]], n) for p in prompts]
        mine = [float(np.mean([r.gold for r in own[p]])) for p in prompts]
        entries += [
            _entry(
                f"best_of_{n}_gold",
                cluster_bootstrap(best, prompts),
                len(prompts),
                _unit(rows),
                "of SFT answers, chosen by the reward model",
            ),
            _entry(f"best_of_{n}_proxy", cluster_bootstrap(proxy, prompts), len(prompts), "reward"),
            Entry(f"best_of_{n}_kl", best_of_n_kl(n), len(prompts), unit="nats/sequence", note="ln n − (n−1)/n"),
            _entry(f"gold_minus_best_of_{n}", paired_difference(mine, best, prompts), len(prompts), _unit(rows)),
        ]
    before = [float(np.mean([r.proxy for r in pool[p]])) for p in own]
    entries.append(_entry("sft_proxy", cluster_bootstrap(before, list(own)), len(own), "reward"))
    return entries


def _limit_entry(rows: Sequence[AnswerRow], sft: Sequence[AnswerRow], kl: float) -> Entry:
    """Gain in reward over σ √(2 KL), which no policy can exceed where SFT's rewards are sub-Gaussian with parameter σ.

    From E_π[r] − E_ref[r] ≤ σ √(2 KL(π ‖ ref)) (Donsker & Varadhan); the standard deviation stands in for σ. Above 1 the KL or
    the scoring is wrong.
    """
    gain = float(np.mean([r.proxy for r in rows]) - np.mean([r.proxy for r in sft]))
    limit = float(np.std([r.proxy for r in sft])) * math.sqrt(2 * max(0.0, kl))
    note = "reward gained over σ √(2 KL); above 1 the KL or the scoring is wrong"
    return Entry(
        "gain_over_limit", gain / limit if limit > 0 else math.nan, len({r.prompt_id for r in rows}), note=note
    )


def _judge_entries(rows: Sequence[AnswerRow], sft: Sequence[AnswerRow], judge, ask, progress) -> list[Entry]:
    """A language model's comparison of PPO with SFT, one answer a prompt, in both orders; and how far to trust it."""
    own, theirs = _by_prompt(rows), _by_prompt(sft)
    prompts = [p for p in own if p in theirs][: judge.prompts]
    pairs = [Comparison(own[p][0].prompt, own[p][0].answer, theirs[p][0].answer) for p in prompts]
    with progress(len(pairs), "judging", unit="comparisons") as bar:
        found = judges.judge(pairs, ask, on_done=bar.advance)
    kept = [(p, outcome) for p, outcome in zip(prompts, found.outcomes, strict=True) if outcome is not None]
    counted = (
        f"{len(kept)} of {len(pairs)} comparisons: {found.inconsistent} changed with the order, {found.refused} refused"
    )
    entries = [
        Entry("judge_first_share", found.first_share, len(pairs), unit="share", note="without a bias of place 50 %"),
        Entry("judge_agreement", found.agreement, len(pairs), unit="share", note="with itself, in the other order"),
        Entry("judge_refused_share", found.refused / len(pairs), len(pairs), unit="share"),
    ]
    if not kept:
        return [Entry("judge_win_rate_vs_sft", math.nan, 0, unit="share", note=counted), *entries]
    names, outcomes = zip(*kept, strict=True)
    longer = [own[p][0].tokens - theirs[p][0].tokens for p in names]
    level = length_controlled_win_rate(outcomes, longer, names)
    return [
        _entry("judge_win_rate_vs_sft", cluster_bootstrap(outcomes, names), len(kept), "share", counted),
        _entry("judge_lc_win_rate_vs_sft", level, len(kept), "share", "the same at equal length, by a logistic model"),
        *entries,
    ]


def _accuracy_entries(label: str, rankings: Sequence[Ranking], scores, pairs, *, short: bool = False) -> list[Entry]:
    """Pair accuracy with an interval over prompts; calibration and margin too unless `short`."""
    outcomes = [(o, r.id) for r, s, p in zip(rankings, scores, pairs, strict=True) for o in pair_outcomes(s, p)]
    name = label if short else f"{label}_accuracy"
    if not outcomes:
        return [Entry(name, math.nan, 0, unit="share", note="no pair to compare")]
    values, clusters = zip(*outcomes, strict=True)
    entry = _entry(name, cluster_bootstrap(values, clusters), len(set(clusters)), "share", f"{len(values)} pairs")
    if short:
        return [entry]
    gaps = [m for s, p in zip(scores, pairs, strict=True) for m in margins(s, p)]
    prefix = "" if label == "clean" else f"{label}_"
    return [
        entry,
        Entry(f"{prefix}pairs", len(values), len(set(clusters))),
        Entry(f"{prefix}mean_margin", float(np.mean(gaps)), len(set(clusters)), unit="reward"),
        Entry(f"{prefix}ece", pair_ece(gaps), len(set(clusters)), unit="share", note="10 equal-mass bins of |margin|"),
        Entry(
            f"{prefix}temperature",
            fit_temperature(gaps),
            len(set(clusters)),
            note="margins divided by it are calibrated",
        ),
    ]


def _test_model_entries(
    model: RewardModel, observed: Sequence[Ranking], heldout: Sequence[Ranking], ctx
) -> list[Entry]:
    """Accuracy of the test model: a judge at chance is no judge."""
    config = ctx.config
    scores = _score_rankings(model, observed, config, ctx.progress, "test model on test rankings")
    entries = _accuracy_entries("test_model_accuracy", observed, scores, [r.pairs() for r in observed], short=True)
    if config.evaluation.gold == "rubric" and heldout:
        scores = _score_rankings(model, heldout, config, ctx.progress, "test model on held-out topics")
        golds = [
            [gold(rubric_parts(r.prompt[-1].content, a, f)) for a, f in zip(r.responses, r.finished, strict=True)]
            for r in heldout
        ]
        pairs = [pairs_by(g) for g in golds]
        entries += _accuracy_entries("test_model_clean_accuracy", heldout, scores, pairs, short=True)
    return entries


def _bag_of_words(ctx) -> tuple[BagOfWords, str]:
    """Fitted on the rankings that the reward model was given, and how many these are."""
    share = ctx.config.reward.test_share
    given = load_records(ctx.inputs["prepare"] / "rankings.train.jsonl", "ranked")
    rankings = [r for r in given if r.pairs() and not is_for_test_model(r.prompt, share)]
    epochs = ctx.config.reward.epochs
    read = "" if epochs >= 1 else f", of which the reward model read {epochs:.0%}"
    return BagOfWords.of_rankings(rankings), f"{len(rankings)} training lists{read}"


def _mismatch_entry(model: RewardEnsemble, rankings: Sequence[Ranking], golds, scores, config) -> Entry:
    """How often the best answer to a prompt beats the best answer to another prompt: does the model read the question?"""
    best = [int(np.argmax(g)) for g in golds]
    answers = [(r.responses[i], r.finished[i]) for r, i in zip(rankings, best, strict=True)]
    shift = max(1, len(rankings) // 2)
    swapped = answers[shift:] + answers[:shift]
    other = model.score_all(
        [_conversation(model.base, r.prompt, *a, config) for r, a in zip(rankings, swapped, strict=True)]
    )
    values = [(s[i] > o) + 0.5 * (s[i] == o) for s, i, o in zip(scores, best, other, strict=True)]
    return _entry(
        "wrong_prompt_accuracy",
        cluster_bootstrap(values, [r.id for r in rankings]),
        len(rankings),
        "share",
        "own best answer against another prompt's best",
    )


# -- measuring -------------------------------------------------------------------------------------------------------------


def _heldout(ctx) -> list[Prompt]:
    prompts = load_records(ctx.inputs["prepare"] / "heldout_prompts.jsonl", "prompts")
    return prompts[: ctx.config.evaluation.limit] if ctx.config.evaluation.limit else prompts


def _conversation(base: SharedBase, prompt, answer: str, finished: bool, config) -> list[int]:
    ids = prompt_ids(
        base.tokenizer, prompt, system_prompt=config.model.system_prompt, max_tokens=config.data.max_prompt_tokens
    )
    return ids + response_ids(base.tokenizer, answer, finished=finished)


def _asking(model: RewardEnsemble, config):
    """The reward model as the probes ask it."""

    def ask(asked: Sequence[Asked]) -> list[float]:
        return model.score_all([_conversation(model.base, a.prompt, a.answer, a.finished, config) for a in asked])

    return ask


def _score_rankings(
    model: RewardEnsemble, rankings: Sequence[Ranking], config, progress, label: str
) -> list[list[float]]:
    tokenizer = model.base.tokenizer
    lists = [
        (
            prompt_ids(
                tokenizer, r.prompt, system_prompt=config.model.system_prompt, max_tokens=config.data.max_prompt_tokens
            ),
            [response_ids(tokenizer, a, finished=f) for a, f in zip(r.responses, r.finished, strict=True)],
        )
        for r in rankings
    ]
    with progress(len(lists), label, unit="rankings") as bar:
        return model.score_lists(lists, on_batch=bar.advance)


def _score_answers(
    model: RewardEnsemble, rows: Sequence[AnswerRow], prompts: Sequence[Prompt], config, progress, label: str
) -> list[float]:
    ids = _prompt_ids_by_id(model.base, prompts, config)
    with progress(len(rows), label, unit="answers") as bar:
        return model.score_all([[*ids[r.prompt_id], *r.ids] for r in rows], on_batch=bar.advance)


def _prompt_ids_by_id(base: SharedBase, prompts: Sequence[Prompt], config) -> dict[str, list[int]]:
    return {
        p.id: prompt_ids(
            base.tokenizer,
            p.messages,
            system_prompt=config.model.system_prompt,
            max_tokens=config.data.max_prompt_tokens,
        )
        for p in prompts
    }


def _nll(base: SharedBase, role: str, demonstrations: Sequence[Demonstration], config) -> tuple[list[float], list[str]]:
    """Negative log-likelihood of every response token, and the demonstration that it belongs to."""
    tokenizer = base.tokenizer
    prompts = [prompt_ids(tokenizer, d.prompt, system_prompt=config.model.system_prompt) for d in demonstrations]
    responses = [response_ids(tokenizer, d.response) for d in demonstrations]
    found = token_logprobs_of(base, role, prompts, responses, 1.0)
    return [-x for row in found for x in row], [d.id for d, row in zip(demonstrations, found, strict=True) for _ in row]


def _kl_to_reference(
    base: SharedBase, role: str, rows: Sequence[AnswerRow], prompts: Sequence[Prompt], config
) -> tuple[list[float], list[str]]:
    """KL(policy ‖ reference) of each prompt's first answer in nats a sequence, at the sampling temperature (k1: unbiased, may be negative)."""
    ids = _prompt_ids_by_id(base, prompts, config)
    rows = [r for r in rows if r.sample == 0]
    asked, said = [ids[r.prompt_id] for r in rows], [r.ids for r in rows]
    temperature = config.evaluation.temperature
    own = token_logprobs_of(base, role, asked, said, temperature)
    reference = token_logprobs_of(base, REFERENCE, asked, said, temperature)
    return [sum(a) - sum(b) for a, b in zip(own, reference, strict=True)], [r.prompt_id for r in rows]


def _first_kl(stage: Path) -> float:
    import json

    with (stage / "log.jsonl").open(encoding="utf-8") as file:
        return float(json.loads(file.readline())["kl"])


def _by_prompt(rows: Sequence[AnswerRow]) -> dict[str, list[AnswerRow]]:
    grouped: dict[str, list[AnswerRow]] = defaultdict(list)
    for row in rows:
        grouped[row.prompt_id].append(row)
    return grouped


def _entry(metric: str, estimate, n: int, unit: str = "", note: str = "") -> Entry:
    value, low, high = estimate
    return Entry(metric, value, n, low, high, unit, note)


def _finish(ctx, stage: str, rows: Sequence[AnswerRow], entries: Sequence[Entry]) -> dict[str, float]:
    write_answers(ctx.out / ANSWERS, rows)
    write_card(ctx.out / "card.json", card := Card(stage, tuple(entries)))
    return card.values()
