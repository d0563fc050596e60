"""What an engine has to say of a model it says once: a rollout is like the one before."""

from __future__ import annotations

import sys


class Said:
    def __init__(self):
        self._lines: set[str] = set()

    def once(self, line: str) -> None:
        if line not in self._lines:
            self._lines.add(line)
            print(f"ppo.rollout: {line}", file=sys.stderr, flush=True)
