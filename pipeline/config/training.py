"""How each stage trains."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from pipeline.config.section import Section, rule


class SftConfig(Section):
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

    @rule
    def _micro_batches_make_a_batch(self) -> Iterator[str]:
        if self.batch_size % self.micro_batch_size:
            yield f"'micro_batch_size' should divide batch_size {self.batch_size} (got {self.micro_batch_size})"


class RewardConfig(Section):
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

    @rule
    def _a_pass_is_part_of_a_step(self) -> Iterator[str]:
        if self.micro_lists > self.lists_per_step:
            yield f"'micro_lists' should be at most lists_per_step {self.lists_per_step} (got {self.micro_lists})"


class RolloutConfig(Section):
    """Who draws PPO's answers. A vLLM server must hold the same base, and see the directory of the adapters."""

    engine: Literal["hf", "static", "continuous", "vllm"] = Field(
        "hf",
        description="hf draws in this process, static too with a cache of fixed size and CUDA graphs, continuous too with the library's "
        "continuous batching, vllm asks a server",
    )
    record: bool | None = Field(
        None,
        description="continuous on a card: passes recorded and played back (CUDA graphs); None does so with flash attention only",
    )
    batch: int | None = Field(
        None, ge=1, description="answers drawn at a time in this process; None is all of an update"
    )
    url: str = Field("http://127.0.0.1:8000", pattern=r"^https?://[^\s/]+", description="the server's address")
    adapter_dir: str | None = Field(None, description="where adapters are handed over; None is a temporary directory")
    concurrency: int = Field(64, ge=1, description="requests at a time")
    timeout_seconds: float = Field(600.0, gt=0, description="seconds a request")
    attempts: int = Field(
        8, ge=1, description="requests before giving up on a server that stopped answering; two at the door"
    )
    pause_seconds: float = Field(1.0, ge=0, description="seconds before the second attempt; doubled each time")
    importance_cap: float | None = Field(
        None,
        gt=0,
        description="truncates π(trainer) / π(sampler) by which each token's advantage is weighted; None is no weight",
    )
    max_sampler_kl: float = Field(
        0.5, gt=0, description="nats a token between a server and the code that trains beyond which nothing is learnt"
    )


class PpoConfig(Section):
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

    @rule
    def _minibatches_make_an_update(self) -> Iterator[str]:
        if self.episodes % self.minibatch:
            yield f"'minibatch' should divide episodes {self.episodes} (got {self.minibatch})"

    @rule
    def _a_pass_is_part_of_a_minibatch(self) -> Iterator[str]:
        if self.micro_batch > self.minibatch:
            yield f"'micro_batch' should be at most minibatch {self.minibatch} (got {self.micro_batch})"

    @rule
    def _an_adaptive_coefficient_can_move(self) -> Iterator[str]:
        if self.kl_target is not None and self.kl_coef == 0:
            yield "'kl_coef' should be above 0 where kl_target is set: a factor of 0 stays 0 (got 0)"

    @rule
    def _an_adaptive_coefficient_stays_above_zero(self) -> Iterator[str]:
        # At a fifth of the episodes the factor of one update would be 0, below that negative: KL would be paid for.
        if self.kl_target is not None and self.kl_horizon < self.episodes:
            yield f"'kl_horizon' should be at least episodes {self.episodes} (got {self.kl_horizon})"

    @rule
    def _who_trains_reads_what_another_drew(self) -> Iterator[str]:
        if self.old_logprobs != "generation":
            return
        if self.rollout.engine == "vllm":
            yield (
                "'old_logprobs' should be recompute where another engine draws: its arithmetic is not the trainer's (got 'generation')"
            )
        if self.rollout.importance_cap is not None:
            yield "'old_logprobs' should be recompute where rollout.importance_cap is set (got 'generation')"

    @rule
    def _something_is_rewarded(self) -> Iterator[str]:
        if not any(self.reward_sources.values()):
            yield f"'reward_sources' should give at least one source a weight other than 0 (got {self.reward_sources or 'none'})"


class KtoConfig(Section):
    """KTO on thumbs, in PPO's place where `learner` is kto. Thumbs up and down are weighted so that each kind counts half.
    The answers that the detectors read are drawn for them alone, at every look."""

    epochs: int = Field(1, ge=1, description="passes over the thumbs")
    batch_size: int = Field(16, ge=2, description="thumbs a step; the KL term is estimated within it")
    learning_rate: float = Field(1e-4, gt=0, lt=1, description="peak, per step")
    warmup_share: float = Field(0.1, ge=0, lt=1, description="share of the steps over which the rate rises")
    beta: float = Field(0.1, gt=0, description="how dear it is to move from the SFT policy, per nat")
    checkpoint_every: int = Field(20, ge=0, description="steps; 0 is never")
    max_grad_norm: float = Field(1.0, gt=0, description="gradients are scaled down to this norm")
    max_new_tokens: int = Field(32, ge=1, description="tokens an answer that the detectors read")
    temperature: float = Field(0.7, gt=0, description="of sampling these answers")
