"""Prompts, answers and rankings as the models read them, and what the models say of them."""

from __future__ import annotations

from collections.abc import Sequence

from data.quality import questions_of
from data.records import Demonstration, Prompt, Ranking
from pipeline.adapters import REFERENCE, SharedBase
from pipeline.evaluation.answers import AnswerRow
from pipeline.evaluation.likelihood import token_logprobs_of
from pipeline.evaluation.reward_probes import Asked
from pipeline.roles import RewardEnsemble
from pipeline.template import prompt_ids, response_ids


def conversation(base: SharedBase, prompt, answer: str, finished: bool, config) -> list[int]:
    ids = prompt_ids(
        base.tokenizer, prompt, system_prompt=config.model.system_prompt, max_tokens=config.data.max_prompt_tokens
    )
    return ids + response_ids(base.tokenizer, answer, finished=finished)


def asking(model: RewardEnsemble, config):
    """The reward model as the probes ask it."""

    def ask(asked: Sequence[Asked]) -> list[float]:
        return model.score_all([conversation(model.base, a.prompt, a.answer, a.finished, config) for a in asked])

    return ask


def score_rankings(
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


def score_answers(
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


def response_nll(base: SharedBase, role: str, demonstrations: Sequence[Demonstration], config) -> tuple[list[float], list[str]]:
    """Negative log-likelihood of every response token, and the question that it answers."""
    tokenizer = base.tokenizer
    prompts = [prompt_ids(tokenizer, d.prompt, system_prompt=config.model.system_prompt) for d in demonstrations]
    responses = [response_ids(tokenizer, d.response) for d in demonstrations]
    found = token_logprobs_of(base, role, prompts, responses, 1.0)
    return [-x for row in found for x in row], questions_of(demonstrations, found)


def kl_to_reference(
    base: SharedBase, role: str, rows: Sequence[AnswerRow], prompts: Sequence[Prompt], config
) -> tuple[list[float], list[str]]:
    """KL(policy ‖ reference) of each prompt's first answer in nats a sequence, at the sampling temperature (k1: unbiased, may be negative);
    and what an interval draws each with."""
    ids = _prompt_ids_by_id(base, prompts, config)
    rows = [r for r in rows if r.sample == 0]
    asked, said = [ids[r.prompt_id] for r in rows], [r.ids for r in rows]
    temperature = config.evaluation.temperature
    own = token_logprobs_of(base, role, asked, said, temperature)
    reference = token_logprobs_of(base, REFERENCE, asked, said, temperature)
    return [sum(a) - sum(b) for a, b in zip(own, reference, strict=True)], [r.cluster for r in rows]
