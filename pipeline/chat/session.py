"""A conversation, without any screen: questions, answers as they are drawn, and which answer is shown."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, field

from data.feedback import FeedbackStore
from data.records import Message
from data.transcripts import as_said
from pipeline.chat.choice import Choice, Said
from pipeline.chat.votes import Votes
from pipeline.chat.words import check
from pipeline.generation import Sampling


@dataclass
class _Turn:
    """A question with the answer shown, and their ids in the store."""

    question: str
    question_id: str
    parent: str | None
    shown: Said = field(default_factory=Said)

    @property
    def answer(self) -> str:
        return self.shown.text

    @property
    def answer_id(self) -> str | None:
        return self.shown.id


class Session:
    """One person's talk with one run's checkpoints. Everything said and voted goes into the store at once."""

    def __init__(self, assistant, store: FeedbackStore, chat):
        """`chat` is the `chat` section of the config; `assistant` is a `pipeline.assistant.Assistant`."""
        self.assistant, self.store, self.rater = assistant, store, chat.rater
        self.checkpoint = assistant.checkpoints[-1]
        self.temperature, self.max_new_tokens, self.top_p = chat.temperature, chat.max_new_tokens, 1.0
        self.system_prompt: str | None = None
        self.turns: list[_Turn] = []
        self._conversation: str | None = None
        self._models: dict[str, str] = {}
        self.votes = Votes(store, chat.rater)
        # Two answers that wait for a choice, and what the next line starts as, for the person to mend.
        self.choice: Choice | None = None
        self.draft = ""
        # The answer that was drawn last, whether it is the one shown or not.
        self.drawn = Said()

    @property
    def shown(self) -> Said:
        """The last answer, as it is shown; one without an id where there is none."""
        return self.turns[-1].shown if self.turns else Said()

    @property
    def status(self) -> str:
        """Who answers, and how, in a few words."""
        return f"{self.checkpoint} answers · temperature {self.temperature:g} · at most {self.max_new_tokens} tokens"

    def ask(self, question: str, stop: threading.Event) -> Iterator[str]:
        """Pieces of the answer as they are drawn. What was drawn before `stop` or a closed iterator is kept, marked stopped.

        Raises:
            UserError: the question is no text that a model can take, or cannot be saved.
        """
        check("the question", question)
        if self._conversation is None:
            self._conversation = self.store.start_conversation(rater=self.rater, system_prompt=self.system_prompt)
        parent = self.turns[-1].answer_id if self.turns else None
        question_id = self.store.add_message(self._conversation, parent=parent, author="human", content=question)
        self.turns.append(_Turn(question, question_id, parent))
        try:
            yield from self.retry(stop)
        except Exception:
            # A question that got no answer is no turn: the next one does not follow from it, and nobody can vote on it.
            if not self.turns[-1].answer:
                self.turns.pop()
            raise

    def ask_again(self, question: str, stop: threading.Event) -> Iterator[str]:
        """The last question in other words, beside the old one, whose answer stays in the store."""
        check("the question", question)
        before = self.turns[-1:]
        del self.turns[-1:]
        kept = len(self.turns)
        try:
            yield from self.ask(question, stop)
        except Exception:
            # Refused, as too long for example: the old question is still the last one.
            if len(self.turns) == kept:
                self.turns += before
            raise

    def retry(self, stop: threading.Event) -> Iterator[str]:
        """Another answer to the last question, beside the old one."""
        if self.turns:
            turn, said = self.turns[-1], Said(by=self.checkpoint)
            before, turn.shown = turn.shown, said
            try:
                yield from self._answer(said, stop)
            finally:
                if said.finish == "error" and not said.text:
                    turn.shown = before

    def second(self, checkpoint: str, stop: threading.Event, *, first: bool, blind: bool) -> Iterator[str]:
        """A second answer to the last question, to choose from; `first` puts it on the left.

        Where it was stopped or fails, or one of the two is empty, there is nothing to choose from, and the one that is there stays.
        """
        shown, said = self.turns[-1].shown, Said(by=checkpoint)
        yield from self._answer(said, stop)
        whole = all(answer.text.strip() and answer.finish != "stopped" for answer in (said, shown))
        if whole and not stop.is_set():
            left, right = (said, shown) if first else (shown, said)
            self.choice = Choice(left, right, blind)

    def _answer(self, said: Said, stop: threading.Event) -> Iterator[str]:
        turn, self.drawn = self.turns[-1], said
        messages = [Message("system", self.system_prompt)] if self.system_prompt else []
        for earlier in self.turns[:-1]:
            messages += [Message("user", earlier.question), Message("assistant", as_said(earlier.answer))]
        messages.append(Message("user", turn.question))
        # A new seed each time, and noted: a retry must differ, and any answer can be drawn again.
        sampling = Sampling(self.max_new_tokens, self.temperature, self.top_p, seed=time.time_ns() % 2**31)
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
            said.id = self.store.add_message(
                self._conversation,
                parent=turn.question_id,
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

    def choose(self, key: str) -> str:
        """Keeps the choice that waits; any other key than 1 to 4 skips it."""
        choice = self.choice
        winner = self.votes.choose(choice, key)
        # Only now: had it not been saved, it would still wait.
        self.choice = None
        if winner == "skip":
            return "skipped"
        self.turns[-1].shown = choice.better(winner)
        return choice.verdict(winner)

    def _model_id(self, checkpoint: str) -> str:
        if checkpoint not in self._models:
            self._models[checkpoint] = self.store.add_model(**self.assistant.describe(checkpoint))
        return self._models[checkpoint]

    def comparable(self, name: str) -> str:
        """Why no second answer can be set beside the last one; empty when one can."""
        shown = self.shown
        if shown.id is None:
            return "nothing to compare yet: ask something first"
        if name and name not in self.assistant.checkpoints:
            return f"there are {', '.join(self.assistant.checkpoints)}; {self.checkpoint} answers now"
        if shown.own or shown.finish == "stopped" or not shown.text.strip():
            return "only a whole answer of a model can be compared: /retry draws one"
        return ""

    def start_anew(self) -> None:
        """The next question begins a conversation."""
        self.turns, self._conversation = [], None


def _ms(started: float) -> int:
    return round((time.monotonic() - started) * 1000)
