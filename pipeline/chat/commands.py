"""What a line that starts with "/" does, where no answer is drawn for it."""

from __future__ import annotations

import difflib
from collections.abc import Callable

from data.numbers import many
from pipeline.chat.choice import Said
from pipeline.chat.history import listing, mark, place
from pipeline.chat.session import Session
from pipeline.chat.words import COMMANDS, check


def obey(session: Session, line: str) -> str:
    """Does what the line asks for, and returns what to tell the person.

    /retry, /previous, /next, /compare, /ask, /open and /quit belong to the screen, which shows answers and leaves.

    Raises:
        UserError: the words are no text, or cannot be saved.
    """
    name, rest = [*line.split(None, 1), ""][:2]
    name = name.lower()
    if name in _ACTIONS:
        return _ACTIONS[name](session, rest.strip())
    close = difflib.get_close_matches(name, COMMANDS, n=1)
    return f"unknown command {name}" + (f"; did you mean {close[0]}?" if close else "; /help lists them")


def _vote(session: Session, value: int, words: str) -> str:
    shown = session.shown
    if shown.id is None:
        return "nothing to vote on yet: ask something first"
    if shown.own:
        return "that is your own wording: it takes no vote"
    session.votes.thumb(shown.id, value, words)
    which = " ".join(filter(None, ("good" if value > 0 else "bad", mark(*place(session)))))
    offered = value < 0 and not session.comparable("")
    return f"kept: {which}" + (". /compare sets another answer beside it" if offered else "")


def _undo(session: Session) -> str:
    done = session.votes.undo(session.shown.id)
    if not done and session.shown.id is not None:
        done = session.votes.withdraw(session.conversation, session.turns[-1].question_id, session.shown.id)
    return done or "no vote to take back"


def _edit(session: Session, text: str) -> str:
    shown = session.shown
    if shown.id is None:
        return "nothing to edit yet: ask something first"
    if not text:
        session.draft = f"/edit {shown.text.strip()}"
        return "mend it and press Enter (Alt-Enter begins a line), or give the words at once: /edit TEXT"
    check("your wording", text)
    if text == shown.text.strip():
        return "nothing was changed"
    kept = session.store.edit(shown.id, rater=session.rater, content=text)
    session.turns[-1].shown = Said(text, kept, "stop", "your wording", own=True)
    which = " ".join(filter(None, ("your wording", mark(*place(session)))))
    return f"kept: {which}; the conversation goes on from it"


def _delete(session: Session, text: str) -> str:
    if session.conversation is None:
        return "nothing to delete: this conversation has not begun"
    if text.lower() != "yes":
        return "this conversation would go for good, with all that was voted on it: /delete yes does it"
    gone = session.store.forget_conversation(session.conversation)
    session.start_anew()
    # After it: where traces stay in the file, that is told, and the conversation is gone all the same.
    session.store.wipe()
    typed = session.store.path.with_suffix(".history")
    return f"deleted: {many(gone['messages'], 'message')} and what was voted on them. The lines as they were typed stay in {typed}"


def _new(session: Session) -> str:
    session.start_anew()
    return "new conversation"


def _model(session: Session, name: str) -> str:
    if name not in session.assistant.checkpoints:
        return session.models(name)
    if name == session.checkpoint:
        return f"{name} answers already"
    session.checkpoint = name
    # It would take up the other's tone from the conversation so far, and the two would look alike.
    return f"{name} answers from now on" + (
        "; /retry asks it the last question too, /new starts afresh" if session.turns else ""
    )


def _system(session: Session, text: str) -> str:
    if text:
        check("the system prompt", text)
    session.system_prompt = text or None
    session.start_anew()
    return "new conversation " + (f"with the system prompt: {text}" if text else "without a system prompt")


def _set(session: Session, text: str) -> str:
    name, _, value = (part.strip() for part in text.partition("="))
    limits = {
        "temperature": (float, 0.0, 5.0),
        "top_p": (float, 0.01, 1.0),
        "max_new_tokens": (int, 1, session.assistant.context_tokens - 1),
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
        return f"{name} should be {'a number' if kind is float else 'an integer'} from {low} to {high} (got '{value}')"
    setattr(session, name, number)
    return f"{name} is {number}"


def _stats(session: Session) -> str:
    stats = session.store.stats()
    beside = (
        (stats["comparisons"], "choice between two answers", "choices between two answers"),
        (stats["wordings"], "answer in other words", "answers in other words"),
    )
    said = [
        f"{stats['up']} good and {stats['down']} bad of {many(stats['answers'], 'answer')} (conversations: {stats['conversations']})",
        *(many(count, *words) for count, *words in beside if count),
        f"kept in {session.store.path}",
    ]
    return ", ".join(said)


_ACTIONS: dict[str, Callable[[Session, str], str]] = {
    "/good": lambda session, text: _vote(session, 1, text),
    "/bad": lambda session, text: _vote(session, -1, text),
    "/undo": lambda session, text: _undo(session),
    "/edit": _edit,
    "/history": listing,
    "/delete": _delete,
    "/new": lambda session, text: _new(session),
    "/model": _model,
    "/system": _system,
    "/set": _set,
    "/stats": lambda session, text: _stats(session),
    "/help": lambda session, text: "\n".join(f"{c:<10}{what}" for c, what in COMMANDS.items()),
}
