"""The test model's word on policies, and how far to trust it (reward.test_share)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from data.records import Prompt, Ranking
from pipeline.evaluation.answers import AnswerRow, with_gold
from pipeline.evaluation.cards import Entry, estimated
from pipeline.evaluation.policy_card import by_prompt
from pipeline.evaluation.reward_card import accuracy_entries
from pipeline.evaluation.scoring import score_answers, score_rankings
from pipeline.evaluation.statistics import (
    cluster_bootstrap,
    paired_difference,
)
from pipeline.roles import RewardModel
from reward.metrics import pairs_by
from reward.rubric import gold, rubric_parts


def judged(
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
        name: score_answers(model, answers, prompts, config, ctx.progress, f"test model on {name} answers")
        for name, answers in (("base", untrained), ("SFT", sft), ("PPO", rows))
    }
    judges = config.evaluation.gold == "test_model"
    name = "gold" if judges else "test_model"
    entries = []
    for policy, answers in (("base", untrained), ("SFT", sft), ("PPO", rows)):
        clusters = [r.prompt_id for r in answers]
        metric = name if policy == "PPO" else f"{policy.lower()}_{name}"
        estimate = cluster_bootstrap(scored[policy], clusters)
        entries.append(estimated(metric, estimate, len(set(clusters)), "reward", "by the test model, which PPO does not raise"))
    if judges:
        # PPO's own is among the figures of its answers, and in the differences.
        return with_gold(rows, scored["PPO"]), with_gold(sft, scored["SFT"]), entries[:2]
    own, theirs = (
        by_prompt(with_gold(side, scored[policy])) for side, policy in ((rows, "PPO"), (sft, "SFT"))
    )
    a, b = ([float(np.mean([r.gold for r in side[p]])) for p in own] for side in (own, theirs))
    entries.append(estimated("test_model_minus_sft", paired_difference(a, b, list(own)), len(own), "reward"))
    return list(rows), list(sft), entries


def accuracy_of_test_model(
    model: RewardModel, observed: Sequence[Ranking], heldout: Sequence[Ranking], ctx
) -> list[Entry]:
    """Accuracy of the test model: a judge at chance is no judge."""
    config = ctx.config
    scores = score_rankings(model, observed, config, ctx.progress, "test model on test rankings")
    entries = accuracy_entries("test_model_accuracy", observed, scores, [r.pairs() for r in observed], short=True)
    if config.evaluation.gold == "rubric" and heldout:
        scores = score_rankings(model, heldout, config, ctx.progress, "test model on held-out topics")
        golds = [
            [gold(rubric_parts(r.prompt[-1].content, a, f)) for a, f in zip(r.responses, r.finished, strict=True)]
            for r in heldout
        ]
        pairs = [pairs_by(g) for g in golds]
        entries += accuracy_entries("test_model_clean_accuracy", heldout, scores, pairs, short=True)
    return entries
