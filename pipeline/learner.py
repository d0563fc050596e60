"""Which learner made a run's last policy. Its stage is `ppo` whichever it was, on disk and in the store; people are told which."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path

from pipeline.manifest import MANIFEST

# The stage that the setting `learner` fills, and the learners that can.
STAGE = "ppo"
LEARNERS = ("ppo", "kto")


def called(run: Path, stage: str) -> str:
    """What to call a run's checkpoint: its stage, or the learner that ran in it, as its manifest says.

    The config may name another one by now. Where the stage is gone, or says nothing, it has its stage's name.
    """
    if stage != STAGE:
        return stage
    try:
        settings = json.loads((run / "stages" / stage / MANIFEST).read_text(encoding="utf-8")).get("settings", {})
    except (OSError, ValueError):
        return stage
    return str(settings.get("learner", stage))


def meant(name: str, names: Collection[str]) -> str:
    """Which of `names` is meant where somebody says `ppo`, or `ppo-round-2`, of a policy that another learner made.

    The stage's name stands in clients' settings, and no other checkpoint can be meant by it. What is not meant so comes back as it is.
    """
    if name.split("-round-")[0] != STAGE:
        return name
    return next((known for learner in LEARNERS if (known := learner + name.removeprefix(STAGE)) in names), name)
