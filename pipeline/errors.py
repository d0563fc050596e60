"""Errors that the door turns into one line and an exit status."""

from __future__ import annotations

import errno
from collections.abc import Sequence

from data.errors import UserError

__all__ = ["DiskFull", "GateFailure", "RunBusy", "UserError", "is_disk_full"]


class GateFailure(UserError):
    """A measured number missed its bound; exit status 3. `gates` are the names of those that were missed."""

    def __init__(self, problems: str | Sequence[str], gates: Sequence[str] = ()):
        super().__init__(problems, exit_code=3)
        self.gates = tuple(gates)


class DiskFull(UserError):
    """No space is left to write into; exit status 28 (ENOSPC)."""

    def __init__(self, problems: str | Sequence[str]):
        super().__init__(problems, exit_code=errno.ENOSPC)


def is_disk_full(error: BaseException) -> bool:
    """Whether `error`, or what it came from, means that the disk is full. Libraries wrap the system's error in their own."""
    seen: BaseException | None = error
    while seen is not None:
        if (
            getattr(seen, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
            or "no space left on device" in str(seen).lower()
        ):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


class RunBusy(UserError):
    """Another process works on the run; exit status 75 (EX_TEMPFAIL: try again later)."""

    def __init__(self, problems: str | Sequence[str]):
        super().__init__(problems, exit_code=75)
