"""Ctrl-C and termination: the step at hand is finished and kept, a second signal ends at once."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class Stopped(BaseException):
    """The person or the system asked to stop. Not an `Exception`, so that no library takes it for a mistake of its own."""

    def __init__(self, signum: int):
        self.signum = signum
        super().__init__(signal.Signals(signum).name)


_waiting = False
_asked: int | None = None


def install() -> None:
    """Handles SIGINT and SIGTERM from here on."""
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, _handle)


@contextmanager
def steps_finish() -> Iterator[None]:
    """Within the block a first signal waits for `stop_if_asked`; outside it, and at the second, work ends where it is."""
    global _waiting, _asked
    _waiting, _asked = True, None
    try:
        yield
        # Asked after the last step: nothing in the block is lost, and the work ends here all the same.
        stop_if_asked()
    finally:
        _waiting, _asked = False, None


def asked() -> bool:
    """Whether somebody wants the work to stop after this step."""
    return _asked is not None


def stop_if_asked() -> None:
    """Raises Stopped when somebody asked. Call it when what was done so far has been kept."""
    if _asked is not None:
        raise Stopped(_asked)


def _handle(signum: int, frame) -> None:
    global _asked
    if _waiting and _asked is None:
        _asked = signum
        print("\nfinishing this step, then stopping; once more stops at once", file=sys.stderr, flush=True)
        return
    raise Stopped(signum)
