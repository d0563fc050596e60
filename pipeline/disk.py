"""Files that are there whole or not at all, and the hashes they are known by.

The order is that of databases: the content to the disk, then the name, then the folder that holds the name (Pillai et al. 2014).
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Writes `text` beside `path` and moves it there: who reads `path` finds the old content or the new, and never a part."""
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        # On a full disk what was begun would only take the space that the next attempt needs.
        partial.unlink(missing_ok=True)
        raise
    partial.replace(path)
    sync(path.parent)


def write_json(path: Path, content: dict) -> None:
    """As `write_whole`; a number that JSON does not know is a ValueError, and nothing is written then."""
    write_whole(path, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def sha256(file: Path) -> str:
    """The hex digest of a file's content, read in pieces."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Asks the system to have the file or folder on the disk before it returns."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
