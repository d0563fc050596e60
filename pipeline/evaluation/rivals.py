"""Two assistants on the same held-out prompts, and a reward model on votes that it has not seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data.errors import UserError
from data.loading import load as load_records
from data.numbers import many
from data.records import Ranking
from pipeline.evaluation import judges
from pipeline.evaluation.answers import AnswerRow, read_answers, with_gold
from pipeline.evaluation.cards import Entry
from pipeline.evaluation.harness import ANSWERS
from pipeline.evaluation.policy_card import by_prompt, clusters_of, judged_by_prompt, paired_by_prompt
from pipeline.evaluation.reward_card import accuracy_entries
from pipeline.evaluation.scoring import score_answers, score_rankings
from pipeline.evaluation.statistics import cluster_share
from pipeline.roles import RewardEnsemble, open_base, open_test_model
from pipeline.template import PromptTooLong, prompt_ids, text_lengths


@dataclass(frozen=True)
class Gain:
    """How much better the new one is, with a 95 % interval over questions.

    Attributes:
        by: what measured it.
        questions: how many stand behind it.
    """

    value: float
    low: float
    high: float
    unit: str
    by: str
    questions: int


def gain(new: Path, new_stage: str, old: Path, old_stage: str, config, progress) -> Gain | None:
    """The new assistant minus the old one on their stored answers; None where nothing that PPO has not optimised can judge.

    Never by the reward model, nor by the rubric where the new one was paid by it. A test model is the new run's: it has read its share
    of the newest votes, and its questions have taught no round's reward model (`reward.test_model`).

    Raises:
        UserError: the two answered other prompts.
    """
    mine, theirs = (
        read_answers(run / "evaluation" / stage / ANSWERS) for run, stage in ((new, new_stage), (old, old_stage))
    )
    own, other = by_prompt(mine), by_prompt(theirs)
    if own.keys() != other.keys():
        raise UserError(
            f"{new} and {old} were evaluated on different prompts. Evaluate both with the same data.heldout_prompts and evaluation.limit."
        )
    prompts = list(own)
    if config.judged_by == "rubric":
        return _difference(own, other, "points", "the rubric")
    if config.judged_by == "test_model":
        own, other = (by_prompt(side) for side in _rescored(mine, theirs, new, config, progress))
        return _difference(own, other, "reward", "the test model")
    if config.judge.url:
        return _judged(own, other, prompts[: config.judge.prompts], config.judge, progress)
    return None


def _difference(own: dict[str, list[AnswerRow]], other: dict[str, list[AnswerRow]], unit: str, by: str) -> Gain:
    return Gain(*paired_by_prompt(own, other, lambda r: r.gold), unit, by, len(set(clusters_of(own, own))))


def _rescored(mine, theirs, new: Path, config, progress) -> list[list[AnswerRow]]:
    """Both sides' answers with the scores of one and the same test model."""
    model = open_test_model(open_base(config), new / "stages" / "reward")
    prompts = load_records(new / "stages" / "prepare" / "heldout_prompts.jsonl", "prompts")
    return [
        with_gold(rows, score_answers(model, rows, prompts, config, progress, f"test model on {name} answers"))
        for name, rows in (("the new one's", mine), ("the present one's", theirs))
    ]


def _judged(own: dict[str, list[AnswerRow]], other: dict[str, list[AnswerRow]], prompts, judge, progress) -> Gain:
    _, kept = judged_by_prompt(own, other, prompts, judges.of_config(judge), progress)
    if not kept:
        raise UserError(f"judge: no verdict on {many(len(prompts), 'comparison')}. Look at judge.model and judge.max_tokens.")
    names, outcomes = zip(*kept, strict=True)
    clusters = clusters_of(own, names)
    above = (end - 0.5 for end in cluster_share(outcomes, clusters))
    return Gain(*above, "win rate above one half", f"the judge {judge.model}", len(set(clusters)))


def accuracy_on(rankings: Sequence[Ranking], run: Path, config, progress) -> tuple[Entry, int]:
    """How often a run's reward model prefers what raters preferred, and how many rankings are too long for it."""
    base = open_base(config)
    model = RewardEnsemble.open(base, run / "stages" / "reward", config.ppo)
    fitting = [r for r in rankings if r.pairs() and _fits(base.tokenizer, r, config)]
    scores = score_rankings(model, fitting, config, progress, "scoring new votes")
    (entry,) = accuracy_entries("new_votes_accuracy", fitting, scores, [r.pairs() for r in fitting], short=True)
    return entry, sum(bool(r.pairs()) for r in rankings) - len(fitting)


def _fits(tokenizer, ranking: Ranking, config) -> bool:
    system, most = config.model.system_prompt, config.data.max_prompt_tokens
    try:
        prompt = len(prompt_ids(tokenizer, ranking.prompt, system_prompt=system, max_tokens=most))
    except PromptTooLong:
        return False
    return prompt + max(text_lengths(tokenizer, ranking.responses)) + 1 <= config.reward.max_tokens
