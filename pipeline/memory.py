"""Giving memory back. Batches of ever new shapes leave the C heap full of holes that no later batch fits into: without this, a PPO
run of twelve updates grew from 1.8 GB to 3.9 GB."""

from __future__ import annotations

import ctypes
import gc


def release() -> None:
    """Collects what Python no longer needs and returns free pages to the system (a few milliseconds)."""
    gc.collect()
    # glibc's; other C libraries have no such call.
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
