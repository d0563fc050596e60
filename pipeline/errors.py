"""Errors that the door turns into one line and an exit status."""

from __future__ import annotations

from collections.abc import Sequence

from data.errors import UserError

__all__ = ["GateFailure", "RunBusy", "UserError"]


class GateFailure(UserError):
    """A measured number missed its bound; exit status 3."""

    def __init__(self, problems: str | Sequence[str]):
        super().__init__(problems, exit_code=3)


class RunBusy(UserError):
    """Another process works on the run; exit status 75 (EX_TEMPFAIL: try again later)."""

    def __init__(self, problems: str | Sequence[str]):
        super().__init__(problems, exit_code=75)
