"""The whole configuration, and what its sections ask of each other."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from pydantic import Field

from pipeline.config.data import DataConfig
from pipeline.config.detectors import DetectorsConfig
from pipeline.config.judging import EvaluationConfig, Gate, JudgeConfig
from pipeline.config.model import LoraConfig, ModelConfig
from pipeline.config.section import Section, rule
from pipeline.config.training import KtoConfig, PpoConfig, RewardConfig, SftConfig
from pipeline.config.using import ChatConfig, RoundsConfig

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
        for name in ("url", "adapter_dir", "concurrency", "timeout_seconds", "attempts", "pause_seconds", "max_sampler_kl")
    ),
}


class Config(Section):
    seed: int = Field(0, ge=0, lt=2**32, description="all chance follows from it")
    threads: int | None = Field(None, ge=1, le=1024, description="CPU threads; None is one for each core")
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

    @rule
    def _gates_name_a_metric(self) -> Iterator[str]:
        for name in self.gates:
            if not re.fullmatch(rf"({'|'.join(GATED)})\.\w+(\.ci_low|\.ci_high)?", name):
                yield f"'gates.{name}' should read stage.metric, stage one of {', '.join(GATED)} (got '{name}')"

    @rule
    def _no_gate_asks_for_what_ppo_raises(self) -> Iterator[str]:
        for name in self._gates_with_a_min():
            # KTO raises no reward: there the reward model is a judge like another.
            if re.fullmatch(r"ppo\.(\w+_)?proxy(\.\w+)?", name) and self.learner == "ppo":
                yield (
                    f"'gates.{name}' should have no min: PPO raises this number itself, so it can choose no policy. "
                    "Hold ppo.gold_minus_sft or ppo.judge_win_rate_vs_sft (got a min)"
                )

    @rule
    def _no_gate_asks_for_what_ppo_is_paid_by(self) -> Iterator[str]:
        for name in self._gates_with_a_min():
            if _BY_GOLD.fullmatch(name) and self._paid_by_gold():
                yield (
                    f"'gates.{name}' should have no min: ppo.reward_sources pays by the rubric, so PPO raises the gold score itself. "
                    "Hold ppo.test_model_minus_sft (reward.test_share) or ppo.judge_win_rate_vs_sft (got a min)"
                )

    @rule
    def _a_test_model_that_judges_is_taught(self) -> Iterator[str]:
        if self.evaluation.gold == "test_model" and not self.reward.test_share:
            yield (
                "'evaluation.gold' needs rankings that teach the test model: set reward.test_share, to 0.5 say (got test_model, and 0.0)"
            )

    @rule
    def _who_goes_on_from_the_policy_in_service_can(self) -> Iterator[str]:
        if self.rounds.continue_policy and self.learner != "ppo":
            yield f"'rounds.continue_policy' needs learner ppo: {self.learner} always starts from SFT (got true)"

    def _gates_with_a_min(self) -> list[str]:
        return [name for name, gate in self.gates.items() if getattr(gate, "min", None) is not None]

    def _paid_by_gold(self) -> bool:
        paid = self.learner == "ppo" and bool(self.ppo.reward_sources.get("rubric"))
        return paid and self.evaluation.gold == "rubric"

    @property
    def judged_by(self) -> Literal["rubric", "test_model"] | None:
        """Whose scores may choose between policies. What PPO raises never may: the policy that it likes best is the one
        that games it best (Gao et al. 2023)."""
        if self.evaluation.gold == "rubric" and not self._paid_by_gold():
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


def _flatten(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, inner in value.items():
        if isinstance(inner, dict) and inner and prefix != "gates.":
            yield from _flatten(inner, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", inner
