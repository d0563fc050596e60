"""What the store holds of every rater that still stands, as ballots: each on answers to one prompt, in words and not in row numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from data.consent import Consents
from data.feedback import FeedbackStore
from data.records import Message, check_text, check_turns
from data.transcripts import as_said

Kind = Literal["up", "down", "prefer", "tie", "edit"]


@dataclass(frozen=True)
class Answer:
    """Words that were voted on.

    Attributes:
        finished: False where the model was cut off by the limit on tokens.
    """

    text: str
    finished: bool


@dataclass(frozen=True)
class Ballot:
    """One judgement of one rater.

    Attributes:
        first: the answer with the thumb, the preferred one, one of two that tie, or the edit.
        second: the other of two; of an edit the original, None where the original cannot be learned from.
        parent, place: the question's id, and the order of `first` among all messages; they tell a retry from what came before.
    """

    rater: str
    kind: Kind
    prompt: tuple[Message, ...]
    first: Answer
    second: Answer | None = None
    parent: str | None = None
    place: int = 0


@dataclass(frozen=True)
class Said:
    """Everything that raters said of answers.

    Attributes:
        given: judgements by rater, also those that cannot be used. "Both bad" is two.
        left_out: judgements that give no ballot, by reason.
        taken_back: votes and choices that raters withdrew or replaced by a newer one; no judgements any more.
        raters: whose words or votes are in the ballots.
    """

    ballots: tuple[Ballot, ...]
    given: Counter
    left_out: Counter
    taken_back: Counter
    raters: frozenset[str] = frozenset()


def read_said(store: FeedbackStore, *, use: str = "train", unasked: str = "publish") -> Said:
    """All that stands in the store at one moment, whatever is being written meanwhile.

    Args:
        use: "train" or "publish"; judgements without the consent to it are left out and counted. It takes that of who judged and
            that of whose conversation it was.
        unasked: what counts for raters whom nobody asks (`chat.consent`).
    """
    with store.reading():
        return _Reading(store, use, unasked).said()


@dataclass(frozen=True)
class _Row:
    conversation: str
    parent: str | None
    author: str
    content: str
    finish: str | None
    place: int


class _Reading:
    def __init__(self, store: FeedbackStore, use: str, unasked: str):
        self.store, self.use, self.consents = store, use, Consents(store, unasked)
        self.systems = dict(store.rows("SELECT id, system_prompt FROM conversation"))
        self.owners = dict(store.rows("SELECT id, rater FROM conversation"))
        found = store.rows("SELECT id, conversation, parent, author, content, finish, rowid FROM message")
        self.rows = {row[0]: _Row(*row[1:]) for row in found}
        self.ballots: list[Ballot] = []
        self.given, self.left_out, self.taken_back = Counter(), Counter(), Counter()
        self.raters: set[str] = set()

    def said(self) -> Said:
        self._thumbs()
        self._choices()
        self._edits()
        return Said(tuple(self.ballots), self.given, self.left_out, self.taken_back, frozenset(self.raters))

    def _thumbs(self) -> None:
        newest: dict[tuple[str, str], int] = {}
        for message, rater, value in self.store.rows("SELECT message, rater, value FROM rating ORDER BY id"):
            if newest.get((message, rater)):
                self.taken_back["thumbs changed or taken back"] += 1
            newest[message, rater] = value
        for (message, rater), value in newest.items():
            if value:
                self._thumb(rater, message, "up" if value > 0 else "down")

    def _thumb(self, rater: str, message: str, kind: Kind) -> None:
        self.given[rater] += 1
        if reason := self._kept_back(rater, message) or self._unusable(message):
            self.left_out[reason] += 1
            return
        row = self.rows[message]
        self._count(
            Ballot(rater, kind, self._prompt(message), _answer(row), parent=row.parent, place=row.place), message
        )

    def _choices(self) -> None:
        newest: dict[tuple[str, frozenset], tuple[str, str, str]] = {}
        rows = self.store.rows(
            "SELECT left_message, right_message, rater, winner, withdrawn_ms IS NOT NULL FROM comparison ORDER BY id"
        )
        for left, right, rater, winner, withdrawn in rows:
            if withdrawn:
                self.taken_back["choices taken back"] += 1
                continue
            sides = (rater, frozenset((left, right)))
            self.taken_back["choices made anew"] += sides in newest
            newest[sides] = (left, right, winner)
        for (rater, _), (left, right, winner) in newest.items():
            self._choice(rater, left, right, winner)

    def _choice(self, rater: str, left: str, right: str, winner: str) -> None:
        if winner == "both_bad":
            for message in (left, right):
                self._thumb(rater, message, "down")
            return
        self.given[rater] += 1
        reason = "choice skipped" if winner == "skip" else self._kept_back(rater, left) or self._kept_back(rater, right)
        reason = reason or self._unusable(left) or self._unusable(right)
        if not reason and self._prompt(left) != self._prompt(right):
            reason = "choice between answers to different prompts"
        first, second = (right, left) if winner == "right" else (left, right)
        if not reason and _answer(self.rows[left]) == _answer(self.rows[right]) and winner != "tie":
            reason = "choice between two answers of the same text"
        if reason:
            self.left_out[reason] += 1
            return
        kind = "tie" if winner == "tie" else "prefer"
        self._count(
            Ballot(rater, kind, self._prompt(first), _answer(self.rows[first]), _answer(self.rows[second])), first
        )

    def _edits(self) -> None:
        for message, original, rater in self.store.rows("SELECT message, original, rater FROM edit"):
            self.given[rater] += 1
            reason = self._kept_back(rater, message) or self._unusable(message)
            own, old = _answer(self.rows[message]), _answer(self.rows[original])
            if not reason and own.text == old.text:
                reason = "edit that changed nothing"
            if reason:
                self.left_out[reason] += 1
                continue
            # A person's wording is a demonstration, also where what it replaces was stopped or failed.
            second = None if self._unusable(original) else old
            self._count(Ballot(rater, "edit", self._prompt(message), own, second), message)

    def _count(self, ballot: Ballot, message: str) -> None:
        self.ballots.append(ballot)
        self.raters |= {ballot.rater, self.owners[self.rows[message].conversation]}

    def _kept_back(self, rater: str, message: str) -> str:
        """Why the rater, or whoever led the conversation, does not allow the use; empty when both do."""
        owner = self.owners[self.rows[message].conversation]
        return self.consents.refusal(rater, self.use) or self.consents.refusal(owner, self.use)

    def _unusable(self, message: str) -> str:
        """Why nothing can be learned from an answer; empty when something can."""
        row = self.rows[message]
        if row.author == "human":
            return "vote on a question"
        if row.finish == "stopped":
            return "answer that was stopped"
        if row.finish == "error":
            return "answer that failed"
        try:
            check_text("answer", row.content)
            check_turns(self._prompt(message))
        except ValueError:
            return "answer or prompt without usable text"
        return ""

    def _prompt(self, message: str) -> tuple[Message, ...]:
        """What the model was shown, from the system prompt to the question."""
        turns: list[Message] = []
        row = self.rows[message]
        while row.parent is not None:
            row = self.rows[row.parent]
            human = row.author == "human"
            turns.append(Message("user", row.content) if human else Message("assistant", as_said(row.content)))
        system = self.systems[row.conversation]
        return (*([Message("system", system)] if system else []), *reversed(turns))


def _answer(row: _Row) -> Answer:
    return Answer(row.content, row.finish != "length")


def raters_of(ballots: Iterable[Ballot]) -> Counter:
    """How many ballots each rater has."""
    return Counter(b.rater for b in ballots)
