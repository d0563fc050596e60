"""An answer that ends where the client said it should, whichever tokens its words fall into."""

from __future__ import annotations

from collections.abc import Sequence


class Stops:
    """Lets text through up to the first of `stops`, and holds back what may yet become one."""

    def __init__(self, stops: Sequence[str]):
        self._stops, self._held = tuple(stops), ""
        self.met = False

    def let_through(self, text: str, *, last: bool) -> str:
        """What can be told now; with `last` nothing is held back any more."""
        if self.met:
            return ""
        text, self._held = self._held + text, ""
        places = [at for at in (text.find(stop) for stop in self._stops) if at >= 0]
        if places:
            self.met = True
            return text[: min(places)]
        keep = 0 if last else max((_begun(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def _begun(text: str, stop: str) -> int:
    """How many characters at the end of the text are the beginning of the stop."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
