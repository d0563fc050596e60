"""Which assistant is in service: one small file in the run that everything started from, replaced whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from pipeline.disk import write_json
from pipeline.errors import UserError
from pipeline.manifest import MANIFEST
from pipeline.run import CONFIG, Run, as_argument, at_hand

SERVICE = "service.json"


@dataclass(frozen=True)
class InService:
    """One assistant.

    Attributes:
        run: name of its run, beside the run that everything started from.
        stage: the checkpoint that answers, sft or ppo.
        round: the round that made it; 0 is before any round.
        since: UTC time at which it came into service.
        why: what was known of it then, where a person put it there.
    """

    run: str
    stage: str
    round: int
    since: str = ""
    why: str = ""


def history(base: Path) -> tuple[InService, ...]:
    """All that were in service, the present one last.

    Raises:
        UserError: the run has no assistant, or the file is damaged.
    """
    file = base / SERVICE
    if not file.is_file():
        done = [name for name in ("sft", "ppo") if (base / "stages" / name / MANIFEST).is_file()]
        if not done:
            raise UserError(f"{base}: no trained model yet{at_hand(base)}. `python run_pipeline.py run --run {as_argument(base)}` makes one.")
        return (InService(base.name, done[-1], 0),)
    try:
        found = tuple(InService(**row) for row in json.loads(file.read_text(encoding="utf-8"))["history"])
        if not found:
            raise ValueError("nobody is in service")
        return found
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{file}: damaged. Remove it to go back to {base.name} itself.") from None


def present(base: Path) -> InService:
    """The assistant in service."""
    return history(base)[-1]


def path_of(base: Path, one: InService) -> Path:
    """The run of an assistant. Runs are renamed: round 0 is `base` whatever it was called then, and a round's run may have been renamed
    with it."""
    if one.round == 0:
        return base
    renamed = round_path(base, one.round)
    return renamed if renamed.is_dir() else base.parent / one.run


def round_path(base: Path, number: int) -> Path:
    """The run that a round of `base` makes."""
    return base.parent / f"{base.name}-round-{number:03d}"


def put(base: Path, run: str, stage: str, number: int, why: str = "") -> None:
    """Puts an assistant in service. Who reads the file meanwhile finds the old one or the new one, also after a loss of power."""
    rows = [*history(base), InService(run, stage, number, f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S}", why)]
    write_json(base / SERVICE, {"history": [asdict(row) for row in rows]})


def follow(base: Run, overrides: Sequence[str] | None = None) -> Run:
    """The run whose assistant is in service for `base`: itself before any round was promoted."""
    if not (base.path / SERVICE).is_file():
        return base
    path = path_of(base.path, present(base.path))
    if path == base.path:
        return base
    if not (path / CONFIG).is_file():
        raise UserError(
            f"{path}: in service for {base.path.name}, but not there. `rollback` puts another one in service."
        )
    return Run.load(path, overrides or [])
