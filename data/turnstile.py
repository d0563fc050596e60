"""Turns between processes that write to one database.

SQLite's lock goes to whoever asks in the moment in which it is free. A process that writes vote after vote asks again a tenth of a
millisecond after it has let go; the others look every 100 ms, as SQLite has them do, and find it taken: under load one of four writers
waited in vain for ten seconds. Here whoever wants the lock must first stand in the turnstile, which holds one. The process that has
just written finds it taken, so the lock falls to the one inside.
"""

from __future__ import annotations

import fcntl
import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Of those outside, each looks at times of its own, so that none is always the first.
_SHORTEST, _LONGEST = 0.0005, 0.004


class Turnstile:
    """A file whose lock the system frees when its holder dies. One for each connection."""

    def __init__(self, path: Path):
        # Made when somebody writes: who only reads leaves nothing behind.
        self._path, self._file = path, None

    @contextmanager
    def inside(self, until: float) -> Iterator[None]:
        """Waits for the place inside and holds it for the block, which should be short.

        Raises:
            TimeoutError: it was taken until `until`, a `time.monotonic()`.
        """
        if self._file is None:
            self._file = os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        while True:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise TimeoutError from None
            time.sleep(random.uniform(_SHORTEST, _LONGEST))
        try:
            yield
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None
