"""`/v1`: what the `openai` client, Open WebUI and editors speak, and a thumb for any completion."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Path, Request
from starlette.responses import StreamingResponse

from data.feedback import FeedbackStore
from data.records import Message, check_turns
from data.transcripts import as_said, place
from pipeline.serve.answers import Done, Draw, Drawing, Failed, Piece
from pipeline.serve.context import ServeContext, identity
from pipeline.serve.errors import Refused
from pipeline.serve.known_turns import KnownTurns
from pipeline.serve.openai_fields import ChatCompletionRequest, FeedbackRequest

# The client closed the connection before there was an answer; nobody reads this.
_CLIENT_GONE = 499


def openai_router(context: ServeContext) -> APIRouter:
    """The routes under /v1."""
    router = APIRouter(prefix="/v1", tags=["openai"])
    known = KnownTurns()

    @router.get("/models")
    async def models() -> dict:
        """Every checkpoint of the run."""
        return {"object": "list", "data": [_model(name) for name in context.assistant.checkpoints]}

    @router.get("/models/{model}")
    async def one_model(model: Annotated[str, Path(max_length=200)]) -> dict:
        """One of them."""
        return _model(context.checkpoint(model))

    @router.post("/chat/completions")
    async def complete(body: ChatCompletionRequest, request: Request):
        """An answer to the last message; its id takes a thumb at /v1/feedback."""
        checkpoint, messages = context.checkpoint(body.model), _messages(body)
        limit = body.max_completion_tokens or body.max_tokens
        sampling = context.sampling(
            max_new_tokens=limit, temperature=body.temperature, top_p=body.top_p, seed=body.seed
        )
        who = identity(request, body.user)
        conversation, question = await context.store.call(_keep_turns, context.feedback, known, who.rater, messages)
        draw = Draw(conversation, question, messages, checkpoint, sampling, body.stops)
        drawing = context.desk.take(draw, who.client)
        reply = _Reply(body, drawing, messages, known, who.rater)
        # Before the first word: a mistake still gets its own status.
        await reply.begin(request)
        if body.stream:
            return StreamingResponse(reply.lines(), media_type="text/event-stream")
        return await reply.whole()

    @router.post("/feedback")
    async def feedback(body: FeedbackRequest, request: Request) -> dict:
        """Keeps a thumb; answers after it is on disk."""
        who = identity(request, body.user)
        await context.store.call(_rate, context.feedback, body, who.rater)
        return {"id": body.id, "value": body.value}

    return router


def _model(name: str) -> dict:
    return {"id": name, "object": "model", "created": 0, "owned_by": "thumbloop"}


def _messages(body: ChatCompletionRequest) -> tuple[Message, ...]:
    said = [("system" if m.role == "developer" else m.role, m.text) for m in body.messages]
    # An answer that was stopped before its first word comes back empty.
    messages = tuple(Message(role, text or as_said("")) for role, text in said)
    try:
        check_turns(messages)
    except ValueError as error:
        raise Refused(422, f"messages: {error}.", param="messages") from None
    return messages


def _keep_turns(store: FeedbackStore, known: KnownTurns, rater: str, messages: Sequence[Message]) -> tuple[str, str]:
    """Conversation and id of the last question, after storing what of the talk is not stored yet."""
    first = 1 if messages[0].role == "system" else 0
    # What was deleted meanwhile is not gone on with.
    there = lambda n: (found := known.find(rater, messages[:n])) and place(store, found[1])  # noqa: E731
    held = next((n for n in range(len(messages), first, -1) if there(n)), first)
    if held > first:
        conversation, parent = known.find(rater, messages[:held])
    else:
        system = messages[0].content if first else None
        conversation, parent = store.start_conversation(rater=rater, system_prompt=system), None
    for n in range(held, len(messages)):
        # An answer that the client brings along may be anybody's: it is nobody's demonstration, and has no model.
        author = "human" if messages[n].role == "user" else "model"
        parent = store.add_message(conversation, parent=parent, author=author, content=messages[n].content)
        known.note(rater, messages[: n + 1], conversation, parent)
    return conversation, parent


def _rate(store: FeedbackStore, body: FeedbackRequest, rater: str) -> None:
    found = place(store, body.id)
    if found is None or found[2] == "human" or found[3] == "error":
        raise Refused(404, "There is no answer with this id.", param="id")
    store.rate(body.id, rater=rater, value=body.value, tags=body.tags, comment=body.comment)


@dataclass
class _Reply:
    """One completion, whole or in chunks."""

    body: ChatCompletionRequest
    drawing: Drawing
    messages: Sequence[Message]
    known: KnownTurns
    rater: str

    async def begin(self, request: Request) -> None:
        """Waits for the first word."""
        self.created = int(time.time())
        self.events = self.drawing.events(request.is_disconnected)
        self.first = await self._next()
        if self.first is None:
            raise Refused(_CLIENT_GONE, "The client has gone.")
        if isinstance(self.first, Failed):
            raise Refused(500 if self.first.mine else 400, self.first.message)

    async def whole(self) -> dict:
        """The answer in one piece."""
        text = "".join([event.text async for event in self._rest() if isinstance(event, Piece)])
        if not isinstance(self.last, Done):
            failed = isinstance(self.last, Failed)
            raise Refused(500 if failed else _CLIENT_GONE, self.last.message if failed else "The answer broke off.")
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": self._reason()}
        return {**self._head("chat.completion"), "choices": [choice], "usage": self._usage()}

    async def lines(self) -> AsyncIterator[str]:
        """Server-sent events, ended by [DONE]."""
        yield self._chunk({"role": "assistant", "content": ""})
        async for event in self._rest():
            if isinstance(event, Piece):
                yield self._chunk({"content": event.text})
        if isinstance(self.last, Done):
            yield self._chunk({}, self._reason())
            if self.body.stream_options and self.body.stream_options.include_usage:
                yield _line({**self._head("chat.completion.chunk"), "choices": [], "usage": self._usage()})
        elif isinstance(self.last, Failed):
            yield _line({"error": {"message": self.last.message, "type": "server_error", "param": None, "code": None}})
        yield "data: [DONE]\n\n"

    async def _next(self):
        async for event in self.events:
            if isinstance(event, Piece | Done | Failed):
                return event
        return None

    async def _rest(self) -> AsyncIterator:
        self.last, text = self.first, ""
        try:
            while self.last is not None:
                text += self.last.text if isinstance(self.last, Piece) else ""
                yield self.last
                if isinstance(self.last, Done | Failed):
                    break
                self.last = await self._next()
        finally:
            # Also when the connection broke: the model stops now, not when memory is freed.
            self.drawing.cancel()
        if isinstance(self.last, Done) and text.strip():
            draw = self.drawing.draw
            said = (*self.messages, Message("assistant", text.replace("\0", "\ufffd")))
            self.known.note(self.rater, said, draw.conversation, draw.id)

    def _head(self, kind: str) -> dict:
        return {"id": self.drawing.draw.id, "object": kind, "created": self.created, "model": self.body.model}

    def _chunk(self, delta: dict, reason: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        return _line({**self._head("chat.completion.chunk"), "choices": [choice]})

    def _reason(self) -> str:
        return "length" if self.last.finish == "length" else "stop"

    def _usage(self) -> dict:
        read, said = self.last.prompt_tokens, self.last.tokens
        return {"prompt_tokens": read, "completion_tokens": said, "total_tokens": read + said}


def _line(value: dict) -> str:
    return f"data: {json.dumps(value)}\n\n"
