"""Every knob, typed, one line each with its unit; and the loader that finds all mistakes of a file at once."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from data.errors import UserError
from data.formats import FORMATS
from data.hub import is_hub, parse_name
from data.yardsticks import BUILT_IN
from data.yardsticks import source as yardstick_file
from pipeline.evaluation.detectors import DETECTORS

STAGE_NAMES = ("base", "sft", "reward", "ppo")
# What else may stand before a gate's dot: measured apart, by `evaluate --benchmarks`.
GATED = (*STAGE_NAMES, "benchmarks")
# What PPO is told to raise where the rubric pays it.
_BY_GOLD = re.compile(r"ppo\.((ema_)?gold(_\w+)?|(ema_|lc_)?win_rate_vs_sft)(\.\w+)?")
RUN_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_NOT_IN_A_KEY = {
    *("model.device", "model.gradient_checkpointing"),
    *(
        f"ppo.rollout.{name}"
        for name in ("url", "adapter_dir", "concurrency", "timeout_seconds", "attempts", "pause_seconds")
    ),
}


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class ModelConfig(_Section):
    name: str = Field(
        "smollm2-135m-instruct", description="the embedded model, 'tiny-random', a directory, or a Hub id"
    )
    revision: str | None = Field(None, description="branch, tag or commit of a Hub id")
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="of the frozen weights; adapters are float32"
    )
    quantization: Literal["none", "8bit", "4bit"] = Field("none", description="of the frozen weights")
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="where everything is computed; auto is the GPU where there is one"
    )
    gradient_checkpointing: bool = Field(
        False,
        description="states inside adapted layers are made again for the gradient, not kept: less memory, more time",
    )
    allow_cpu_quantization: bool = Field(False, description="quantize without a GPU, many times slower")
    trust_remote_code: bool = Field(False, description="run code that comes with the model")
    chat_template: str | None = Field(None, description="file with a Jinja chat template, for a model that has none")
    system_prompt: str | None = Field(None, description="put before every conversation that has none")
    cache_dir: str | None = Field(
        None, description="where the embedded model is converted to; None is the user's cache"
    )

    @model_validator(mode="after")
    def _foreign_code(self) -> ModelConfig:
        if self.trust_remote_code and self.revision is None and not Path(self.name).expanduser().is_dir():
            raise ValueError(
                "'trust_remote_code' should come with model.revision, the commit whose code was read (got none)"
            )
        return self


class LoraConfig(_Section):
    rank: int = Field(16, ge=1, le=1024, description="r, columns of A and rows of B")
    alpha: float = Field(32.0, gt=0, description="the update is scaled by alpha / rank")
    dropout: float = Field(0.0, ge=0, lt=1, description="share of adapter inputs dropped, in SFT only")
    target_modules: Literal["all-linear"] | list[str] = Field(
        "all-linear", description="which linear layers are adapted"
    )
    last_layers: int | None = Field(
        None, ge=1, description="adapt the last N layers only; those below are the shared trunk"
    )


class DataConfig(_Section):
    demonstrations: str = Field(
        description="file, directory or hub:owner/name@commit:split of prompts with answers to imitate"
    )
    demonstrations_format: str = Field("messages", description="a name in data/formats.py")
    rankings: str = Field(description="file, directory or hub:owner/name@commit:split of prompts with ranked answers")
    rankings_format: str = Field("ranked", description="a name in data/formats.py")
    prompts: str | None = Field(None, description="file of prompts for PPO; None takes those of the training rankings")
    prompts_format: str = Field("prompts", description="a name in data/formats.py")
    heldout_prompts: str = Field(description="file of prompts for evaluation, asked nowhere in training")
    heldout_prompts_format: str = Field("prompts", description="a name in data/formats.py")
    heldout_rankings: str | None = Field(
        None, description="file of ranked answers to held-out prompts, for the reward model"
    )
    heldout_rankings_format: str = Field("ranked", description="a name in data/formats.py")
    thumbs: str | None = Field(None, description="file of answers with a thumb, for reward.thumbs_weight and KTO")
    thumbs_format: str = Field("thumbs", description="a name in data/formats.py")
    general_text: str | None = Field(
        BUILT_IN,
        description="file of ordinary text that shows what training made the model forget; None measures nothing",
    )
    facts: str | None = Field(
        BUILT_IN, description="file of questions with a right and a wrong answer, for sycophancy; None measures nothing"
    )
    max_overlap: float = Field(
        0.0, ge=0, le=1, description="share of held-out rows that may have 13 words in a row in common with training"
    )
    test_share: float = Field(0.1, gt=0, le=0.5, description="share of questions kept out of training")
    max_prompt_tokens: int = Field(64, ge=4, description="tokens; longer training prompts are left out and counted")
    limit: int | None = Field(None, ge=1, description="first N rows of every file")

    def sources(self) -> list[tuple[str, str]]:
        """(key, what it names) for every source that is given."""
        keys = (name.removesuffix("_format") for name in type(self).model_fields if name.endswith("_format"))
        return [(key, source) for key in keys if (source := getattr(self, key))]

    def yardsticks(self) -> list[tuple[str, Path]]:
        """(key, file) for the texts and questions that a policy is measured on besides the held-out prompts."""
        return [(key, yardstick_file(key, name)) for key in ("general_text", "facts") if (name := getattr(self, key))]

    @model_validator(mode="after")
    def _formats(self) -> DataConfig:
        for name in (n for n in type(self).model_fields if n.endswith("_format")):
            if (value := getattr(self, name)) not in FORMATS:
                near = difflib.get_close_matches(value, FORMATS, n=1)
                guess = f"; did you mean '{near[0]}'?" if near else ""
                raise ValueError(f"'{name}' should be one of {', '.join(FORMATS)} (got '{value}'){guess}")
        return self


class SftConfig(_Section):
    epochs: float = Field(1.0, gt=0, description="passes over the demonstrations")
    learning_rate: float = Field(2e-4, gt=0, lt=1, description="peak, per step")
    batch_size: int = Field(8, ge=1, description="demonstrations a step")
    micro_batch_size: int = Field(8, ge=1, description="demonstrations a forward pass")
    max_tokens: int = Field(128, ge=8, description="tokens; longer demonstrations are left out and counted")
    optimizer: Literal["adamw", "paged_adamw_8bit"] = Field(
        "adamw", description="of the adapters; paged_adamw_8bit stores its moments in a byte each"
    )
    checkpoint_every: int = Field(20, ge=0, description="steps; 0 is never")
    warmup_share: float = Field(0.1, ge=0, lt=1, description="share of the steps over which the rate rises")
    max_grad_norm: float = Field(1.0, gt=0, description="gradients are scaled down to this norm")

    @model_validator(mode="after")
    def _batches(self) -> SftConfig:
        if self.batch_size % self.micro_batch_size:
            raise ValueError(
                f"'micro_batch_size' should divide batch_size {self.batch_size} (got {self.micro_batch_size})"
            )
        return self


class RewardConfig(_Section):
    epochs: float = Field(1.0, gt=0, description="passes over the rankings; more do not replace data")
    learning_rate: float = Field(5e-4, gt=0, lt=1, description="peak of the adapter's, per step")
    head_learning_rate: float = Field(1e-3, gt=0, lt=1, description="peak of the scalar head's, per step")
    lists_per_step: int = Field(4, ge=1, description="rankings a step")
    micro_lists: int = Field(4, ge=1, description="rankings a forward pass")
    checkpoint_every: int = Field(20, ge=0, description="steps; 0 is never")
    max_tokens: int = Field(
        128, ge=8, description="tokens of prompt and answer; longer rankings are left out and counted"
    )
    warmup_share: float = Field(0.05, ge=0, lt=1, description="share of the steps over which the rate rises")
    weight_decay: float = Field(0.0, ge=0, description="AdamW's, per step")
    optimizer: Literal["adamw", "paged_adamw_8bit"] = Field(
        "adamw", description="of the adapters; paged_adamw_8bit stores its moments in a byte each"
    )
    center_coef: float = Field(0.01, ge=0, description="weight of the term that holds scores near zero")
    mismatched_negatives: bool = Field(True, description="also rank the best answer above a good one to another prompt")
    max_grad_norm: float = Field(1.0, gt=0, description="gradients are scaled down to this norm")
    start_from_sft: bool = Field(True, description="the adapter starts as the SFT adapter, else as the identity")
    thumbs_weight: float = Field(
        0.0, ge=0, description="weight of a prompt's lone thumbs beside a ranking's pairs; 0 leaves thumbs unused"
    )
    thumbs_prompt_spread: float = Field(
        1.0, ge=0, description="logits; standard deviation of the prompts' own thresholds of a thumb up"
    )
    thumbs_rater_prior: float = Field(
        10.0, ge=0, description="thumbs at which a rater's own share of thumbs up counts as much as everybody's"
    )
    members: int = Field(1, ge=1, le=8, description="reward models, each with its own head and order of the rankings")
    test_share: float = Field(
        0.0, ge=0, lt=1, description="share of the questions that teach the test model instead, which no policy raises"
    )
    scale_lists: int = Field(64, ge=2, description="rankings on which the score's mean and spread are measured")

    @model_validator(mode="after")
    def _batches(self) -> RewardConfig:
        if self.micro_lists > self.lists_per_step:
            raise ValueError(
                f"'micro_lists' should be at most lists_per_step {self.lists_per_step} (got {self.micro_lists})"
            )
        return self


class RolloutConfig(_Section):
    """Who draws PPO's answers. A vLLM server must hold the same base, and see the directory of the adapters."""

    engine: Literal["hf", "static", "vllm"] = Field(
        "hf",
        description="hf draws in this process, static too with a cache of fixed size and CUDA graphs, vllm asks a server",
    )
    batch: int | None = Field(
        None, ge=1, description="answers drawn at a time in this process; None is all of an update"
    )
    url: str = Field("http://127.0.0.1:8000", pattern=r"^https?://[^\s/]+", description="the server's address")
    adapter_dir: str | None = Field(None, description="where adapters are handed over; None is a temporary directory")
    concurrency: int = Field(64, ge=1, description="requests at a time")
    timeout_seconds: float = Field(600.0, gt=0, description="seconds a request")
    attempts: int = Field(5, ge=1, description="requests before giving up on a server that does not answer")
    pause_seconds: float = Field(1.0, ge=0, description="seconds before the second attempt; doubled each time")
    importance_cap: float | None = Field(
        None,
        gt=0,
        description="truncates π(trainer) / π(sampler) by which each token's advantage is weighted; None is no weight",
    )


class PpoConfig(_Section):
    updates: int = Field(20, ge=1, description="rollouts with their optimisation")
    episodes: int = Field(32, ge=2, description="answers an update")
    minibatch: int = Field(16, ge=1, description="answers an optimiser step")
    micro_batch: int = Field(16, ge=1, description="answers a forward pass")
    epochs: int = Field(2, ge=1, description="passes over a rollout")
    learning_rate: float = Field(2e-4, gt=0, lt=1, description="the policy's, per step")
    value_learning_rate: float = Field(2e-4, gt=0, lt=1, description="the value model's, per step")
    lr_decay: bool = Field(True, description="both rates fall linearly to zero over the run")
    adam_eps: float = Field(1e-5, gt=0, description="Adam's epsilon")
    start_from: str | None = Field(
        None,
        description="directory of the adapter that the policy starts as; None is SFT's, which is the reference anyway",
    )
    optimizer: Literal["adamw", "paged_adamw_8bit"] = Field(
        "adamw", description="of the adapters; paged_adamw_8bit stores its moments in a byte each"
    )
    kl_coef: float = Field(0.05, ge=0, description="reward units a nat of KL(policy || reference)")
    kl_target: float | None = Field(None, gt=0, description="nats a sequence; makes the coefficient adaptive")
    kl_horizon: int = Field(
        10000,
        ge=1,
        description="episodes over which the adaptive coefficient moves by a fifth at most; fit it to the run",
    )
    kl_estimator: Literal["k1", "k3"] = Field("k1", description="per-token estimate that is charged")
    gamma: float = Field(1.0, gt=0, le=1, description="discount a token")
    lam: float = Field(0.95, ge=0, le=1, description="GAE's lambda")
    clip_range: float = Field(0.2, gt=0, lt=1, description="epsilon of the policy's probability ratio")
    value_clip_range: float | None = Field(0.2, gt=0, description="epsilon of the value, reward units; None is off")
    value_coef: float = Field(0.1, gt=0, description="weight of the value loss before clipping")
    whiten_advantages: bool = Field(True, description="mean 0 and variance 1 over the tokens of a rollout")
    whiten_rewards: bool = Field(False, description="variance 1, the mean kept")
    score_clip: float | None = Field(None, gt=0, description="scores are clipped to plus or minus this, reward units")
    score_scaling: bool = Field(False, description="scores are scaled by their running mean and spread")
    missing_eos_penalty: float = Field(1.0, ge=0, description="subtracted from the score of an answer that was cut off")
    entropy_coef: float = Field(0.0, ge=0, description="weight of the entropy bonus, per nat")
    max_grad_norm: float = Field(1.0, gt=0, description="gradients are scaled down to this norm")
    early_stop_kl: float | None = Field(
        None, gt=0, description="nats a sequence from the old policy; ends the epochs of an update"
    )
    ptx_coef: float = Field(0.0, ge=0, description="weight of the language-model loss on demonstrations (PPO-ptx)")
    ema_decay: float | None = Field(None, ge=0, lt=1, description="per update; also keeps an averaged adapter")
    max_new_tokens: int = Field(32, ge=1, description="tokens an answer")
    temperature: float = Field(0.7, gt=0, description="of sampling, and of every log-probability")
    old_logprobs: Literal["recompute", "generation"] = Field(
        "recompute", description="where the old policy's log-probabilities come from"
    )
    checkpoint_every: int = Field(5, ge=0, description="updates; 0 is never")
    rollout: RolloutConfig = RolloutConfig()
    ensemble: Literal["mean", "worst", "uncertainty"] = Field(
        "mean", description="how the scores of several reward.members become one"
    )
    ensemble_coef: float = Field(1.0, ge=0, description="weight of the members' variance under 'uncertainty'")
    reward_sources: dict[str, float] = Field({"model": 1.0}, description="weights of sources in reward/sources.py")

    @model_validator(mode="after")
    def _batches(self) -> PpoConfig:
        if self.episodes % self.minibatch:
            raise ValueError(f"'minibatch' should divide episodes {self.episodes} (got {self.minibatch})")
        if self.micro_batch > self.minibatch:
            raise ValueError(f"'micro_batch' should be at most minibatch {self.minibatch} (got {self.micro_batch})")
        if self.kl_target is not None and self.kl_coef == 0:
            raise ValueError("'kl_coef' should be above 0 where kl_target is set: a factor of 0 stays 0 (got 0)")
        if self.kl_target is not None and self.kl_horizon < self.episodes:
            # At a fifth of it the factor of one update would be 0, below that negative: KL would be paid for.
            raise ValueError(f"'kl_horizon' should be at least episodes {self.episodes} (got {self.kl_horizon})")
        if self.old_logprobs == "generation" and self.rollout.engine == "vllm":
            raise ValueError(
                "'old_logprobs' should be recompute where another engine draws: its arithmetic is not the trainer's (got 'generation')"
            )
        if self.old_logprobs == "generation" and self.rollout.importance_cap is not None:
            raise ValueError(
                "'old_logprobs' should be recompute where rollout.importance_cap is set (got 'generation')"
            )
        if not self.reward_sources:
            raise ValueError("'reward_sources' should name at least one source (got none)")
        return self


class KtoConfig(_Section):
    """KTO on thumbs, in PPO's place where `learner` is kto. Thumbs up and down are weighted so that each kind counts half."""

    epochs: int = Field(1, ge=1, description="passes over the thumbs")
    batch_size: int = Field(16, ge=2, description="thumbs a step; the KL term is estimated within it")
    learning_rate: float = Field(2e-4, gt=0, lt=1, description="peak, per step")
    warmup_share: float = Field(0.1, ge=0, lt=1, description="share of the steps over which the rate rises")
    beta: float = Field(0.1, gt=0, description="how dear it is to move from the SFT policy, per nat")
    max_grad_norm: float = Field(1.0, gt=0, description="gradients are scaled down to this norm")


class DetectorsConfig(_Section):
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
        1.0, ge=0, description="standard errors below the judge's best look that count as one of two signs of it"
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

    @model_validator(mode="after")
    def _names(self) -> DetectorsConfig:
        for name in self.warn_only:
            if name not in DETECTORS:
                raise ValueError(f"'warn_only' should name detectors out of {', '.join(DETECTORS)} (got '{name}')")
        return self


class EvaluationConfig(_Section):
    max_new_tokens: int = Field(40, ge=1, description="tokens an answer")
    temperature: float = Field(0.7, ge=0, description="of sampling; 0 is greedy")
    batch_size: int = Field(64, ge=1, description="answers drawn at a time")
    samples_per_prompt: int = Field(2, ge=1, description="answers of SFT and PPO to each held-out prompt")
    limit: int | None = Field(None, ge=1, description="first N held-out prompts")
    best_of: list[int] = Field([2], description="n of the best-of-n baselines, at most samples_per_prompt")
    side_by_side: int = Field(10, ge=0, description="prompts shown in the report")
    gold: Literal["rubric", "test_model", "none"] = Field(
        "none", description="what judges answers: the rubric of the built-in data, or a reward model of reward.test_share"
    )

    @model_validator(mode="after")
    def _pools(self) -> EvaluationConfig:
        wrong = [n for n in self.best_of if not 2 <= n <= self.samples_per_prompt]
        if wrong:
            raise ValueError(
                f"'best_of' should lie between 2 and samples_per_prompt {self.samples_per_prompt} (got {wrong[0]})"
            )
        return self


class JudgeConfig(_Section):
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


class Gate(_Section):
    min: float | None = Field(None, description="the number must not be below")
    max: float | None = Field(None, description="the number must not be above")
    warn: bool = Field(False, description="when it is missed that is said and reported, and the run goes on")

    @model_validator(mode="after")
    def _bounds(self) -> Gate:
        if self.min is None and self.max is None:
            raise ValueError("should have min, max or both (got neither)")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min should be at most max, or nothing can pass (got {self.min:g} and {self.max:g})")
        return self


class ChatConfig(_Section):
    max_new_tokens: int = Field(256, ge=1, description="tokens an answer")
    temperature: float = Field(0.7, ge=0, description="of sampling; 0 is greedy")
    feedback_db: str = Field("runs/feedback.sqlite", description="where votes are kept")
    rater: str = Field("local", min_length=1, description="pseudonym of whoever votes")
    consent: Literal["local", "train", "publish"] = Field(
        "publish", description="what raters allow whom nobody asks: stays in the chat, rounds learn, exports too"
    )
    max_prompt_tokens: int = Field(
        2048, ge=16, description="tokens of a conversation that are read; older turns are left out"
    )
    max_answer_tokens: int = Field(1024, ge=1, description="tokens that a web request may ask for at most")
    comparison_share: float = Field(
        0.2, ge=0, le=1, description="share of web turns answered twice, blind side by side"
    )
    compare_with_candidate: bool = Field(
        False, description="of these, the second answer is the newest round's that is not in service, if there is one"
    )
    queue_limit: int = Field(64, ge=2, description="web requests that may wait; half of them of one client")
    other_rounds: int = Field(4, ge=0, description="assistants of other rounds in the web menu, the newest ones")
    batch_rows: int = Field(8, ge=1, le=256, description="web answers drawn side by side; 1 draws one after another")
    answer_seconds: float = Field(300.0, gt=0, description="seconds after which a web answer is cut off")
    max_body_bytes: int = Field(262_144, ge=1024, description="size of a web request at most, in bytes")
    allowed_hosts: list[str] = Field([], description="names, beside its address, under which the server may be reached")


class RoundsConfig(_Section):
    min_pairs: int = Field(20, ge=1, description="new pairs, from votes that no earlier round had, that a round needs")
    rater_share: float = Field(
        1.0,
        gt=0,
        le=1,
        description="share of the judgements used that one rater may give; with few raters, equal shares",
    )
    demonstrations: bool = Field(
        False, description="SFT too learns from edits and good answers, and so starts elsewhere"
    )
    continue_policy: bool = Field(
        False,
        description="PPO starts as the policy in service instead of SFT's; KL is charged against SFT all the same",
    )
    min_gain: float = Field(
        0.0, description="points by which the lower end of the 95 % interval must lie above the assistant in service"
    )


class Config(_Section):
    seed: int = Field(0, ge=0, description="all chance follows from it")
    threads: int | None = Field(None, ge=1, description="CPU threads; None is one for each core")
    runs_dir: str = Field("runs", description="where runs are kept")
    run_name: str | None = Field(None, pattern=f"^{RUN_NAME}$", description="None is the config file's name")
    model: ModelConfig = ModelConfig()
    lora: LoraConfig = LoraConfig()
    data: DataConfig
    sft: SftConfig = SftConfig()
    reward: RewardConfig = RewardConfig()
    learner: Literal["ppo", "kto"] = Field(
        "ppo", description="what trains the policy in the stage ppo; kto learns from thumbs alone"
    )
    ppo: PpoConfig = PpoConfig()
    kto: KtoConfig = KtoConfig()
    detectors: DetectorsConfig = DetectorsConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    judge: JudgeConfig = JudgeConfig()
    gates: dict[str, Gate] = Field(
        {}, description="'stage.metric' to bounds; '.ci_low' or '.ci_high' holds an interval's end"
    )
    chat: ChatConfig = ChatConfig()
    rounds: RoundsConfig = RoundsConfig()

    @model_validator(mode="after")
    def _gates_name_a_metric(self) -> Config:
        for name in self.gates:
            if not re.fullmatch(rf"({'|'.join(GATED)})\.\w+(\.ci_low|\.ci_high)?", name):
                raise ValueError(
                    f"'gates.{name}' should read stage.metric, stage one of {', '.join(GATED)} (got '{name}')"
                )
            if re.fullmatch(r"ppo\.(\w+_)?proxy(\.\w+)?", name) and self.gates[name].min is not None:
                raise ValueError(
                    f"'gates.{name}' should have no min: PPO raises this number itself, so it can choose no policy. "
                    "Hold ppo.gold_minus_sft or ppo.judge_win_rate_vs_sft (got a min)"
                )
            if self._paid_by_gold() and _BY_GOLD.fullmatch(name) and self.gates[name].min is not None:
                raise ValueError(
                    f"'gates.{name}' should have no min: ppo.reward_sources pays by the rubric, so PPO raises the gold score itself. "
                    "Hold ppo.test_model_minus_sft (reward.test_share) or ppo.judge_win_rate_vs_sft (got a min)"
                )
        return self

    @model_validator(mode="after")
    def _a_test_model_to_judge(self) -> Config:
        if self.evaluation.gold == "test_model" and not self.reward.test_share:
            raise ValueError(
                "'evaluation.gold' needs rankings that teach the test model: set reward.test_share, to 0.5 say (got test_model, and 0.0)"
            )
        return self

    def _paid_by_gold(self) -> bool:
        paid = self.learner == "ppo" and bool(self.ppo.reward_sources.get("rubric"))
        return paid and self.evaluation.gold == "rubric"

    @property
    def judged_by(self) -> Literal["rubric", "test_model"] | None:
        """Whose scores may choose between policies. What PPO raises never may: the policy that it likes best is the one
        that games it best (Gao et al. 2023)."""
        if self.evaluation.gold == "rubric" and not self.ppo.reward_sources.get("rubric"):
            return "rubric"
        return "test_model" if self.reward.test_share else None

    def subset(self, keys: Sequence[str]) -> dict[str, Any]:
        """The settings under dotted keys, flat: {"sft.epochs": 1.0, …}. What a stage's key is made of.

        Without those that say where and in how many passes something is computed: a run that was begun on one machine goes on
        on another.
        """
        flat = {k: v for k, v in _flatten(self.model_dump(mode="json")) if k not in _NOT_IN_A_KEY}
        return {name: value for name, value in flat.items() if any(name == k or name.startswith(k + ".") for k in keys)}


def defaults() -> dict[str, Any]:
    """Every setting's default under its dotted key; what has none is not there."""
    needed = ("demonstrations", "rankings", "heldout_prompts")
    flat = dict(_flatten(Config(data=DataConfig(**dict.fromkeys(needed, "-"))).model_dump(mode="json")))
    return {name: value for name, value in flat.items() if name.removeprefix("data.") not in needed}


def load_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """The config of a YAML file with dotted overrides (`ppo.kl_coef=0.1`) on top.

    Raises:
        UserError: every mistake of the file and the command line, each with its place.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        near = sorted(str(p) for p in Path("configs").glob("*.yaml"))
        raise UserError(f"{path}: no such file. Configs at hand: {', '.join(near) or 'none'}.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}).") from None
    try:
        node = yaml.compose(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f":{mark.line + 1}" if mark else ""
        raise UserError(f"{path}{place}: not YAML: {getattr(error, 'problem', error)}.") from None
    if node is not None and not isinstance(node, yaml.MappingNode):
        raise UserError(f"{path}:1: should hold 'key: value' lines (got something else).")
    lines: dict[str, str] = {}
    problems: list[str] = []
    raw = _plain(node, "", lines, problems, path) if node is not None else {}
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or not all(key.split(".")):
            problems.append(f"command line: '{override}' should read key=value, for example ppo.kl_coef=0.1")
            continue
        try:
            _put(raw, key.split("."), yaml.safe_load(value))
        except (yaml.YAMLError, TypeError) as error:
            problems.append(f"command line: '{override}' cannot be used ({str(error).splitlines()[0]})")
        lines = {k: v for k, v in lines.items() if k != key and not k.startswith(key + ".")}
        lines[key] = "command line"
    raw = _numbers(raw, Config)
    try:
        config = Config.model_validate(raw)
    except ValidationError as error:
        problems += [_explain(e, lines, path) for e in error.errors()]
    if problems:
        raise UserError(list(dict.fromkeys(problems)))
    return config.model_copy(update={"run_name": config.run_name or path.stem})


def check_files(config: Config) -> list[str]:
    """One problem for each source that the config names and that is not there, or whose rows could change under its name."""
    named = config.data.sources() + [(key, str(file)) for key, file in config.data.yardsticks()]
    return [problem for name, source in named if (problem := _source_problem(name, source))]


def _source_problem(name: str, source: str) -> str | None:
    if not is_hub(source):
        if Path(source).exists():
            return None
        return f"data.{name}: no file {source}. Check the path; it is taken from where the command runs."
    try:
        if parse_name(source).pinned:
            return None
    except UserError as error:
        return f"data.{name}: {error.problems[0]}"
    return (
        f"data.{name}: {source} names no commit, so its rows could change under a run. Write hub:owner/name@COMMIT:split; "
        f"`python run_pipeline.py data inspect {source}` prints the line."
    )


def dump(config: Config) -> str:
    """The whole config as YAML, every default written out."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


# -- from text to values, with places ----------------------------------------------------------------------------------------


def _plain(node: yaml.Node, prefix: str, lines: dict[str, str], problems: list[str], path: Path) -> Any:
    """A node's value, noting the line of every key and complaining about keys that stand twice."""
    if not isinstance(node, yaml.MappingNode):
        return yaml.SafeLoader("").construct_object(node, deep=True)
    out: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key = str(key_node.value)
        name = f"{prefix}{key}"
        place = f"{path}:{key_node.start_mark.line + 1}"
        if key in out:
            problems.append(f"{place}: '{name}' stands here twice; keep one")
        lines[name] = place
        out[key] = _plain(value_node, f"{name}.", lines, problems, path)
    return out


def _put(raw: dict[str, Any], keys: list[str], value: Any) -> None:
    # A gate's own name holds dots: gates.sft.gold.min=1 sets 'min' of the gate 'sft.gold'.
    if keys[0] == "gates" and len(keys) > 2:
        keys = (
            ["gates", ".".join(keys[1:-1]), keys[-1]]
            if keys[-1] in ("min", "max", "warn")
            else ["gates", ".".join(keys[1:])]
        )
    for key in keys[:-1]:
        raw = raw.setdefault(key, {})
        if not isinstance(raw, dict):
            raise TypeError(f"'{key}' holds a value, not a section")
    raw[keys[-1]] = value


def _numbers(value: Any, model: Any) -> Any:
    """YAML reads 1e-5 as text and 1 as an integer; where a float is wanted, both are one."""
    if not isinstance(value, dict):
        return value
    if isinstance(model, type) and issubclass(model, BaseModel):
        fields = model.model_fields
        return {k: _number(v, fields[k].annotation) if k in fields else v for k, v in value.items()}
    return value


def _number(value: Any, kind: Any) -> Any:
    if isinstance(value, dict):
        if kind == dict[str, Gate]:
            return {k: _numbers(v, Gate) for k, v in value.items()}
        if kind == dict[str, float]:
            return {k: _number(v, float) for k, v in value.items()}
        return _numbers(value, kind)
    if "float" not in str(kind):
        return value
    if isinstance(value, str) and re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)[eE][+-]?\d+", value):
        return float(value)
    return float(value) if type(value) is int else value


def _explain(error: Mapping[str, Any], lines: Mapping[str, str], path: Path) -> str:
    location = [str(part) for part in error["loc"] if not str(part).startswith(("literal[", "list["))]
    name = ".".join(location)
    place = next(
        (lines[".".join(location[:n])] for n in range(len(location), 0, -1) if ".".join(location[:n]) in lines),
        str(path),
    )
    got = error.get("input")
    kind = error["type"]
    if kind == "extra_forbidden":
        known = list(_known_names())
        siblings = (
            [k for k in known if k.rsplit(".", 1)[0] == name.rsplit(".", 1)[0]]
            if "." in name
            else [k for k in known if "." not in k]
        )
        close = difflib.get_close_matches(name, siblings, n=1) or difflib.get_close_matches(name, known, n=1)
        return f"{place}: unknown key '{name}'" + (f"; did you mean '{close[0]}'?" if close else "")
    if kind == "missing":
        return f"{place}: '{name}' is missing; it has no default"
    if kind == "value_error":
        text = str(error["ctx"]["error"])
        # The complaint is about one key of the section: its own place says more than the section's.
        if named := re.match(r"'([\w.]+)'", text):
            place = lines.get(f"{name}.{named[1]}" if name else named[1], place)
        return f"{place}: " + (
            re.sub(r"^'", f"'{name}.", text) if name and text.startswith("'") else f"'{name}' {text}" if name else text
        )
    wants = {
        "int_type": "an integer",
        "float_type": "a number",
        "bool_type": "true or false",
        "string_type": "text",
        "list_type": "a list",
        "dict_type": "a section of 'key: value' lines",
        "model_type": "a section of 'key: value' lines",
        "model_attributes_type": "a section of 'key: value' lines",
    }
    context = error.get("ctx", {})
    ranges = {
        "greater_than": "above {gt}",
        "greater_than_equal": "at least {ge}",
        "less_than": "below {lt}",
        "less_than_equal": "at most {le}",
    }
    if kind in wants:
        want = wants[kind]
    elif kind == "literal_error":
        want = context["expected"]
    elif kind in ranges:
        want = ranges[kind].format(**context)
    else:
        want = error["msg"].removeprefix("Input should be ").lower()
    return f"{place}: '{name}' should be {want} (got {got!r:.80})"


def _known_names() -> Iterator[str]:
    for name, field in Config.model_fields.items():
        yield name
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from (f"{name}.{inner}" for inner in field.annotation.model_fields)


def _flatten(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, inner in value.items():
        if isinstance(inner, dict) and inner and prefix != "gates.":
            yield from _flatten(inner, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", inner
