"""Finished steps of another run that would come out the same here: they are copied instead of made again.

A round changes the rankings, and mostly not the demonstrations. What does not read the rankings need not be trained again.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.disk import sha256
from pipeline.errors import UserError

if TYPE_CHECKING:
    from pipeline.manifest import StageManifest
    from pipeline.run import Run
    from pipeline.step import Step

# In the report of `prepare`: every step that opens the model depends on them.
_MODEL = ("base_weights_sha256", "template_sha256")


def same(step: Step, steps: dict[str, Step], new: Run, old: Run) -> StageManifest | None:
    """The manifest of `old`'s finished step if the step would read the same bytes under the same settings in `new`.

    The same: its version, its settings, the sha256 of every file that it reads of the steps it needs (`Step.reads`), and the base's
    weights and template. None also where `old`'s step was made with other settings than `old` has now, or is damaged.
    """
    done = old.manifest(step)
    if done is None or not step.reads or done.version != step.version_under(new.config):
        return None
    if old.config.subset(step.settings) != new.config.subset(step.settings):
        return None
    if old.differences(step, steps) or old.verify(step):
        return None
    if _model(new) != _model(old):
        return None
    for name, files in step.reads.items():
        mine, theirs = (_hashes(run, steps[name]) for run in (new, old))
        # A file that neither has is the same: some are there in some runs alone.
        if any(mine.get(file) != theirs.get(file) for file in files):
            return None
    return done


def copy(done: StageManifest, source: Path, target: Path) -> None:
    """The step's artifacts, and nothing else that lies there.

    Raises:
        UserError: a file changed while it was copied.
    """
    for artifact in done.artifacts:
        (target / artifact.path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / artifact.path, target / artifact.path)
        if sha256(target / artifact.path) != artifact.sha256:
            raise UserError(f"{source / artifact.path}: changed while it was copied. Give the same command again.")


def _hashes(run: Run, step: Step) -> dict[str, str]:
    done = run.manifest(step)
    return {artifact.path: artifact.sha256 for artifact in done.artifacts} if done else {}


def _model(run: Run) -> tuple:
    report = json.loads((run.path / "stages" / "prepare" / "report.json").read_text(encoding="utf-8"))
    return tuple(report.get(name) for name in _MODEL)
