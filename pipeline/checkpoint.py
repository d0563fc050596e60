"""Whole checkpoints of work that goes on for long: written aside, sealed by hash, renamed. A torn or altered one is never taken
for good, and the one before it is kept until the next is sealed.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.disk import sha256, sync, write_whole

if TYPE_CHECKING:
    from torch import Tensor

STEP, SEAL = "step-", "seal.json"
TENSORS, FACTS = "tensors.safetensors", "facts.json"
# The newest and the one before it: should the newest be damaged, little is lost.
KEPT = 2


def save(directory: Path, step: int, tensors: dict[str, Tensor], facts: dict) -> None:
    """Leaves `directory/step-N` with all of it or not at all, and removes all but the newest two."""
    from safetensors.torch import save_file

    partial, target = directory / f".partial-{step:08d}", directory / f"{STEP}{step:08d}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        save_file({k: v.contiguous().cpu() for k, v in tensors.items()}, partial / TENSORS)
        (partial / FACTS).write_text(json.dumps(facts), encoding="utf-8")
        seal(partial)
    except Exception:
        # On a full disk a torn checkpoint would only take the space that the next attempt needs.
        shutil.rmtree(partial, ignore_errors=True)
        raise
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)
    sync(directory)
    rotate(directory, STEP)


def newest(directory: Path) -> tuple[dict[str, Tensor], dict] | None:
    """Tensors and facts of the newest whole checkpoint; None when there is none."""
    from safetensors.torch import load_file

    found = newest_sealed(directory, STEP)
    if found is None:
        return None
    return load_file(found / TENSORS), json.loads((found / FACTS).read_text(encoding="utf-8"))


def seal(folder: Path) -> None:
    """Writes every file of `folder` to the disk, and last the hashes that make it whole."""
    files = [f for f in sorted(folder.rglob("*")) if f.is_file() and f.name != SEAL]
    hashes = {str(f.relative_to(folder)): sha256(f) for f in files}
    for file in files:
        sync(file)
    write_whole(folder / SEAL, json.dumps(hashes))


def is_whole(folder: Path) -> bool:
    """Whether `folder` was sealed and holds exactly the files, byte for byte, that it was sealed with."""
    try:
        hashes = json.loads((folder / SEAL).read_text(encoding="utf-8"))
        present = {str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file()} - {SEAL}
        return present == hashes.keys() and all(sha256(folder / name) == digest for name, digest in hashes.items())
    except (OSError, ValueError, AttributeError):
        return False


def newest_sealed(directory: Path, prefix: str) -> Path | None:
    """The whole folder `prefix`N with the largest N."""
    return next((f for f in reversed(numbered(directory, prefix)) if is_whole(f)), None)


def rotate(directory: Path, prefix: str) -> None:
    """Removes all but the newest `KEPT` folders, and those that were never sealed."""
    folders = numbered(directory, prefix)
    sealed = [f for f in folders if (f / SEAL).is_file()]
    for folder in folders:
        if folder not in sealed[-KEPT:]:
            shutil.rmtree(folder)


def numbered(directory: Path, prefix: str) -> list[Path]:
    """Folders `prefix`N, by N."""
    found = [f for f in directory.glob(f"{prefix}*") if f.is_dir() and f.name.removeprefix(prefix).isdigit()]
    return sorted(found, key=lambda f: int(f.name.removeprefix(prefix)))
