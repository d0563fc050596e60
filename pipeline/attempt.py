"""The folders of a step that is not finished: the one at work, and one set aside to go on from."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from pipeline.manifest import Begun
from pipeline.step import CHECKPOINTS

# What an unfinished step was begun with.
KEY = ".key"


def partial_of(target: Path) -> Path:
    return target.with_name(target.name + ".partial")


def aside_of(partial: Path) -> Path:
    return partial.with_name(partial.name + ".old")


def begun_in(folder: Path) -> Begun | None:
    """What a step in this folder was begun with; None where that cannot be read."""
    try:
        return Begun(**json.loads((folder / KEY).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def tidy(target: Path) -> None:
    """Takes from a finished step what only served to finish it."""
    shutil.rmtree(target / CHECKPOINTS, ignore_errors=True)
    (target / KEY).unlink(missing_ok=True)


def leftover(partial: Path, same: Callable[[Begun], bool]) -> Path | None:
    """Puts a killed attempt aside, if `same` says that it was for what is asked now; removes it otherwise."""
    aside = aside_of(partial)

    def ours(folder: Path) -> bool:
        begun = begun_in(folder)
        return begun is not None and same(begun)

    # Killed between putting the attempt aside and taking its checkpoints over: they still lie aside.
    if ours(aside) and (aside / CHECKPOINTS).exists() and not (partial / CHECKPOINTS).exists():
        shutil.rmtree(partial, ignore_errors=True)
        return aside
    shutil.rmtree(aside, ignore_errors=True)
    if ours(partial):
        partial.rename(aside)
        return aside
    shutil.rmtree(partial, ignore_errors=True)
    return None
