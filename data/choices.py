"""Blind choices between answers of two different checkpoints: votes about the checkpoints, and not only about the words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Hashable
from dataclasses import dataclass
from typing import NamedTuple

from data.consent import Consents
from data.feedback import FeedbackStore

# Behind a run's name when it is the run of one of its rounds.
_ROUND = "-round-"


class Player(NamedTuple):
    """A checkpoint whatever a menu calls it: its weights. The base has none of its own and is known by the run it stands in."""

    family: str
    weights_sha256: str


@dataclass(frozen=True)
class Choice:
    """One person's blind verdict on two answers to one question.

    Attributes:
        conversation, question: ids in the store.
        answers: what was compared, in words: the conversation up to the question and both answers with who gave them. Equal for two people who
            judged the same.
        left, right: who answered, as the sides were shown.
        winner: left, right, tie or both_bad.
    """

    rater: str
    conversation: str
    question: str
    answers: Hashable
    left: Player
    right: Player
    winner: str


@dataclass(frozen=True)
class Choices:
    """All choices of one moment.

    Attributes:
        left_out: choices that are no vote between checkpoints, by reason; with `votes` they are all that were ever given.
        known: (run, stage, weights) of each checkpoint that stands in a vote, in the order in which the store met them.
    """

    votes: tuple[Choice, ...]
    left_out: Counter
    known: dict[Player, tuple[tuple[str, str], ...]]


def family_of(run: str) -> tuple[str, int]:
    """The run that everything started from, and the number of the round; 0 is that run itself."""
    first, found, number = run.rpartition(_ROUND)
    return (first, int(number)) if found and len(number) == 3 and number.isdigit() else (run, 0)


def read_choices(
    store: FeedbackStore, *, unasked: str = "publish", family: str | None = None, formerly: Collection[str] = ()
) -> Choices:
    """Every vote between two checkpoints, whatever is being written meanwhile.

    A verdict on checkpoints decides who answers from now on, so it takes the consent to train, of who judged and of whose conversation it
    was: what "stays in this chat" does not count.

    Only the first choice of a person on a pair of answers is blind. The names are told after it, so one that was made anew does not
    count, also where the first was withdrawn.

    Args:
        unasked: what counts for raters whom nobody asks (`chat.consent`).
        family: votes between checkpoints of this run and its rounds only; None is every run in the store.
        formerly: what that run was called before, if it was renamed: the store keeps the name of the time.
    """
    with store.reading():
        return _Reading(store, Consents(store, unasked), family, formerly).choices()


_ROWS = """
    SELECT c.left_message, c.right_message, c.rater, c.winner, c.blind, c.withdrawn_ms IS NOT NULL, o.rater, o.id, o.system_prompt,
           l.parent, l.content, l.finish, a.run, a.stage, a.weights_sha256, a.template_sha256,
           r.parent, r.content, r.finish, b.run, b.stage, b.weights_sha256, b.template_sha256
    FROM comparison c JOIN message l ON l.id = c.left_message JOIN message r ON r.id = c.right_message
    JOIN conversation o ON o.id = l.conversation LEFT JOIN model a ON a.id = l.model LEFT JOIN model b ON b.id = r.model
    ORDER BY c.id"""


class _Side(NamedTuple):
    parent: str | None
    content: str
    finish: str | None
    run: str | None
    stage: str | None
    weights: str | None
    template: str | None


class _Reading:
    def __init__(self, store: FeedbackStore, consents: Consents, family: str | None, formerly: Collection[str]):
        self.store, self.consents, self.family, self.formerly = store, consents, family, formerly
        self.messages = {
            id: (parent, content) for id, parent, content in store.rows("SELECT id, parent, content FROM message")
        }

    def choices(self) -> Choices:
        votes, left_out, known, judged = [], Counter(), {}, set()
        for left, right, rater, winner, blind, withdrawn, owner, conversation, system, *rest in self.store.rows(_ROWS):
            one, other = _Side(*rest[:7]), _Side(*rest[7:])
            pair = (rater, frozenset((left, right)))
            reason = "made anew, after the names were told" if pair in judged else ""
            judged.add(pair)
            reason = reason or self._not_counted(one, other, rater, owner, winner, blind, withdrawn)
            if reason:
                left_out[reason] += 1
                continue
            for side in (one, other):
                known.setdefault(self._player(side), {})[side.run, side.stage] = None
            answers = (system, self._talk(one.parent), frozenset((self._player(s), s.content) for s in (one, other)))
            votes.append(Choice(rater, conversation, one.parent, answers, self._player(one), self._player(other), winner))
        return Choices(tuple(votes), left_out, {player: tuple(names) for player, names in known.items()})

    def _not_counted(self, one: _Side, other: _Side, rater, owner, winner, blind, withdrawn) -> str:
        if withdrawn:
            return "taken back"
        if winner == "skip":
            return "skipped"
        if not blind:
            return "not blind: one of the answers had been read with its name on it"
        if not (one.template and other.template):
            return "between answers that were not drawn here"
        if self._player(one) == self._player(other):
            return "between two answers of one checkpoint"
        if self.family is not None and {self._player(one).family, self._player(other).family} != {self.family}:
            return "between checkpoints of another run"
        if one.parent != other.parent:
            return "between answers to different questions"
        if {one.finish, other.finish} & {"stopped", "error"}:
            return "on an answer that was stopped or failed"
        return self.consents.refusal(rater, "train") or self.consents.refusal(owner, "train")

    def _player(self, side: _Side) -> Player:
        family = family_of(side.run)[0]
        return Player(self.family if self.family is not None and family in self.formerly else family, side.weights)

    def _talk(self, question: str) -> tuple[str, ...]:
        said, at = [], question
        while at is not None:
            at, content = self.messages[at]
            said.append(content)
        return tuple(reversed(said))
