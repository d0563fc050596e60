"""The stages in their order, and the evaluation that follows each. Read this file to know what a run does.

A step is keyed by the settings it names, the data files it reads and the manifests of the steps it needs; its version is raised
when its code changes what it leaves behind. A step that names in `reads` every file it depends on is taken over by a round where
those files are the same.
"""

from __future__ import annotations

from pathlib import Path

from data.hub import is_hub
from data.sources import files_of
from data.yardsticks import BUILT_IN
from pipeline.step import Step

_COMMON = ("seed", "model", "lora")
_ANSWERING = (*_COMMON, "evaluation", "data.max_prompt_tokens")
# What `prepare` copies of them; a run may have neither.
_YARDSTICKS = ("general_text.jsonl", "facts.jsonl")


def _data_files(config) -> list[Path]:
    # A Hub name is part of the settings already, and its commit stands for its rows.
    local = [source for _, source in config.data.sources() if not is_hub(source)]
    # The built-in texts and questions are part of the code: `prepare`'s version stands for them, wherever the project lies.
    own = [file for key, file in config.data.yardsticks() if getattr(config.data, key) != BUILT_IN]
    return [file for source in local for file in files_of(source)] + own


STAGES: tuple[Step, ...] = (
    Step(
        name="prepare",
        needs=(),
        settings=("model", "data", "sft.max_tokens"),
        version=3,
        body="pipeline.stages.prepare:run",
        files=_data_files,
    ),
    Step(
        name="sft",
        needs=("prepare",),
        settings=(*_COMMON, "sft"),
        version=2,
        body="pipeline.stages.sft:run",
        reads={"prepare": ("demonstrations.train.jsonl",)},
    ),
    Step(
        name="reward",
        needs=("prepare", "sft"),
        settings=(*_COMMON, "reward", "data.max_prompt_tokens"),
        version=2,
        body="pipeline.stages.reward:run",
    ),
    Step(
        name="ppo",
        needs=("prepare", "sft", "reward"),
        settings=(*_COMMON, "learner", "kto", "ppo", "detectors", "evaluation.gold", "data.max_prompt_tokens"),
        version=3,
        versions={"kto": 5},
        body="pipeline.stages.policy:run",
        files=lambda config: (
            [Path(config.ppo.start_from) / "adapter_model.safetensors"] if config.ppo.start_from else []
        ),
    ),
)

EVALUATIONS: dict[str, Step] = {
    "prepare": Step(
        name="evaluate-base",
        needs=("prepare",),
        settings=_ANSWERING,
        version=6,
        body="pipeline.evaluation.harness:evaluate_base",
        reads={"prepare": ("heldout_prompts.jsonl", *_YARDSTICKS)},
    ),
    "sft": Step(
        name="evaluate-sft",
        needs=("prepare", "sft", "evaluate-base"),
        settings=_ANSWERING,
        version=8,
        body="pipeline.evaluation.harness:evaluate_sft",
        reads={
            "prepare": ("heldout_prompts.jsonl", "demonstrations.test.jsonl", *_YARDSTICKS),
            "sft": ("adapter/adapter_model.safetensors", "adapter/adapter_config.json"),
            "evaluate-base": ("answers.jsonl", "yardsticks.json"),
        },
    ),
    "reward": Step(
        name="evaluate-reward",
        needs=("prepare", "reward"),
        settings=(*_ANSWERING, "ppo.ensemble", "ppo.ensemble_coef"),
        version=8,
        body="pipeline.evaluation.harness:evaluate_reward",
    ),
    "ppo": Step(
        name="evaluate-ppo",
        needs=("prepare", "sft", "reward", "ppo", "evaluate-base", "evaluate-sft"),
        settings=(*_ANSWERING, "judge", "ppo.ema_decay"),
        version=7,
        body="pipeline.evaluation.harness:evaluate_ppo",
    ),
}
