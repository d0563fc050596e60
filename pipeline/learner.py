"""Which learner made a run's last policy. Its stage is `ppo` whichever it was, on disk and in the store; people are told which."""

from __future__ import annotations

import json
from pathlib import Path

from pipeline.manifest import MANIFEST

# The stage that the setting `learner` fills.
STAGE = "ppo"


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
