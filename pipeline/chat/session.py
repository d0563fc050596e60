"""A conversation and its commands, without any screen: what the terminal stands on."""

from __future__ import annotations

import difflib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, field

from data.errors import UserError
from data.feedback import FeedbackStore
from data.records import Message, check_text
from data.transcripts import as_said
from pipeline.chat.choice import KEYS, Choice, Said
from pipeline.generation import Sampling

COMMANDS: dict[str, str] = {
    "/good": "the last answer was good",
    "/bad": "the last answer was bad; words after it are kept: /bad too long, for example",
    "/undo": "take the last vote back",
    "/retry": "another answer to the same question; the old one is kept",
    "/compare": "a second answer beside the last one, to choose from; /compare MODEL lets another model give it",
    "/edit": "your own wording of the last answer, kept as an example: /edit TEXT, or /edit alone to mend it",
    "/ask": "the last question in other words: /ask TEXT, or /ask alone to mend it",
    "/new": "start a new conversation",
    "/model": "who answers: /model sft|ppo|base",
    "/system": "a system prompt for the next conversation: /system TEXT",
    "/set": "sampling: /set temperature=0.5, /set top_p=0.9 or /set max_new_tokens=100",
    "/stats": "how many votes there are",
    "/help": "this list",
    "/quit": "leave",
}
# Words after a vote that stand for themselves, in the order in which people complain.
TAGS = (
    "misunderstood me",
    "not correct",
    "didn't follow instructions",
    "too long",
    "too short",
    "unsafe",
    "refused wrongly",
    "other",
)


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

    @property
    def finish(self) -> str | None:
        return self.shown.finish


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
        # Thumbs as they were given, and the numbers of choices, the last one last.
        self._votes: list[tuple[str, int, tuple[str, ...], str | None] | int] = []
        # Two answers that wait for a choice, and what the next line starts as, for the person to mend.
        self.choice: Choice | None = None
        self.draft = ""
        # The answer that was drawn last, whether it is the one shown or not.
        self.drawn = Said()

    @property
    def status(self) -> str:
        """Who answers, and how, in a few words."""
        return f"{self.checkpoint} answers · temperature {self.temperature:g} · at most {self.max_new_tokens} tokens"

    # -- talking -----------------------------------------------------------------------------------------------------------

    def ask(self, question: str, stop: threading.Event) -> Iterator[str]:
        """Pieces of the answer as they are drawn. What was drawn before `stop` or a closed iterator is kept, marked stopped.

        Raises:
            UserError: the question is no text that a model can take, or cannot be saved.
        """
        _check("the question", question)
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
        _check("the question", question)
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
        choice, self.choice = self.choice, None
        winner = KEYS.get(key, "skip")
        try:
            number = self.store.compare(
                choice.left.id,
                choice.right.id,
                rater=self.rater,
                winner=winner,
                blind=choice.blind,
                shown_ms=choice.shown_ms,
            )
        except UserError:
            self.choice = choice
            raise
        if winner == "skip":
            return "skipped"
        self.turns[-1].shown = choice.better(winner)
        self._votes.append(number)
        return choice.verdict(winner)

    def _model_id(self, checkpoint: str) -> str:
        if checkpoint not in self._models:
            self._models[checkpoint] = self.store.add_model(**self.assistant.describe(checkpoint))
        return self._models[checkpoint]

    # -- commands ----------------------------------------------------------------------------------------------------------

    def command(self, line: str) -> str:
        """Does what a line that starts with "/" asks for, and returns what to tell the person.

        /retry, /compare, /ask and /quit belong to the screen, which must stream and leave.
        """
        name, rest = [*line.split(None, 1), ""][:2]
        name = name.lower()
        actions: dict[str, Callable[[str], str]] = {
            "/good": lambda text: self._vote(1, text),
            "/bad": lambda text: self._vote(-1, text),
            "/undo": lambda text: self._undo(),
            "/edit": self._edit,
            "/new": lambda text: self._new(),
            "/model": self._choose,
            "/system": self._system,
            "/set": self._set,
            "/stats": lambda text: self._stats(),
            "/help": lambda text: "\n".join(f"{c:<9} {what}" for c, what in COMMANDS.items()),
        }
        if name in actions:
            return actions[name](rest.strip())
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        return f"unknown command {name}" + (f"; did you mean {close[0]}?" if close else "; /help lists them")

    def _vote(self, value: int, words: str) -> str:
        answer = self.turns[-1].answer_id if self.turns else None
        if answer is None:
            return "nothing to vote on yet: ask something first"
        if self.turns[-1].shown.own:
            return "that is your own wording: it takes no vote"
        tags, comment = read_words(words)
        if comment:
            _check("the comment", comment)
        self.store.rate(answer, rater=self.rater, value=value, tags=tags, comment=comment)
        self._votes.append((answer, value, tags, comment))
        return f"kept: {'good' if value > 0 else 'bad'}" + (
            "" if value > 0 else ". /compare sets another answer beside it"
        )

    def _undo(self) -> str:
        if not self._votes:
            return "no vote of this session to take back"
        if isinstance(self._votes[-1], int):
            self.store.withdraw_comparison(self._votes[-1], rater=self.rater)
            self._votes.pop()
            return "choice taken back"
        answer = self._votes[-1][0]
        before = [vote for vote in self._votes[:-1] if not isinstance(vote, int) and vote[0] == answer]
        _, value, tags, comment = before[-1] if before else (answer, 0, (), None)
        self.store.rate(answer, rater=self.rater, value=value, tags=tags, comment=comment)
        # Only now: had it not been saved, the vote would still stand.
        self._votes.pop()
        return "vote taken back"

    def _edit(self, text: str) -> str:
        shown = self.turns[-1].shown if self.turns else Said()
        if shown.id is None:
            return "nothing to edit yet: ask something first"
        if not text:
            self.draft = f"/edit {shown.text.strip()}"
            return "mend it and press Enter (Alt-Enter begins a line), or give the words at once: /edit TEXT"
        _check("your wording", text)
        if text == shown.text.strip():
            return "nothing was changed"
        kept = self.store.edit(shown.id, rater=self.rater, content=text)
        self.turns[-1].shown = Said(text, kept, "stop", "you", own=True)
        return "kept: your wording; the conversation goes on from it"

    def comparable(self, name: str) -> str:
        """Why no second answer can be set beside the last one; empty when one can."""
        if not self.turns or self.turns[-1].answer_id is None:
            return "nothing to compare yet: ask something first"
        if name and name not in self.assistant.checkpoints:
            return f"there are {', '.join(self.assistant.checkpoints)}; {self.checkpoint} answers now"
        shown = self.turns[-1].shown
        if shown.own or shown.finish == "stopped" or not shown.text.strip():
            return "only a whole answer of a model can be compared: /retry draws one"
        return ""

    def _new(self) -> str:
        self.turns, self._conversation = [], None
        return "new conversation"

    def _choose(self, name: str) -> str:
        known = self.assistant.checkpoints
        if name not in known:
            return f"there are {', '.join(known)}; {self.checkpoint} answers now"
        if name == self.checkpoint:
            return f"{name} answers already"
        self.checkpoint = name
        # It would take up the other's tone from the conversation so far, and the two would look alike.
        return f"{name} answers from now on" + (
            "; /retry asks it the last question too, /new starts afresh" if self.turns else ""
        )

    def _system(self, text: str) -> str:
        if text:
            _check("the system prompt", text)
        self.system_prompt = text or None
        self._new()
        return "new conversation " + (f"with the system prompt: {text}" if text else "without a system prompt")

    def _set(self, text: str) -> str:
        name, _, value = (part.strip() for part in text.partition("="))
        limits = {
            "temperature": (float, 0.0, 5.0),
            "top_p": (float, 0.01, 1.0),
            "max_new_tokens": (int, 1, self.assistant.context_tokens - 1),
        }
        if name not in limits:
            close = difflib.get_close_matches(name, limits, n=1)
            return (f"did you mean {close[0]}? " if close else "") + (
                f"/set knows {', '.join(limits)}, as in /set temperature=0.5"
            )
        kind, low, high = limits[name]
        try:
            number = kind(value)
        except ValueError:
            number = None
        if number is None or not low <= number <= high:
            return (
                f"{name} should be {'a number' if kind is float else 'an integer'} from {low} to {high} (got '{value}')"
            )
        setattr(self, name, number)
        return f"{name} is {number}"

    def _stats(self) -> str:
        stats = self.store.stats()
        return (
            f"{stats['up']} good and {stats['down']} bad of {stats['answers']} answers (conversations: {stats['conversations']}), "
            f"kept in {self.store.path}"
        )


def read_words(words: str) -> tuple[tuple[str, ...], str | None]:
    """Tags among the comma-separated words after a vote, and the rest as a comment."""
    parts = [part.strip() for part in words.split(",")]
    tags = tuple(dict.fromkeys(part.lower() for part in parts if part.lower() in TAGS))
    # Without a tag the comment stays as it was typed.
    rest = ", ".join(part for part in parts if part and part.lower() not in TAGS) if tags else words
    return tags, rest or None


def _check(name: str, text: str) -> None:
    try:
        check_text(name, text)
    except ValueError as error:
        raise UserError(f"{error}; nothing was sent.") from None


def _ms(started: float) -> int:
    return round((time.monotonic() - started) * 1000)
