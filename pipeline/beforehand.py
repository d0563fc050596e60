"""What of a config would stop a run later on, told before anything is removed, written or trained."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.adapter_file import other_scale
from pipeline.config import Config, check_files
from pipeline.errors import UserError
from pipeline.evaluation import accepted, expected
from pipeline.run import Run

ADAPTER_FILE = "adapter_model.safetensors"


def wrong_settings(run: Run, accept: dict[str, str], inherited: Mapping[str, Any]) -> list[str]:
    """One line for each data file that is not there, each gate on a number that no card will have, and each gate accepted that does
    not exist; `inherited` are acceptances of another run."""
    there = ", ".join(run.config.gates) or "none"
    unknown = [f"--accept {gate}: no such gate; there are {there}." for gate in accept if gate not in run.config.gates]
    excused = accept.keys() | inherited.keys() | accepted.read(run.path).keys()
    return check_files(run.config) + [*expected.refused(run.config.gates, run.config, excused=excused).values()] + unknown


def bad_judge(config: Config) -> list[str]:
    """Why the endpoint that is to judge PPO cannot be used as it is configured: told now, not after the training."""
    if not config.judge.url:
        return []
    from pipeline.evaluation.judges import of_config

    try:
        of_config(config.judge)
    except UserError as error:
        return list(error.problems)
    return []


def bad_start_of_kto(config: Config) -> list[str]:
    """What would stop KTO when it begins."""
    if config.learner != "kto" or config.data.thumbs:
        return []
    return ["learner: kto, but there are no thumbs. Name a file in data.thumbs, or use learner: ppo."]


def bad_start_of_ppo(config: Config) -> list[str]:
    """What would stop PPO when it begins: told now, not after SFT and the reward model were trained."""
    if config.learner != "ppo":
        return []
    problems = []
    start = config.ppo.start_from
    if start is not None and not (Path(start) / ADAPTER_FILE).is_file():
        problems.append(f"ppo.start_from: no {ADAPTER_FILE} in {start}. Name the directory of an adapter, or null for SFT's.")
    elif start is not None and (why := other_scale(Path(start), config.lora)):
        problems.append(f"ppo.start_from: {start}: {why}. Take the settings that it was made with.")
    unknown = config.ppo.reward_sources.keys() - {"model"}
    if unknown:
        # Only now: it brings torch.
        from reward.sources import REWARD_SOURCES

        there = ", ".join(("model", *REWARD_SOURCES))
        problems += [f"ppo.reward_sources: no source '{name}'; there are {there}." for name in sorted(unknown - REWARD_SOURCES.keys())]
    return problems
