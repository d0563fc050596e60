"""The test model's word on policies, and how far to trust it (reward.test_share)."""

from __future__ import annotations

from collections.abc import Sequence

from data.records import Prompt, Ranking
from pipeline.evaluation.answers import AnswerRow, with_gold
from pipeline.evaluation.cards import Entry, estimated
from pipeline.evaluation.policy_card import by_prompt, clusters_of, paired_by_prompt
from pipeline.evaluation.reward_card import Pairs, accuracy_entries
from pipeline.evaluation.scoring import score_answers, score_rankings
from pipeline.evaluation.statistics import cluster_bootstrap
from pipeline.roles import RewardModel


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
    config, learner = ctx.config, ctx.config.learner.upper()

    def judge(name: str, answers: Sequence[AnswerRow]) -> list[AnswerRow]:
        said = score_answers(model, answers, prompts, config, ctx.progress, f"test model on {name} answers")
        return with_gold(answers, said)

    scored = {"base_": judge("base", untrained), "sft_": judge("SFT", sft), "": judge(learner, rows)}
    name = "gold" if config.evaluation.gold == "test_model" else "test_model"
    entries = []
    for policy, answers in scored.items():
        clusters = [r.cluster for r in answers]
        estimate = cluster_bootstrap([r.gold for r in answers], clusters)
        note = f"by the test model, which {learner} does not raise"
        entries.append(estimated(f"{policy}{name}", estimate, len(set(clusters)), "reward", note))
    if name == "gold":
        # PPO's own is among the figures of its answers, and in the differences.
        return scored[""], scored["sft_"], entries[:2]
    own, theirs = by_prompt(scored[""]), by_prompt(scored["sft_"])
    change = paired_by_prompt(own, theirs, lambda r: r.gold)
    return list(rows), list(sft), [*entries, estimated("test_model_minus_sft", change, len(set(clusters_of(own, own))), "reward")]


def accuracy_of_test_model(
    model: RewardModel, observed: Sequence[Ranking], heldout: Sequence[Ranking], clean: Pairs | None, ctx
) -> list[Entry]:
    """Accuracy of the test model: a judge at chance is no judge.

    Args:
        clean: the pairs of `heldout` by the rubric, None where it does not stand in for people.
    """
    config = ctx.config
    scores = score_rankings(model, observed, config, ctx.progress, "test model on test rankings")
    entries = accuracy_entries("test_model_accuracy", observed, scores, [r.pairs() for r in observed], short=True)
    if clean is not None:
        scores = score_rankings(model, heldout, config, ctx.progress, "test model on held-out topics")
        entries += accuracy_entries("test_model_clean_accuracy", heldout, scores, clean, short=True)
    return entries
