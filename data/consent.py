"""What each rater allows: to keep what was said for the chat alone, to train on it, or to hand it on as well."""

from __future__ import annotations

from data.errors import UserError
from data.feedback import FeedbackStore
from data.schema import CONSENTS

# Raters whom the web page asks begin so; until they have answered, what they say stays in the chat.
ASKED_PREFIX = "web-"
_WHY = {
    "train": "by raters who keep what they say in the chat (consent)",
    "publish": "by raters who let nothing they say leave (consent)",
}
_UNASKED = "by raters who have not been asked for their consent yet"


class Consents:
    """The consents of one moment."""

    def __init__(self, store: FeedbackStore, unasked: str):
        """`unasked` counts for raters whom nobody asks: at home, behind an application, from an import (`chat.consent`)."""
        self._unasked = unasked
        self._given = dict(store.rows("SELECT rater, level FROM consent ORDER BY id"))

    def given(self, rater: str) -> str | None:
        """What the rater last said; None where that was nothing."""
        return self._given.get(rater)

    def level(self, rater: str) -> str:
        """What counts for the rater."""
        if rater in self._given:
            return self._given[rater]
        return "local" if rater.startswith(ASKED_PREFIX) else self._unasked

    def refusal(self, rater: str, use: str) -> str:
        """Why what the rater said may not be used so ("train", "publish"); empty when it may."""
        level = self.level(rater)
        if CONSENTS.index(level) >= CONSENTS.index(use):
            return ""
        if rater not in self._given and rater.startswith(ASKED_PREFIX):
            return _UNASKED
        return _WHY["train" if level == "local" else "publish"]


def check_level(level: str) -> str:
    """The level, if it is one.

    Raises:
        UserError: it is none.
    """
    if level not in CONSENTS:
        raise UserError(f"consent should be {', '.join(CONSENTS[:-1])} or {CONSENTS[-1]} (got '{level}').")
    return level
