"""A conversation, without any screen: questions, answers as they are drawn, and which answer is shown."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from data.feedback import FeedbackStore
from data.transcripts import Conversation, owner
from pipeline.chat.choice import Choice, Said
from pipeline.chat.drawing import Drawer
from pipeline.chat.votes import Votes
from pipeline.chat.words import check
from pipeline.sampling import Sampling


@dataclass
class Turn:
    """A question with the answer shown, and their ids in the store."""

    question: str
    question_id: str
    parent: str | None
    shown: Said = field(default_factory=Said)

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
        # For conversations that begin from now on; the present one may have another, or none.
        self.system_prompt: str | None = None
        self.turns: list[Turn] = []
        self.conversation: str | None = None
        # What /history listed last, for the numbers to mean something.
        self.listed: tuple[Conversation, ...] = ()
        self._drawer = Drawer(assistant, store)
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
        if self.conversation is None:
            self.conversation = self.store.start_conversation(rater=self.rater, system_prompt=self.system_prompt)
        if self.turns and self.shown.id is None:
            # Taken up again with a question that has no answer: the new one stands in its place.
            self.turns.pop()
        parent = self.turns[-1].answer_id if self.turns else None
        question_id = self.store.add_message(self.conversation, parent=parent, author="human", content=question)
        self.turns.append(Turn(question, question_id, parent))
        try:
            yield from self.retry(stop)
        except Exception:
            # A question that got no answer is no turn: the next one does not follow from it, and nobody can vote on it.
            if not self.shown.text:
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
        # A new seed each time, and noted: a retry must differ, and any answer can be drawn again.
        sampling = Sampling(self.max_new_tokens, self.temperature, self.top_p, seed=time.time_ns() % 2**31)
        yield from self._drawer.draw(said, self.conversation, turn.question_id, sampling, stop)

    def choose(self, key: str) -> str:
        """Keeps the choice that waits; what is none of `KEYS` skips it."""
        choice = self.choice
        winner = self.votes.choose(choice, key)
        # Only now: had it not been saved, it would still wait.
        self.choice = None
        if winner == "skip":
            return "skipped"
        self.turns[-1].shown = choice.better(winner)
        return choice.verdict(winner)

    def models(self, missing: str = "") -> str:
        """Which there are, and that one is not among them."""
        said = f"no model {missing}; " if missing else ""
        return f"{said}there are {', '.join(self.assistant.checkpoints)}; {self.checkpoint} answers now"

    def comparable(self, name: str) -> str:
        """Why no second answer can be set beside the last one; empty when one can."""
        shown = self.shown
        if shown.id is None:
            return "nothing to compare yet: ask something first"
        if name and name not in self.assistant.checkpoints:
            return self.models(name)
        if shown.own or shown.finish == "stopped" or not shown.text.strip():
            return "only a whole answer of a model can be compared: /retry draws one"
        return ""

    def start_anew(self) -> None:
        """The next question begins a conversation."""
        self.turns, self.conversation = [], None

    def take_up(self, conversation: str, turns: list[Turn]) -> None:
        """The next question follows these turns of an earlier conversation; what was voted elsewhere is not taken back from here."""
        self.turns, self.conversation = turns, conversation
        self.votes = Votes(self.store, self.rater)

    def lost(self) -> bool:
        """Whether the conversation was deleted by somebody else; then the next question begins another."""
        if self.conversation is None or owner(self.store, self.conversation) is not None:
            return False
        self.start_anew()
        self.choice = None
        return True
