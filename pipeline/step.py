"""What a run is made of: a stage or an evaluation as one step, and what the step's code is given."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import progress
from pipeline.config import Config

if TYPE_CHECKING:
    from pipeline.run import Run

LOG, CHECKPOINTS = "log.jsonl", "checkpoints"
EVALUATION = "evaluate-"


def anew(name: str) -> str:
    """The command that makes a step of that name anew, whatever verb is at work now. An evaluation needs no training for it."""
    return "`evaluate`" if name.startswith(EVALUATION) else f"`run --redo {name}`"


@dataclass(frozen=True)
class Step:
    """A stage, or the evaluation of one.

    Attributes:
        name: "sft", or "evaluate-sft".
        needs: names of the steps whose results it reads.
        settings: dotted config keys or sections that its result depends on.
        version: raised when the code changes what it leaves behind.
        body: "module:function", imported when it runs; takes a StepContext, returns the manifest's metrics.
        files: data files that it reads beside finished steps.
        reads: of the steps it needs, the files that its result depends on; named in full, it may be taken over from another run
            (`pipeline.takeover`). Empty where that is never worth it.
        versions: by `learner`, of those whose own code alone has changed since `version`.
    """

    name: str
    needs: tuple[str, ...]
    settings: tuple[str, ...]
    version: int
    body: str
    files: Callable[[Config], Sequence[Path]] = field(default=lambda config: ())
    reads: dict[str, tuple[str, ...]] = field(default_factory=dict)
    versions: dict[str, int] = field(default_factory=dict)

    def version_under(self, config: Config) -> int:
        """The version of the code that `config` chooses."""
        return self.versions.get(config.learner, self.version)

    @property
    def anew(self) -> str:
        return anew(self.name)

    @property
    def is_evaluation(self) -> bool:
        return self.name.startswith(EVALUATION)

    @property
    def folder(self) -> str:
        """Where its result lies within the run."""
        if self.is_evaluation:
            return f"evaluation/{self.name.removeprefix(EVALUATION)}"
        return f"stages/{self.name}"


@dataclass(frozen=True)
class StepContext:
    """What a step's body is given.

    Attributes:
        out: directory to write into; it becomes the step's own when the body returns.
        inputs: finished directories of the steps it needs, by name.
        resume_dir: what an earlier, killed attempt with the same key left behind, or None.
        progress: `pipeline.progress.track`.
    """

    config: Config
    run: Run
    out: Path
    inputs: dict[str, Path]
    resume_dir: Path | None
    progress: Callable[..., Any] = progress.track

    @property
    def checkpoints(self) -> Path:
        """Where a step keeps what it can be taken up from; gone when it is finished. An earlier, killed attempt with the same
        key left its own there."""
        return self.out / CHECKPOINTS

    def log(self, line: dict[str, Any]) -> None:
        """Appends one JSON line to the step's log. JSON has no infinity and nothing that is no number: such a figure is null."""
        line = {name: None if isinstance(x, float) and not math.isfinite(x) else x for name, x in line.items()}
        with (self.out / LOG).open("a", encoding="utf-8", newline="\n") as file:
            file.write(json.dumps(line, allow_nan=False) + "\n")
