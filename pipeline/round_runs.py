"""Where the runs lie that the rounds of a run made: found by their numbers, whatever the run was called then."""

from __future__ import annotations

import json
from pathlib import Path

from pipeline import service, snapshot
from pipeline.manifest import MANIFEST


def of_round(base: Path, number: int) -> Path:
    """The run that a round of `base` made or is to make.

    Where `base` was renamed and the round's run was not, that is one under an earlier name of `base` (`service.names`), if what it was made
    from is, by its hashes, this round's snapshot.
    """
    now = service.round_path(base, number)
    if now.is_dir():
        return now
    taken = snapshot.hashes(base / "rounds" / f"{number:03d}")
    earlier = (base.parent / f"{name}-round-{number:03d}" for name in sorted(service.names(base)))
    return next((path for path in earlier if taken and taken <= _made_from(path)), now)


def of_rounds(base: Path) -> dict[int, Path]:
    """The runs that are there of all rounds of `base`, by number."""
    begun = {int(folder.name) for folder in (base / "rounds").glob("[0-9][0-9][0-9]")}
    beside = {int(path.name[-3:]) for path in base.parent.glob(f"{base.name}-round-[0-9][0-9][0-9]")}
    found = {number: of_round(base, number) for number in sorted(begun | beside)}
    return {number: path for number, path in found.items() if path.is_dir()}


def _made_from(run: Path) -> set[str]:
    """sha256 of the data files that a run was prepared from; empty where it was not prepared, or nobody can tell."""
    try:
        prepared = json.loads((run / "stages" / "prepare" / MANIFEST).read_text(encoding="utf-8"))
        return {file["sha256"] for file in prepared["files"]}
    except (OSError, ValueError, KeyError, TypeError):
        return set()
