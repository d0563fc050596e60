"""Answers to the held-out prompts: how a policy is looked at, by people and by every metric."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from data.errors import UserError
from data.quality import question_of
from data.records import Prompt, read_out
from pipeline.adapters import SharedBase
from pipeline.context import context_of, no_room_to_draw
from pipeline.generation import Sample, Sampling, sample
from pipeline.memory import MicroBatch
from pipeline.template import prompt_ids, with_system
from reward.rubric import gold, rubric_parts


@dataclass(frozen=True)
class AnswerRow:
    """One answer and what was measured of it. `gold` is the rubric's score, or the test model's; `parts` are the rubric's alone.
    `prompt` is the conversation as `read_out` gives it, `question` what it begins with (`data.quality.question_of`)."""

    prompt_id: str
    topic: str | None
    prompt: str
    sample: int
    answer: str
    finished: bool
    tokens: int
    ids: tuple[int, ...]
    gold: float | None = None
    parts: dict[str, float] | None = None
    proxy: float | None = None
    question: str | None = None

    @property
    def cluster(self) -> str:
        """What an interval draws it with: all answers to its question, or to its prompt where earlier code kept no question."""
        return self.prompt_id if self.question is None else self.question


def answer_prompts(
    base: SharedBase,
    role: str,
    prompts: Sequence[Prompt],
    config,
    *,
    samples: int,
    progress,
    label: str,
) -> list[AnswerRow]:
    """`samples` answers of `role` to each prompt, with the run's seed, so that two policies meet the same chance."""
    settings, tokenizer = config.evaluation, base.tokenizer
    encoded = [
        prompt_ids(
            tokenizer, p.messages, system_prompt=config.model.system_prompt, max_tokens=config.data.max_prompt_tokens
        )
        for p in prompts
    ]
    longest = max((len(ids) for ids in encoded), default=0)
    if problems := no_room_to_draw(context_of(base.causal_lm.config), "evaluation", settings.max_new_tokens, longest):
        raise UserError(problems)
    asked = [(p, ids, s) for p, ids in zip(prompts, encoded, strict=True) for s in range(samples)]
    at_once = MicroBatch(settings.batch_size, "evaluation.batch_size", "evaluation.max_new_tokens")
    with base.acting_as(role), progress(len(asked), label, unit="answers") as bar:

        def draw(size: int) -> list[Sample]:
            # All of them again: the answers are then those that this batch size gives.
            bar.done = 0
            return sample(
                base.causal_lm,
                [ids for _, ids, _ in asked],
                Sampling(settings.max_new_tokens, settings.temperature, seed=config.seed),
                eos_id=tokenizer.eos_token_id,
                pad_id=tokenizer.pad_token_id,
                batch_size=size,
                on_batch=bar.advance,
            )

        drawn = at_once.attempt(draw)
    rows = []
    for (prompt, _, number), answer in zip(asked, drawn, strict=True):
        text = tokenizer.decode(answer.ids[:-1] if answer.finished else answer.ids, skip_special_tokens=True)
        parts = rubric_parts(prompt.messages[-1].content, text, answer.finished) if settings.gold == "rubric" else None
        rows.append(
            AnswerRow(
                prompt_id=prompt.id,
                topic=prompt.topic,
                prompt=read_out(with_system(prompt.messages, config.model.system_prompt)),
                sample=number,
                answer=text,
                finished=answer.finished,
                tokens=len(answer.ids),
                ids=answer.ids,
                gold=gold(parts) if parts is not None else None,
                parts=parts,
                question=question_of(prompt),
            )
        )
    return rows


def with_proxy(rows: Sequence[AnswerRow], scores: Sequence[float]) -> list[AnswerRow]:
    return [replace(row, proxy=score) for row, score in zip(rows, scores, strict=True)]


def with_gold(rows: Sequence[AnswerRow], scores: Sequence[float]) -> list[AnswerRow]:
    return [replace(row, gold=score) for row, score in zip(rows, scores, strict=True)]


def write_answers(path: Path, rows: Sequence[AnswerRow]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for row in rows:
            file.write(json.dumps(asdict(row), ensure_ascii=False) + "\n")


def read_answers(path: Path) -> list[AnswerRow]:
    with path.open(encoding="utf-8", newline="\n") as file:
        return [AnswerRow(**{**row, "ids": tuple(row["ids"])}) for row in map(json.loads, file)]
