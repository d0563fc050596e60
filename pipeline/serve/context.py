"""What every route works with, and the checks that several of them share."""

from __future__ import annotations

import time
from dataclasses import dataclass

from fastapi import Request

from data.feedback import FeedbackStore
from data.transcripts import Writer
from pipeline.generation import Sampling
from pipeline.learner import meant
from pipeline.serve.answers import AnswerDesk
from pipeline.serve.errors import Refused
from pipeline.serve.guard import IDENTITY, Identity
from pipeline.serve.settings import ServeSettings
from pipeline.serve.store_thread import StoreThread


@dataclass(frozen=True)
class ServeContext:
    """One server's parts."""

    assistant: object
    store: StoreThread
    desk: AnswerDesk
    settings: ServeSettings

    @property
    def feedback(self) -> FeedbackStore:
        return self.store.store

    def checkpoint(self, name: str) -> str:
        """The checkpoint of that name, or of its stage: one of a list, never a path."""
        name = meant(name, self.assistant.checkpoints)
        if name not in self.assistant.checkpoints:
            known = ", ".join(self.assistant.checkpoints)
            raise Refused(404, f"There is no such model; there are {known}.", param="model", code="model_not_found")
        return name

    def name_of(self, writer: Writer | None) -> str | None:
        """What to call the model that wrote an answer."""
        return self.assistant.name_of(writer.run, writer.stage, writer.weights_sha256) if writer is not None else None

    def sampling(
        self, *, max_new_tokens: int | None, temperature: float | None, top_p: float | None, seed: int | None
    ) -> Sampling:
        """How to draw, from what was asked for and the settings for the rest."""
        limit = self.settings.max_answer_tokens
        if max_new_tokens is not None and max_new_tokens > limit:
            raise Refused(422, f"An answer has at most {limit} tokens (chat.max_answer_tokens).", param="max_tokens")
        return Sampling(
            max_new_tokens or self.settings.max_new_tokens,
            self.settings.temperature if temperature is None else temperature,
            1.0 if top_p is None else top_p,
            # A new seed each time, and noted: a retry must differ, and any answer can be drawn again.
            seed=time.time_ns() % 2**31 if seed is None else seed,
        )


def identity(request: Request, user: str | None = None) -> Identity:
    """Who asks. An application may name the person behind it; the prefix keeps such a name apart from all others."""
    found: Identity = request.scope[IDENTITY]
    return found if user is None else Identity(f"api-{user}", f"{found.client}/{user}")
