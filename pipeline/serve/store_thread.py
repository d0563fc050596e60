"""The feedback store behind one thread, so that neither the event loop nor the model ever waits for a disk."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from data.feedback import FeedbackStore

T = TypeVar("T")


class StoreThread:
    """Runs calls on the store one after another. The store must have been opened with `one_thread=False`."""

    def __init__(self, store: FeedbackStore):
        self.store = store
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="store")

    async def call(self, function: Callable[..., T], /, *args, **kwargs) -> T:
        """`function(*args, **kwargs)`, awaited; for the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, partial(function, *args, **kwargs))

    def later(self, function: Callable[[], None]) -> None:
        """Runs `function` on the store's thread and does not wait; what it meets there is its own to tell."""
        self._thread.submit(function)

    def close(self) -> None:
        """Ends after all that was asked for is done."""
        self._thread.shutdown(wait=True)
