"""Drawing one answer for the terminal, and keeping it with how it was drawn."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict

from data.feedback import FeedbackStore
from data.transcripts import messages_to
from pipeline.chat.choice import Said
from pipeline.sampling import Sampling


class Drawer:
    """Draws answers with an assistant (`pipeline.assistant.Assistant`) and puts each into the store when it ends."""

    def __init__(self, assistant, store: FeedbackStore):
        self.assistant, self.store = assistant, store
        self._models: dict[str, str] = {}

    def draw(
        self, said: Said, conversation: str, question: str, sampling: Sampling, stop: threading.Event
    ) -> Iterator[str]:
        """Pieces of an answer by `said.by` to a question of the store; `said` then holds its words, its end and its id.

        Whoever leaves off reading stops it. An answer that failed before its first word is not kept.
        """
        messages = messages_to(self.store, conversation, question)
        ids, logprobs, first_ms = [], [], None
        said.finish = "stopped"
        started = time.monotonic()
        try:
            # Closed here and not when memory is freed: an open stream holds the model to its checkpoint.
            with closing(self.assistant.stream(messages, checkpoint=said.by, sampling=sampling, stop=stop)) as deltas:
                for delta in deltas:
                    if first_ms is None:
                        first_ms = _ms(started)
                    said.text += delta.text
                    ids += delta.token_ids
                    logprobs += delta.logprobs
                    said.finish = delta.finish or said.finish
                    if delta.text:
                        yield delta.text
        except Exception:
            said.finish = "error"
            raise
        finally:
            if said.text or said.finish != "error":
                said.id = self.store.add_message(
                    conversation,
                    parent=question,
                    author="model",
                    content=said.text,
                    model=self._model_id(said.by),
                    sampling=asdict(sampling),
                    token_ids=ids,
                    logprobs=logprobs,
                    first_token_ms=first_ms,
                    total_ms=_ms(started),
                    finish=said.finish,
                )

    def _model_id(self, checkpoint: str) -> str:
        if checkpoint not in self._models:
            self._models[checkpoint] = self.store.add_model(**self.assistant.describe(checkpoint))
        return self._models[checkpoint]


def _ms(started: float) -> int:
    return round((time.monotonic() - started) * 1000)
