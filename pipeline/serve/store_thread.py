"""The feedback store behind one thread, so that neither the event loop nor the model ever waits for a disk."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from data.errors import UserError
from data.feedback import FeedbackStore

T = TypeVar("T")
# Writing the whole file anew takes seconds where it is large, and everybody waits: it is left for a while in which nobody asks for anything,
# and not put off for longer than that.
QUIET_SECONDS, LONGEST_SECONDS = 3.0, 60.0
# After a try that did not succeed: somebody read the file, or the disk was full. Each one takes as long as the others.
AGAIN_SECONDS = 600.0
log = logging.getLogger(__name__)


class StoreThread:
    """Runs calls on the store one after another. The store must have been opened with `one_thread=False`."""

    def __init__(self, store: FeedbackStore):
        self.store = store
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="store")
        self._asked = time.monotonic()
        # When traces of something deleted became known: another process may have been killed before it wiped them.
        self._traces_since = self._asked if store.has_traces() else None
        self._not_before = self._asked

    async def call(self, function: Callable[..., T], /, *args, **kwargs) -> T:
        """`function(*args, **kwargs)`, awaited; for the event loop."""
        self._asked = time.monotonic()
        return await asyncio.get_running_loop().run_in_executor(self._thread, partial(function, *args, **kwargs))

    def later(self, function: Callable[[], None]) -> None:
        """Runs `function` on the store's thread and does not wait; what it meets there is its own to tell."""
        self._asked = time.monotonic()
        self._thread.submit(function)

    def wipe_when_quiet(self) -> None:
        """After a deletion: `keep_wiped` removes its traces when nobody is waiting for the store, `close` at the latest."""
        if self._traces_since is None:
            self._traces_since = time.monotonic()

    async def keep_wiped(self) -> None:
        """Runs as long as the server does, and looks after traces of what was deleted."""
        while True:
            await asyncio.sleep(QUIET_SECONDS / 4)
            now = time.monotonic()
            if self._traces_since is None or now < self._not_before:
                continue
            if now - self._asked > QUIET_SECONDS or now - self._traces_since > LONGEST_SECONDS:
                # Before it: what is deleted while it is at work is for the next one.
                self._traces_since = None
                if not await self.call(self._wipe):
                    self._traces_since, self._not_before = now, time.monotonic() + AGAIN_SECONDS

    def close(self) -> None:
        """Ends after all that was asked for is done, and what was deleted has left no trace."""
        self._thread.submit(lambda: self.store.has_traces() and self._wipe())
        self._thread.shutdown(wait=True)

    def _wipe(self) -> bool:
        try:
            self.store.wipe()
            return True
        except UserError as error:
            # The rows are gone all the same, and it is tried again, when the server ends or begins too. It names the file, and nothing that was said.
            log.warning("%s", " ".join(error.problems))
            return False
