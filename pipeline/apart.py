"""What of a step, finished or begun, is not what the config asks for now: a phrase for each setting, data file and earlier result."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.config import defaults
from pipeline.manifest import Begun, StageManifest

_UNSET = "unset"


def apart(done: StageManifest | Begun, now: Mapping[str, Any], version: int) -> list[str]:
    """The phrases; none where the step would come out the same.

    Args:
        now: settings, files and inputs of the step as they are now, in the form in which a manifest keeps them.
        version: of the step's code now.
    """
    found = [] if done.version == version else [f"code version {done.version}, now {version}"]
    before, after = ({file["path"]: file["sha256"] for file in files} for files in (done.files, now["files"]))
    # A setting that came later and stands at its default changes nothing; where it does, the step's version is raised.
    default = defaults()
    later = {n for n in now["settings"].keys() - done.settings.keys() if now["settings"][n] == default.get(n)}
    elsewhere: set[str] = set()
    for name in sorted((done.settings.keys() | now["settings"].keys()) - later):
        was, is_ = done.settings.get(name, _UNSET), now["settings"].get(name, _UNSET)
        if was == is_:
            continue
        if moved := _moved(was, is_, before, after):
            elsewhere |= moved
        else:
            found.append(f"{name} {was}, now {is_}")
    for path in sorted(before.keys() | after.keys()):
        gone_or_come = path not in before or path not in after
        if before.get(path) != after.get(path) and not (gone_or_come and path in elsewhere):
            found.append(f"another {path}")
    return found + [f"an earlier result of '{name}'" for name, digest in now["inputs"].items() if done.inputs.get(name) != digest]


def _moved(was: Any, is_: Any, before: Mapping[str, str], after: Mapping[str, str]) -> set[str]:
    """The paths of the files that two values of a setting name, if these are the same files in two places: a result depends on what
    stands in them, not on where they lie. None where they are others, or the setting names no files.

    Args:
        before, after: path → sha256 of the files that were read, and that would be read.
    """
    if not (isinstance(was, str) and isinstance(is_, str)) or Path(was).name != Path(is_).name:
        return set()
    # By what they are called from there: the setting may name a directory.
    here, there = (
        {Path(path).relative_to(place): path for path in files if Path(path).is_relative_to(place)}
        for place, files in ((was, before), (is_, after))
    )
    same = here.keys() == there.keys() and all(before[here[name]] == after[there[name]] for name in here)
    return {*here.values(), *there.values()} if same else set()
