"""Drawing an answer: from a place in the queue, over pieces as they fall, to a row in the store."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field

from data.errors import UserError
from data.records import Message
from pipeline.generation import Sampling
from pipeline.serve.generation_queue import GenerationQueue
from pipeline.serve.store_thread import StoreThread

_SECONDS_BETWEEN_LOOKS = 0.25
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Draw:
    """An answer to be drawn to the question `parent`. Its id is known before its first word."""

    conversation: str
    parent: str
    messages: Sequence[Message]
    checkpoint: str
    sampling: Sampling
    id: str = field(default_factory=lambda: str(uuid.uuid4()))


@dataclass(frozen=True)
class Piece:
    """The next words."""

    text: str


@dataclass(frozen=True)
class Waiting:
    """Still in the queue, with that many turns before it."""

    position: int


@dataclass(frozen=True)
class Done:
    """The answer is whole and kept."""

    finish: str
    tokens: int
    prompt_tokens: int
    first_token_ms: int | None
    total_ms: int


@dataclass(frozen=True)
class Failed:
    """No answer, or none that could be kept. `mine` tells a mistake of the server from one of who asked."""

    message: str
    mine: bool


Event = Piece | Waiting | Done | Failed


class AnswerDesk:
    """Takes draws, and gives back their events."""

    def __init__(self, assistant, store: StoreThread, queue: GenerationQueue, seconds: float):
        """`seconds` is how long one answer may take once it has begun."""
        self.assistant, self.store, self.queue, self.seconds = assistant, store, queue, seconds
        self._models: dict[str, str] = {}

    def take(self, draw: Draw, client: str) -> Drawing:
        """A place in the queue. Raises QueueFull."""
        return Drawing(self, draw, client)

    def model_id(self, checkpoint: str) -> str:
        """The checkpoint's id in the store; called by the thread that owns the model."""
        if checkpoint not in self._models:
            known = self.assistant.describe(checkpoint)
            self._models[checkpoint] = self.store.wait(self.store.store.add_model, **known)
        return self._models[checkpoint]


class Drawing:
    """One answer under way. Leave `events` early, or call `cancel`, and the model stops after the token it is at."""

    def __init__(self, desk: AnswerDesk, draw: Draw, client: str):
        self.draw, self._desk = draw, desk
        self._loop, self._events = asyncio.get_running_loop(), asyncio.Queue()
        self._ticket = desk.queue.submit(client, self._work)

    def cancel(self) -> None:
        """Nobody listens any more."""
        self._desk.queue.cancel(self._ticket)

    def stop(self) -> None:
        """Ends the answer early for somebody who still listens: Done follows, also when its turn had not come."""
        if self._desk.queue.cancel(self._ticket):
            self._tell(Done("stopped", 0, 0, None, 0))

    async def events(self, gone: Callable[[], Awaitable[bool]]) -> AsyncIterator[Event]:
        """Pieces, then Done or Failed. Ends at once when `gone` says that nobody listens any more."""
        told = -1
        try:
            while True:
                try:
                    event = await asyncio.wait_for(self._events.get(), _SECONDS_BETWEEN_LOOKS)
                except TimeoutError:
                    if await gone():
                        return
                    position = self._desk.queue.position(self._ticket)
                    if position and position != told:
                        told = position
                        yield Waiting(position)
                    continue
                yield event
                if isinstance(event, Done | Failed):
                    return
        finally:
            self.cancel()

    def _tell(self, event: Event) -> None:
        try:
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)
        except RuntimeError:
            # The server is going down; what was drawn is kept all the same.
            self._ticket.stop.set()

    def _work(self, stop: threading.Event) -> None:
        text, ids, logprobs, finish, prompt_tokens, first_ms = "", [], [], "stopped", 0, None
        started = time.monotonic()
        failed: Failed | None = None
        late = False
        try:
            with closing(
                self._desk.assistant.stream(
                    self.draw.messages, checkpoint=self.draw.checkpoint, sampling=self.draw.sampling, stop=stop
                )
            ) as deltas:
                for delta in deltas:
                    first_ms = _ms(started) if first_ms is None else first_ms
                    text, finish = text + delta.text, delta.finish or finish
                    ids += delta.token_ids
                    logprobs += delta.logprobs
                    prompt_tokens = delta.prompt_tokens or prompt_tokens
                    if delta.text:
                        self._tell(Piece(delta.text))
                    if time.monotonic() - started > self._desk.seconds and not stop.is_set():
                        late = True
                        stop.set()
        except UserError as error:
            finish, failed = "error", Failed(" ".join(error.problems), mine=False)
        except Exception as error:
            # The type alone: a message might hold what somebody said.
            log.error("the model failed: %s", type(error).__name__)
            finish, failed = "error", Failed("The model failed; the server's log says how.", mine=True)
        if late and finish == "stopped":
            finish = "length"
        if ids or finish in ("stop", "length"):
            failed = self._keep(text, ids, logprobs, finish, first_ms, _ms(started)) or failed
        self._tell(failed or Done(finish, len(ids), prompt_tokens, first_ms, _ms(started)))

    def _keep(self, text, ids, logprobs, finish, first_ms, total_ms) -> Failed | None:
        try:
            self._desk.store.wait(
                self._desk.store.store.add_message,
                self.draw.conversation,
                parent=self.draw.parent,
                author="model",
                content=text,
                model=self._desk.model_id(self.draw.checkpoint),
                sampling=asdict(self.draw.sampling),
                token_ids=ids,
                logprobs=logprobs,
                first_token_ms=first_ms,
                total_ms=total_ms,
                finish=finish,
                message_id=self.draw.id,
            )
        except UserError as error:
            return Failed(" ".join(error.problems), mine=True)
        except Exception as error:
            log.error("an answer was not kept: %s", type(error).__name__)
            return Failed("The answer could not be kept; the server's log says why.", mine=True)
        return None


def _ms(started: float) -> int:
    return round((time.monotonic() - started) * 1000)
