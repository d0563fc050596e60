"""What one person says of answers in a session, so that the last word can be taken back."""

from __future__ import annotations

from data.feedback import FeedbackStore
from pipeline.chat.choice import KEYS, Choice
from pipeline.chat.words import check, read_words


class Votes:
    """Thumbs and choices of one rater. Each is in the store before a method returns."""

    def __init__(self, store: FeedbackStore, rater: str):
        self.store, self.rater = store, rater
        # Thumbs as they were given, and the numbers of choices, the last one last.
        self._given: list[tuple[str, int, tuple[str, ...], str | None] | int] = []

    def thumb(self, answer: str, value: int, words: str) -> None:
        """1 is good, -1 bad; `words` are what was typed after it.

        Raises:
            UserError: the words are no text, or the vote cannot be saved.
        """
        tags, comment = read_words(words)
        if comment:
            check("the comment", comment)
        self.store.rate(answer, rater=self.rater, value=value, tags=tags, comment=comment)
        self._given.append((answer, value, tags, comment))

    def choose(self, choice: Choice, key: str) -> str:
        """Keeps which of two is better, by the key that was pressed; another than 1 to 4 skips. Returns the winner."""
        winner = KEYS.get(key, "skip")
        number = self.store.compare(
            choice.left.id,
            choice.right.id,
            rater=self.rater,
            winner=winner,
            blind=choice.blind,
            shown_ms=choice.shown_ms,
        )
        if winner != "skip":
            self._given.append(number)
        return winner

    def undo(self) -> str:
        """Takes the last one back; what was said of the same answer before stands again."""
        if not self._given:
            return "no vote of this session to take back"
        if isinstance(self._given[-1], int):
            self.store.withdraw_comparison(self._given[-1], rater=self.rater)
            self._given.pop()
            return "choice taken back"
        answer = self._given[-1][0]
        before = [vote for vote in self._given[:-1] if not isinstance(vote, int) and vote[0] == answer]
        _, value, tags, comment = before[-1] if before else (answer, 0, (), None)
        self.store.rate(answer, rater=self.rater, value=value, tags=tags, comment=comment)
        # Only now: had it not been saved, the vote would still stand.
        self._given.pop()
        return "vote taken back"
