"""Drawing an answer: from a place in the queue, over pieces as they fall, to a row in the store."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, field

from data.errors import UserError
from data.records import Message
from pipeline.batch import Batch, Delta
from pipeline.sampling import Sampling
from pipeline.serve.generation_queue import Ended, GenerationQueue
from pipeline.serve.stops import Stops
from pipeline.serve.store_thread import StoreThread

_SECONDS_BETWEEN_LOOKS = 0.25
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Draw:
    """An answer to be drawn to the question `parent`, up to the first of `stops`. Its id is known before its first word."""

    conversation: str
    parent: str
    messages: Sequence[Message]
    checkpoint: str
    sampling: Sampling
    stops: tuple[str, ...] = ()
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
        self._described: dict[str, dict[str, str]] = {}

    def take(self, draw: Draw, client: str) -> Drawing:
        """A place in the queue. Raises QueueFull."""
        return Drawing(self, draw, client)

    def describe(self, checkpoint: str) -> dict[str, str]:
        """What a vote on the checkpoint's answers is about; called by the thread that owns the model, for its tokenizer."""
        if checkpoint not in self._described:
            self._described[checkpoint] = self.assistant.describe(checkpoint)
        return self._described[checkpoint]


class Drawing:
    """One answer under way: the `Work` of its ticket. Leave `events` early, or call `cancel`, and the model stops after the token it is at."""

    def __init__(self, desk: AnswerDesk, draw: Draw, client: str):
        self.draw, self._desk = draw, desk
        self._text, self._ids, self._logprobs, self._stops = "", [], [], Stops(draw.stops)
        self._started, self._first_ms, self._late = 0.0, None, False
        self._loop, self._events = asyncio.get_running_loop(), asyncio.Queue()
        self._ticket = desk.queue.submit(client, self)

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

    # -- by the thread that owns the model ---------------------------------------------------------------------------------

    def begin(self, batch: Batch) -> int:
        self._started = time.monotonic()
        return batch.join(self.draw.messages, checkpoint=self.draw.checkpoint, sampling=self.draw.sampling)

    def hear(self, delta: Delta) -> None:
        self._first_ms = _ms(self._started) if self._first_ms is None else self._first_ms
        text = self._stops.let_through(delta.text, last=bool(delta.finish))
        self._text += text
        self._ids += delta.token_ids
        self._logprobs += delta.logprobs
        if text:
            self._tell(Piece(text))
        if self._stops.met:
            self._ticket.stop.set()
        if delta.finish:
            # What a client cut off is told as its end, and kept as cut off: as an example it would teach to stop there.
            cut = self._stops.met or (self._late and delta.finish == "stopped")
            finish = "length" if cut else delta.finish
            told = "stop" if self._stops.met else finish
            self._end(finish, Done(told, len(self._ids), delta.prompt_tokens, self._first_ms, _ms(self._started)))
        elif time.monotonic() - self._started > self._desk.seconds and not self._ticket.stop.is_set():
            self._late = True
            self._ticket.stop.set()

    def failed(self, error: Exception) -> None:
        if isinstance(error, Ended):
            told = Failed("The server is going down; ask again when it is back.", mine=True)
        elif isinstance(error, UserError):
            told = Failed(" ".join(error.problems), mine=False)
        else:
            # The type alone: a message might hold what somebody said.
            log.error("the model failed: %s", type(error).__name__)
            told = Failed("The model failed; the server's log says how.", mine=True)
        self._end("error", told)

    def _end(self, finish: str, event: Done | Failed) -> None:
        if not self._ids and finish not in ("stop", "length"):
            self._tell(event)
            return
        known = self._desk.describe(self.draw.checkpoint)
        total_ms = _ms(self._started)
        # Told when it is on disk, and the others' next token does not wait for that.
        self._desk.store.later(lambda: self._tell(self._keep(known, finish, total_ms) or event))

    def _tell(self, event: Event) -> None:
        try:
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)
        except RuntimeError:
            # The server is going down; what was drawn is kept all the same.
            self._ticket.stop.set()

    # -- by the store's thread ---------------------------------------------------------------------------------------------

    def _keep(self, known: dict[str, str], finish: str, total_ms: int) -> Failed | None:
        store = self._desk.store.store
        try:
            store.add_message(
                self.draw.conversation,
                parent=self.draw.parent,
                author="model",
                content=self._text,
                model=store.add_model(**known),
                sampling=asdict(self.draw.sampling),
                token_ids=self._ids,
                logprobs=self._logprobs,
                first_token_ms=self._first_ms,
                total_ms=total_ms,
                finish=finish,
                message_id=self.draw.id,
            )
        except UserError as error:
            # It names the file, and nothing that was said.
            log.error("an answer was not kept: %s", " ".join(error.problems))
            return Failed("The answer could not be kept; the server's log says why.", mine=True)
        except Exception as error:
            log.error("an answer was not kept: %s", type(error).__name__)
            return Failed("The answer could not be kept; the server's log says why.", mine=True)
        return None


def _ms(started: float) -> int:
    return round((time.monotonic() - started) * 1000)
