"""The last stage: what makes a better policy out of the SFT policy, by the setting `learner`."""

from __future__ import annotations

import importlib

# Imported when chosen: each brings its own trainer.
LEARNERS = {"ppo": "pipeline.stages.ppo", "kto": "pipeline.stages.kto"}


def run(ctx) -> dict[str, float]:
    """PPO on the reward model, or KTO on thumbs alone. Both leave `adapter/` and one line a step in `log.jsonl`."""
    return importlib.import_module(LEARNERS[ctx.config.learner]).run(ctx)
