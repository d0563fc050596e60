"""Data sets of the Hub, named as `hub:owner/name[/subset][@revision][:split]`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.errors import UserError

MARK = "hub:"
_WORD = r"[\w][\w.-]*"
_NAME = re.compile(
    rf"hub:(?P<repo>{_WORD}/{_WORD})(/(?P<subset>{_WORD}))?(@(?P<revision>[\w][\w./-]*))?(:(?P<split>[\w.-]+))?",
    re.ASCII,
)
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class HubName:
    """What such a name says; `revision` None is the newest, `split` is 'train' when it says none."""

    repo: str
    subset: str | None
    revision: str | None
    split: str

    @property
    def pinned(self) -> bool:
        """Whether the revision is a commit, so that the rows can never change under the name."""
        return bool(self.revision and _COMMIT.fullmatch(self.revision))


def is_hub(path: Path | str) -> bool:
    return str(path).startswith(MARK)


def parse_name(path: Path | str) -> HubName:
    """
    Raises:
        UserError: the name does not read as it should.
    """
    found = _NAME.fullmatch(str(path))
    if not found:
        raise UserError(
            f"{path}: should read hub:owner/name, with /subset, @revision and :split where needed, "
            "for example hub:owner/name@main:train."
        )
    return HubName(found["repo"], found["subset"], found["revision"], found["split"] or "train")


def read_hub(path: Path | str) -> Iterator[tuple[int, dict[str, Any]]]:
    """(row number from 1, row). Rows lie in a memory-mapped cache, so memory does not grow with them.

    Raises:
        UserError: the data set, its revision or its split is not there, or the Hub cannot be reached.
    """
    name = parse_name(path)
    if Path(name.repo).exists():
        # `datasets` would read the directory and ignore the revision.
        raise UserError(f"{path}: {name.repo} is also a directory here. Name it without '{MARK}', or run elsewhere.")
    import datasets

    try:
        rows = datasets.load_dataset(name.repo, name.subset, split=name.split, revision=name.revision)
    except Exception as error:
        # The libraries below raise more kinds than they name; each is the name, the network or a damaged file.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"{path}: cannot be loaded: {reason:.300}. Check the name, revision and split; offline, give a file instead."
        ) from None
    yield from enumerate(rows, start=1)


def pinned_name(path: Path | str) -> str | None:
    """The name with its revision's commit, as the Hub gives it now; None when the Hub cannot be asked."""
    name = parse_name(path)
    if name.pinned:
        return str(path)
    from huggingface_hub import HfApi

    try:
        commit = HfApi().dataset_info(name.repo, revision=name.revision).sha
    except Exception:  # as above: whatever went wrong, the caller says what cannot be pinned
        return None
    return f"{MARK}{name.repo}{'/' + name.subset if name.subset else ''}@{commit}:{name.split}"
