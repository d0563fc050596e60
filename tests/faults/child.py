"""A run in a process of its own that strikes itself at a chosen moment.

    python tests/faults/child.py POINT FAULT run --config …

Every optimiser step, file sync, rename and removal is a crash point; they are counted, and at point POINT the FAULT happens: `kill` (SIGKILL),
`term` and `int` (the signals), `full` (the disk is full from there on), or `count` (nothing; the number of points is printed at the
end).
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

POINT, FAULT = int(sys.argv[1]), sys.argv[2]
passed = 0


def strike(writes: bool) -> None:
    """Counts a crash point, and does what was asked for at its number."""
    global passed
    passed += 1
    if FAULT == "full" and passed >= POINT and writes:
        raise OSError(errno.ENOSPC, "No space left on device")
    if passed == POINT:
        if FAULT == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if FAULT in ("term", "int"):
            os.kill(os.getpid(), signal.SIGTERM if FAULT == "term" else signal.SIGINT)


def before(owner, name: str, *, writes: bool) -> None:
    real = getattr(owner, name)

    def wrapped(*args, **kwargs):
        strike(writes)
        return real(*args, **kwargs)

    setattr(owner, name, wrapped)


for owner, name, writes in (
    (os, "fsync", True),
    (os, "rename", True),
    (os, "replace", True),
    (shutil, "rmtree", False),
    (torch.optim.AdamW, "step", False),
):
    before(owner, name, writes=writes)

from pipeline.cli import main  # noqa: E402

sys.argv = ["run_pipeline.py", *sys.argv[3:]]
try:
    main()
finally:
    print(f"POINTS {passed}", flush=True)
