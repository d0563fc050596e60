"""What data is made of. Every record is frozen, and raises ValueError with the reason when it cannot be used."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Literal

Role = Literal["system", "user", "assistant"]
ROLES: tuple[str, ...] = ("system", "user", "assistant")
_UNUSABLE = re.compile("[\0\ud800-\udfff]")
_KINDS = {dict: "an object", list: "a list", str: "text", bool: "true or false", int: "a number", float: "a number"}


@dataclass(frozen=True)
class Message:
    """One turn."""

    role: Role
    content: str

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise ValueError(f"role {self.role!r:.40} is not one of {', '.join(ROLES)}")
        check_text("content", self.content)


def read_out(messages: Sequence[Message]) -> str:
    """A conversation for a person, or a model that judges, to read: a question by itself as it stands, more turns with who said each."""
    if len(messages) == 1:
        return messages[0].content
    return "\n\n".join(f"{message.role.capitalize()}: {message.content}" for message in messages)


@dataclass(frozen=True)
class Prompt:
    """A conversation that waits for an answer: an optional system turn, then user and assistant in turn, a user turn last."""

    id: str
    messages: tuple[Message, ...]
    topic: str | None = None

    def __post_init__(self) -> None:
        check_turns(self.messages)


@dataclass(frozen=True)
class Demonstration:
    """A prompt and the answer to imitate."""

    id: str
    prompt: tuple[Message, ...]
    response: str
    topic: str | None = None

    def __post_init__(self) -> None:
        check_turns(self.prompt)
        check_text("response", self.response)


@dataclass(frozen=True)
class Ranking:
    """K ≥ 2 answers to one prompt, ranked by a rater.

    Attributes:
        ranks: 0 is best; equal ranks are a tie.
        finished: False where the answer was cut off before its end-of-sequence token.
    """

    id: str
    prompt: tuple[Message, ...]
    responses: tuple[str, ...]
    ranks: tuple[int, ...]
    finished: tuple[bool, ...]
    topic: str | None = None

    def __post_init__(self) -> None:
        check_turns(self.prompt)
        if len(self.responses) < 2:
            raise ValueError(f"{len(self.responses)} response to rank; at least 2 are needed")
        for name, column in (("ranks", self.ranks), ("finished", self.finished)):
            if len(column) != len(self.responses):
                raise ValueError(f"{len(self.responses)} responses but {len(column)} {name}")
        if min(self.ranks) != 0:
            raise ValueError(f"the best rank is {min(self.ranks)}, expected 0 (0 is best, equal ranks are a tie)")
        for number, response in enumerate(self.responses, start=1):
            check_text(f"response {number}", response)
        for i, j in combinations(range(len(self.responses)), 2):
            same = self.responses[i] == self.responses[j] and self.finished[i] == self.finished[j]
            if same and self.ranks[i] != self.ranks[j]:
                raise ValueError(f"responses {i + 1} and {j + 1} are the same text but ranked apart")

    def pairs(self) -> list[tuple[int, int]]:
        """All (better, worse) index pairs; a tie gives none."""
        return [
            (i, j) if self.ranks[i] < self.ranks[j] else (j, i)
            for i, j in combinations(range(len(self.responses)), 2)
            if self.ranks[i] != self.ranks[j]
        ]


@dataclass(frozen=True)
class Thumb:
    """One answer to a prompt and what a rater said of it, with nothing to compare it to.

    Attributes:
        up: True is 👍.
        finished: False where the answer was cut off before its end-of-sequence token.
        rater: whose thumb, as a name that says no more than which thumbs are one person's; None is unknown, or several who agree.
    """

    id: str
    prompt: tuple[Message, ...]
    response: str
    up: bool
    topic: str | None = None
    finished: bool = True
    rater: str | None = None

    def __post_init__(self) -> None:
        check_turns(self.prompt)
        check_text("response", self.response)
        if not isinstance(self.up, bool):
            raise ValueError(f"label is {kind_of(self.up)}, expected true (thumb up) or false (thumb down)")
        if not isinstance(self.finished, bool):
            raise ValueError(f"finished is {kind_of(self.finished)}, expected true or false")
        if self.rater is not None:
            check_text("rater", self.rater)


Record = Prompt | Demonstration | Ranking | Thumb


@dataclass(frozen=True)
class Several:
    """What one row gives where it is not one record.

    Attributes:
        left_out: how many parts of the row were not used, by the reason.
    """

    records: tuple[Record, ...]
    left_out: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class ScoredAnswer:
    """One row of those that together make a ranking: all that share the prompt. Scores compare answers to one prompt only."""

    id: str
    prompt: tuple[Message, ...]
    response: str
    score: float
    topic: str | None = None

    def __post_init__(self) -> None:
        check_turns(self.prompt)
        check_text("response", self.response)


def ranking_by_score(
    row_id: str, prompt: tuple[Message, ...], answers: Sequence[tuple[str, float]], topic: str | None = None
) -> Ranking:
    """Answers and scores to ranks: the highest score is rank 0, and equal scores are a tie."""
    order = sorted({score for _, score in answers}, reverse=True)
    ranks = tuple(order.index(score) for _, score in answers)
    return Ranking(row_id, prompt, tuple(text for text, _ in answers), ranks, (True,) * len(answers), topic)


def kind_of(value: object) -> str:
    """What a value read from a file is, in words that fit every file format."""
    return "null" if value is None else _KINDS.get(type(value), type(value).__name__)


def check_text(name: str, text: object) -> None:
    """Raises ValueError for what no tokenizer can take: another type, nothing, a NUL, half a surrogate pair."""
    if not isinstance(text, str):
        raise ValueError(f"{name} is {kind_of(text)}, expected text")
    if not text.strip():
        raise ValueError(f"{name} is empty")
    if found := _UNUSABLE.search(text):
        what = "a NUL character" if found[0] == "\0" else "a lone surrogate"
        raise ValueError(f"{name} holds {what} at offset {found.start()}")


def check_turns(messages: tuple[Message, ...]) -> None:
    """Raises ValueError unless user and assistant take turns, user first and last."""
    check_order(messages)
    if messages[-1].role != "user":
        raise ValueError("the prompt ends with an assistant turn; it must end with the user's")


def check_order(messages: tuple[Message, ...]) -> None:
    """Raises ValueError unless user and assistant take turns, user first, after at most one system turn."""
    turns = messages[1:] if messages and messages[0].role == "system" else messages
    if not turns:
        raise ValueError("no user turn")
    for number, message in enumerate(turns):
        expected = "assistant" if number % 2 else "user"
        if message.role != expected:
            place = number + 1 + (len(messages) - len(turns))
            raise ValueError(f"turn {place} is {message.role!r}, expected {expected!r}")
