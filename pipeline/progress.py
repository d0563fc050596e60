"""Progress on everything that takes more than two seconds: a bar on a terminal, now and then a plain line elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

_QUIET_SECONDS = 2.0
_LINE_SECONDS = 10.0


class Bar:
    """Counts work done. Says nothing until two seconds have passed."""

    def __init__(self, total: int, label: str, unit: str, stream):
        self.total, self.label, self.unit, self._stream = total, label, unit, stream
        self.done = 0
        self._offset: int | None = None
        self._started = time.monotonic()
        self._said = self._started
        self._live = None
        self._terminal = stream.isatty()

    def advance(self, n: int = 1, **figures: float) -> None:
        """Notes `n` more done, with the latest figures to show beside the count."""
        self.done += n
        now = time.monotonic()
        if now - self._started < _QUIET_SECONDS:
            return
        shown = "  ".join(f"{name} {value:.3g}" for name, value in figures.items())
        if self._terminal:
            self._draw(shown)
        elif now - self._said >= _LINE_SECONDS:
            self._said = now
            print(
                f"  {self.label}: {self.done}/{self.total} {self.unit}, {self._left(now)} left  {shown}".rstrip(),
                file=self._stream,
                flush=True,
            )

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()

    def _left(self, now: float) -> str:
        seconds = (now - self._started) / max(1, self.done) * max(0, self.total - self.done)
        return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"

    def _draw(self, shown: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        if self._live is None:
            self._live = Progress(
                TextColumn("  {task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[unit]}"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[shown]}"),
                console=Console(file=self._stream),
                transient=True,
            )
            self._task = self._live.add_task(self.label, total=self.total, unit=self.unit, shown="")
            self._live.start()
        self._live.update(self._task, completed=self.done, shown=shown)


@contextmanager
def track(total: int, label: str, unit: str = "it", stream=None) -> Iterator[Bar]:
    """A bar over `total` units of work, gone when the block ends."""
    bar = Bar(total, label, unit, stream or sys.stderr)
    try:
        yield bar
    finally:
        bar.close()
