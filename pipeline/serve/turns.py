"""One turn of the page's chat: the question kept, one or two answers drawn, their words sent as they fall."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from data.feedback import FeedbackStore
from data.records import Message
from data.transcripts import messages_to, owner, path_to, place
from pipeline.serve.answers import Done, Draw, Drawing, Failed, Piece, Waiting
from pipeline.serve.chat_fields import TurnRequest
from pipeline.serve.duels import Duel
from pipeline.serve.errors import Refused
from pipeline.serve.merging import merged

ONLY = "only"


@dataclass(frozen=True)
class Asked:
    """A question in the store with all that was said up to it; `seen` is the answer to compare with."""

    conversation: str
    question: str
    messages: tuple[Message, ...]
    seen: str | None = None


def keep_question(store: FeedbackStore, body: TurnRequest, rater: str) -> Asked:
    """Stores a new question, or finds the old one. Raises Refused for what is not this rater's, or not a question."""
    if body.question is not None:
        conversation = _of(store, body.question, rater, authors=("human",))
        question = body.question
    else:
        conversation = body.conversation
        if conversation is None:
            conversation = store.start_conversation(rater=rater, system_prompt=body.system_prompt)
        elif body.parent is not None:
            if _of(store, body.parent, rater, authors=("model", "human-edit")) != conversation:
                raise Refused(404, "There is no such turn in this conversation.")
        elif (owner(store, conversation) or (None,))[0] != rater:
            raise Refused(404, "There is no such conversation.")
        question = store.add_message(conversation, parent=body.parent, author="human", content=body.text)
    seen, text = body.against, None
    if seen is not None:
        found = place(store, seen)
        if found is None or found[1] != question or found[3] == "error":
            raise Refused(404, "There is no such answer to this question.")
        text = path_to(store, seen)[-1][2]
    return Asked(conversation, question, messages_to(store, conversation, question), text)


def _of(store: FeedbackStore, message: str, rater: str, *, authors: Sequence[str]) -> str:
    found = place(store, message)
    if found is None or found[2] not in authors or owner(store, found[0])[0] != rater:
        raise Refused(404, "There is no such turn.")
    return found[0]


@dataclass
class Turn:
    """The answers under way to one question."""

    asked: Asked
    drawings: Sequence[Drawing]
    duel: Duel | None = None

    async def lines(self, gone: Callable[[], Awaitable[bool]]) -> AsyncIterator[str]:
        """Server-sent events: start, then text, waiting, done or failed of a side, then end."""
        try:
            yield _line(type="start", **self._start())
            if self.asked.seen is not None and self.duel is not None:
                side = self.duel.side(self._seen_id())
                yield _line(type="text", side=side, text=self.asked.seen)
                yield _line(type="done", side=side, finish="stop", tokens=None, ms=None)
            async with aclosing(merged([self._one(drawing, gone) for drawing in self.drawings])) as lines:
                async for line in lines:
                    yield line
            if self.duel is not None:
                self.duel.shown_since = time.monotonic()
            yield _line(type="end")
        finally:
            for drawing in self.drawings:
                drawing.cancel()

    async def _one(self, drawing: Drawing, gone) -> AsyncIterator[str]:
        side = self.duel.side(drawing.draw.id) if self.duel else ONLY
        async for event in drawing.events(gone):
            match event:
                case Piece(text):
                    yield _line(type="text", side=side, text=text)
                case Waiting(position):
                    yield _line(type="waiting", side=side, position=position)
                case Done():
                    yield _line(type="done", side=side, finish=event.finish, tokens=event.tokens, ms=event.total_ms)
                case Failed(message):
                    yield _line(type="failed", side=side, message=message)

    def _start(self) -> dict:
        if self.duel is None:
            answers = {ONLY: self.drawings[0].draw.id}
        else:
            answers = {"left": self.duel.left, "right": self.duel.right}
        duel = {"id": self.duel.id, "blind": self.duel.blind} if self.duel else None
        return {
            "conversation": self.asked.conversation,
            "question": self.asked.question,
            "answers": answers,
            "duel": duel,
        }

    def _seen_id(self) -> str:
        return self.duel.left if self.duel.right == self.drawings[0].draw.id else self.duel.right


class UnderWay:
    """The drawings that a person may stop, by the id of their answer."""

    def __init__(self):
        self._drawings: dict[str, tuple[str, Drawing]] = {}

    def add(self, rater: str, drawing: Drawing) -> None:
        self._drawings[drawing.draw.id] = (rater, drawing)

    def remove(self, drawing: Drawing) -> None:
        self._drawings.pop(drawing.draw.id, None)

    def stop_all(self, conversation: str) -> None:
        """Ends what is drawn for a conversation."""
        for _, drawing in list(self._drawings.values()):
            if drawing.draw.conversation == conversation:
                drawing.stop()

    def stop(self, answer: str, rater: str) -> bool:
        """Whether there was such an answer to stop."""
        whose, drawing = self._drawings.get(answer, (None, None))
        if drawing is None or whose != rater:
            return False
        drawing.stop()
        return True


def draw_of(asked: Asked, checkpoint: str, sampling) -> Draw:
    return Draw(asked.conversation, asked.question, asked.messages, checkpoint, sampling)


def _line(**event) -> str:
    return f"data: {json.dumps(event)}\n\n"
