"""Which assistant is in service: one small file in the run that everything started from, replaced whole or not at all."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from data.choices import family_of
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


def names(base: Path) -> frozenset[str]:
    """What a run is called, and was called as far as it and its rounds tell. Votes are kept under the name of the time.

    A name that another run has now is that run's.
    """
    told = [one.run for one in history(base)] if (base / SERVICE).is_file() else []
    # Not parsed: what is damaged in them is for others to tell.
    run = r'^ *"run": "([\w.-]+)"'
    # Of a snapshot, the run of the assistant that was in service when the round began.
    for files, name in ((CONFIG, r"^run_name: '?([\w.-]+)"), ("rounds/*/round.json", run), ("rounds/*/snapshot.json", run)):
        for file in base.glob(files):
            told += re.findall(name, file.read_text(encoding="utf-8"), re.MULTILINE)[:1]
    was = {family_of(run)[0] for run in told}
    return frozenset({family_of(base.name)[0], *(name for name in was if not (base.parent / name).is_dir())})


def known_as(base: Path, run: str) -> Path:
    """The run that the store knows by a name: where `base` was renamed, that or one of its rounds, else the one beside it."""
    here, (family, number) = base.parent / run, family_of(run)
    return path_of(base, InService(run, "", number)) if not here.is_dir() and family in names(base) else here


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
