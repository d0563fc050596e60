"""The one exception for mistakes that a user can mend."""

from __future__ import annotations

from collections.abc import Sequence


class UserError(Exception):
    """One or more problems, each a single line: what, where (file, row or key), what was found, what to do.

    The door prints them without a traceback and exits with `exit_code`.
    """

    def __init__(self, problems: str | Sequence[str], exit_code: int = 2):
        self.problems: tuple[str, ...] = (problems,) if isinstance(problems, str) else tuple(problems)
        if not self.problems:
            raise ValueError("a UserError needs at least one problem")
        self.exit_code = exit_code
        super().__init__("\n".join(self.problems))
