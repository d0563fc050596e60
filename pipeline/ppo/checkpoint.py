"""Whole checkpoints of a PPO run: written aside, hashed, renamed; a torn or altered one is never taken for good."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

_PREFIX = "update-"


def save(directory: Path, update: int, tensors: dict[str, Tensor], facts: dict) -> None:
    """Leaves `directory/update-N` with all of it or not at all, and removes older ones."""
    directory.mkdir(parents=True, exist_ok=True)
    partial, target = directory / f".partial-{update:06d}", directory / f"{_PREFIX}{update:06d}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    save_file({k: v.contiguous() for k, v in tensors.items()}, partial / "tensors.safetensors")
    (partial / "facts.json").write_text(json.dumps(facts), encoding="utf-8")
    seal = {name: _sha256(partial / name) for name in ("tensors.safetensors", "facts.json")}
    (partial / "seal.json").write_text(json.dumps(seal), encoding="utf-8")
    for file in partial.iterdir():
        _sync(file)
    _sync(partial)
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)
    _sync(directory)
    for older in directory.glob(f"{_PREFIX}*"):
        if older != target:
            shutil.rmtree(older)


def newest(directory: Path) -> tuple[dict[str, Tensor], dict] | None:
    """Tensors and facts of the newest checkpoint whose files are what was sealed; None when there is none."""
    for candidate in sorted(directory.glob(f"{_PREFIX}*"), reverse=True):
        try:
            seal = json.loads((candidate / "seal.json").read_text(encoding="utf-8"))
            if all(_sha256(candidate / name) == digest for name, digest in seal.items()):
                facts = json.loads((candidate / "facts.json").read_text(encoding="utf-8"))
                return load_file(candidate / "tensors.safetensors"), facts
        except (OSError, ValueError):
            continue
    return None


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
