"""What a finished step, and one that was begun, say of themselves."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import UserError

MANIFEST = "manifest.json"
# In the environment of a step that was not made but copied: the run it was made in.
TAKEN_OVER = "taken_over_from"


@dataclass(frozen=True)
class Artifact:
    path: str
    sha256: str
    bytes: int


@dataclass(frozen=True)
class StageManifest:
    """What a finished step says of itself."""

    stage: str
    key: str
    version: int
    inputs: dict[str, str]
    settings: dict[str, Any]
    files: list[dict[str, str]]
    artifacts: list[Artifact]
    metrics: dict[str, float]
    environment: dict[str, Any]
    # Of all of the above: a manifest is covered by no other hash.
    digest: str = ""

    def own_digest(self) -> str:
        text = json.dumps({**asdict(self), "digest": ""}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @staticmethod
    def read(file: Path, anew: str) -> StageManifest:
        """Raises UserError for a file that is none; `anew` is the command that makes another."""
        try:
            raw = json.loads(file.read_text(encoding="utf-8"))
            return StageManifest(**{**raw, "artifacts": [Artifact(**a) for a in raw["artifacts"]]})
        except (ValueError, KeyError, TypeError):
            raise UserError(
                f"{file}: damaged, not a manifest that a run wrote. {anew} makes it anew."
            ) from None


@dataclass(frozen=True)
class Begun:
    """What an unfinished step says of itself, so that nothing else is taken up from what it left."""

    key: str
    version: int
    inputs: dict[str, str]
    settings: dict[str, Any]
    files: list[dict[str, str]]


def key_of(stage: str, version: int, identity: dict[str, Any]) -> str:
    """What a result is known by: sha256 of its stage, code version, inputs, settings and data files."""
    text = json.dumps({"stage": stage, "version": version, **identity}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
