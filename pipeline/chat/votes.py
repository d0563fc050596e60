"""What one person says of answers in a session, so that the last word can be taken back."""

from __future__ import annotations

from data.feedback import FeedbackStore, Vote
from data.transcripts import choices
from pipeline.chat.choice import KEYS, Choice
from pipeline.chat.words import check, read_words

_QUOTED_CHARACTERS = 40


class Votes:
    """Thumbs and choices of one rater. Each is in the store before a method returns."""

    def __init__(self, store: FeedbackStore, rater: str):
        self.store, self.rater = store, rater
        # For each thumb what stood on the answer before, and the number of each choice; the last one last.
        self._given: list[Vote | int] = []

    def thumb(self, answer: str, value: int, words: str) -> None:
        """1 is good, -1 bad; `words` are what was typed after it.

        Raises:
            UserError: the words are no text, or the vote cannot be saved.
        """
        tags, comment = read_words(words)
        if comment:
            check("the comment", comment)
        before = self.store.vote(answer, self.rater) or Vote(answer, self.rater, 0, (), None, 0)
        self.store.rate(answer, rater=self.rater, value=value, tags=tags, comment=comment)
        self._given.append(before)

    def choose(self, choice: Choice, key: str) -> str:
        """Keeps which of two is better, by what was typed; what is none of `KEYS` skips. Returns the winner."""
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

    def undo(self, shown: str | None) -> str:
        """Takes the last one of the session back; what stood there before stands again. Empty where there is none.

        Says of which answer, where that is not the one on the screen, `shown`: it may be of a talk before.
        """
        while self._given and not self._answers(self._given[-1]):
            # Deleted meanwhile, and the vote with it.
            self._given.pop()
        if not self._given:
            return ""
        last = self._given[-1]
        of = self._answers(last)
        if isinstance(last, int):
            self.store.withdraw_comparison(last, rater=self.rater)
        else:
            self.store.rate(last.message, rater=self.rater, value=last.value, tags=last.tags, comment=last.comment)
        # Only now: had it not been saved, the vote would still stand.
        self._given.pop()
        done = "choice taken back" if isinstance(last, int) else "vote taken back"
        if not isinstance(last, int) and last.value:
            done += f"; {'good' if last.value > 0 else 'bad'} stands again"
        if shown in of:
            return done
        return f"{done}, {'between ' if isinstance(last, int) else 'on '}" + " and ".join(map(_quoted, of.values()))

    def _answers(self, given: Vote | int) -> dict[str, str]:
        """The answer that a thumb is on, or both of a choice: text by id; nothing of what is not there any more."""
        if isinstance(given, int):
            of = "SELECT left_message FROM comparison WHERE id = :given UNION SELECT right_message FROM comparison WHERE id = :given"
            return dict(self.store.rows(f"SELECT id, content FROM message WHERE id IN ({of}) ORDER BY rowid", {"given": given}))
        return dict(self.store.rows("SELECT id, content FROM message WHERE id = ?", (given.message,)))

    def withdraw(self, conversation: str, question: str, answer: str) -> str:
        """Takes back what stands from earlier on an answer: the thumb on it, else the newest choice about its question."""
        if self.store.rating(answer, self.rater):
            self.store.rate(answer, rater=self.rater, value=0)
            return "vote taken back"
        made = [number for number, of, *_ in choices(self.store, conversation, self.rater) if of == question]
        if made and self.store.withdraw_comparison(made[-1], rater=self.rater):
            return "choice taken back"
        return ""


def _quoted(text: str) -> str:
    """The beginning of an answer, on one line."""
    words = " ".join(text.split())
    return f"“{words}”" if len(words) <= _QUOTED_CHARACTERS else f"“{words[: _QUOTED_CHARACTERS - 1].rstrip()}…”"
