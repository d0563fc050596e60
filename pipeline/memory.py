"""Memory: giving it back, and going on with less when there is none."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

from data.errors import UserError
from data.numbers import many

T = TypeVar("T")
R = TypeVar("R")

# How torch and the system say that there is no memory left, where they raise a plain RuntimeError.
_WORDS = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "defaultcpuallocator",
    "not enough memory",
    # A library of the card's that could not have its own working memory.
    "cublas_status_alloc_failed",
    "cudnn_status_alloc_failed",
)
# Rows that are read at a time where nothing is learnt and no setting says how many.
READ_AT_ONCE = 32
# The same for rankings, whose answers stand side by side in one row.
LISTS_AT_ONCE = 8


def release() -> None:
    """Collects what Python no longer needs and returns free pages to the system (a few milliseconds).

    Batches of ever new shapes leave the C heap full of holes that no later batch fits into: without this, a PPO run of twelve
    updates grew from 1.8 GB to 3.9 GB.
    """
    gc.collect()
    # glibc's; other C libraries have no such call.
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _release_gpu() -> None:
    """Gives blocks that torch keeps for later back to the card: those of the pass that failed fit no smaller one."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def begin_anew() -> None:
    """For the start of a step on a card: what the one before left in torch's hands goes back, and the peak counts from here."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` means that memory ran out, on the processor or on a GPU."""
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in _WORDS)


class MicroBatch:
    """How many rows a forward pass takes. Halved when memory runs out; the batch of a step stays what it was, in more passes."""

    def __init__(
        self,
        size: int,
        setting: str | None,
        at_one: str,
        say: Callable[[str], None] | None = None,
        *,
        divides: int | None = None,
    ):
        """
        Args:
            setting: the config key that would avoid it, for the message; None when there is none.
            at_one: what to lower when even one row does not fit.
            divides: a batch that must stay a whole number of passes: the size goes down to half or less, to what divides it.
        """
        self.size, self._setting, self._at_one, self._divides = size, setting, at_one, divides
        self._say = say or (lambda line: print(line, file=sys.stderr, flush=True))

    def attempt(self, work: Callable[[int], T]) -> T:
        """work(rows), again with fewer rows each time that memory runs out. `work` must begin anew whenever it is called."""
        while True:
            try:
                return work(self.size)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                # Its traceback holds every tensor of the pass that failed.
                found = error.with_traceback(None)
            self.halve(found)

    def over(self, rows: Sequence[R], work: Callable[[Sequence[R]], None]) -> None:
        """work(part) for one part of `rows` after the other; a part for which memory ran out comes again, in smaller ones.

        `work` must keep nothing of a part before it is through with it.
        """
        start = 0
        while start < len(rows):
            self.attempt(lambda size, start=start: work(rows[start : start + size]))
            start += self.size

    def halve(self, error: BaseException) -> None:
        """Takes half as many rows from now on, and says so.

        Raises:
            UserError: it is one row already.
            BaseException: `error` itself, when it is about something else than memory.
        """
        if not is_out_of_memory(error):
            raise error
        if self.size == 1:
            raise UserError(f"out of memory with one row a forward pass. Lower {self._at_one}.") from None
        half = self.size // 2
        self.size = half if self._divides is None else max(n for n in range(1, half + 1) if self._divides % n == 0)
        release()
        _release_gpu()
        self._say(
            f"out of memory: {many(self.size, 'row')} a forward pass from now on, the batch of a step unchanged. "
            + (f"{self._setting}={self.size} avoids the loss of time." if self._setting else "")
        )
