"""How answers are drawn, judged and gated."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from pipeline.config.section import Section, rule


class EvaluationConfig(Section):
    max_new_tokens: int = Field(40, ge=1, description="tokens an answer")
    temperature: float = Field(0.7, ge=0, description="of sampling; 0 is greedy")
    batch_size: int = Field(64, ge=1, description="answers drawn at a time")
    samples_per_prompt: int = Field(2, ge=1, description="answers of SFT and PPO to each held-out prompt")
    limit: int | None = Field(None, ge=1, description="first N held-out prompts")
    best_of: list[int] = Field([2], description="n of the best-of-n baselines, at most samples_per_prompt")
    reference_answers: int = Field(
        40, ge=0, description="first N demonstrations kept out of training that SFT's own answers are held against; 0 is none"
    )
    side_by_side: int = Field(10, ge=0, description="prompts shown in the report")
    gold: Literal["rubric", "test_model", "none"] = Field(
        "none", description="what judges answers: the rubric of the built-in data, or a reward model of reward.test_share"
    )

    @rule
    def _there_are_answers_to_choose_from(self) -> Iterator[str]:
        wrong = [str(n) for n in self.best_of if not 2 <= n <= self.samples_per_prompt]
        if wrong:
            yield (
                f"'best_of' should lie between 2 and samples_per_prompt {self.samples_per_prompt} (got {', '.join(wrong)})"
            )


class JudgeConfig(Section):
    """A language model that compares PPO's answers with SFT's, beside the gold rubric or in its place. None asks nobody."""

    url: str | None = Field(
        None, description="OpenAI-compatible endpoint, such as http://127.0.0.1:8000/v1; None is none"
    )
    model: str = Field("", description="the endpoint's name of the model")
    key_variable: str | None = Field(None, description="environment variable with the key; the key stands in no config")
    prompts: int = Field(60, ge=1, description="first N held-out prompts, one answer each, asked in both orders")
    max_tokens: int = Field(256, ge=8, description="tokens of a verdict with its reason")
    timeout_seconds: float = Field(60.0, gt=0, description="seconds a request")
    attempts: int = Field(4, ge=1, description="requests before giving up on a busy endpoint")


class Gate(Section):
    min: float | None = Field(None, description="the number must not be below")
    max: float | None = Field(None, description="the number must not be above")
    warn: bool = Field(False, description="when it is missed that is said and reported, and the run goes on")

    @rule
    def _something_can_pass_and_something_not(self) -> Iterator[str]:
        if self.min is None and self.max is None:
            yield "should have min, max or both (got neither)"
        if self.min is not None and self.max is not None and self.min > self.max:
            yield f"min should be at most max, or nothing can pass (got {self.min:g} and {self.max:g})"
