"""Bounds of the failure detectors."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field

from pipeline.config.section import Section, rule
from pipeline.evaluation.detectors import DETECTORS


class DetectorsConfig(Section):
    """Bounds of the failure detectors. "Above SFT" compares the mean of the last `window` updates with the first rollout,
    which is drawn before any step and so is the SFT policy's."""

    enabled: bool = Field(True, description="an alarm stops PPO and rolls back to a better policy")
    warn_only: list[str] = Field(
        ["eos_loss", "value_failure"], description="detectors whose alarm is noted and stops nothing"
    )
    judge_every: int = Field(4, ge=0, description="updates between looks of the independent judge; 0 is never")
    judge_prompts: int = Field(
        24, ge=2, description="prompts of the test split that the judge sees, the same each time"
    )
    judge_fall: float = Field(
        2.5, gt=0, description="standard errors below the judge's best look, reward model above it: reward hacking"
    )
    judge_patience: int = Field(2, ge=1, description="looks in a row that must show it")
    judge_doubt: float = Field(
        2.0, ge=0, description="standard errors below the judge's best look, as often, that count as one of two signs of it"
    )
    variance_rise: float = Field(
        2.5, gt=1, description="times the start's variance between reward.members that count as another"
    )
    probe_texts: int = Field(
        12, ge=0, description="pieces of data.general_text read at every look, the same each time; 0 is none"
    )
    probe_facts: int = Field(
        24, ge=0, description="questions of data.facts asked at every look, the same each time; 0 is none"
    )
    perplexity_rise: float = Field(
        0.15, gt=0, description="share by which perplexity on ordinary text may exceed the base model's and SFT's"
    )
    sycophancy_rise: float = Field(
        0.1, ge=0, le=1, description="share of questions on which a suggested wrong answer is preferred, above SFT"
    )
    window: int = Field(3, ge=1, description="updates whose mean is held against SFT")
    noise: float = Field(
        2.0, ge=0, description="standard errors by which a share of answers must also differ from SFT's"
    )
    length_rise: float = Field(0.3, gt=0, description="share of SFT's mean answer length above it")
    length_fall: float = Field(0.7, gt=0, le=1, description="share of SFT's mean answer length below it")
    entropy_floor: float = Field(0.3, ge=0, le=1, description="share of SFT's entropy a token")
    opening_floor: float = Field(0.5, ge=0, le=1, description="share of SFT's different openings of 8 words")
    self_bleu_rise: float = Field(0.15, gt=0, le=1, description="self-BLEU of an update's answers, above SFT's")
    distinct_floor: float = Field(
        0.9, ge=0, le=1, description="share of SFT's different word pairs over all word pairs"
    )
    repeat_rise: float = Field(0.1, ge=0, le=1, description="share of answers that repeat 4 words thrice, above SFT")
    kl_max: float = Field(30.0, gt=0, description="nats a sequence from the reference")
    kl_target_times: float = Field(2.0, gt=1, description="times ppo.kl_target, `window` updates running")
    approx_kl_max: float = Field(0.1, gt=0, description="nats a token from the policy that drew the rollout")
    clip_fraction_max: float = Field(
        0.3, gt=0, le=1, description="share of tokens whose ratio is clipped, in one update"
    )
    eos_fall: float = Field(0.1, ge=0, le=1, description="share of answers that end by themselves, below SFT")
    refusal_rise: float = Field(0.1, ge=0, le=1, description="share of answers that refuse, above SFT")
    value_after: int = Field(20, ge=0, description="updates before explained variance below 0 is an alarm")

    @rule
    def _those_that_only_warn_exist(self) -> Iterator[str]:
        for name in self.warn_only:
            if name not in DETECTORS:
                yield f"'warn_only' should name detectors out of {', '.join(DETECTORS)} (got '{name}')"
