"""Answers of a session on the screen: as they are drawn, and those that are there already."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.text import Text

from data.transcripts import owner
from pipeline.chat.history import mark, notes, place, step
from pipeline.chat.screen import printable, say, show_blocks, show_plain
from pipeline.chat.session import Session


def show_step(session: Session, by: int, screen: Console) -> None:
    """Another version of the last answer."""
    known, refused = step(session, by)
    if refused:
        say(screen, refused)
        return
    _last(session, screen)
    if known:
        say(screen, known)


def transcript(session: Session, screen: Console) -> None:
    """The conversation as it stands, to go on with."""
    system = owner(session.store, session.conversation)[1]
    if system:
        say(screen, f"system prompt: {system}")
    for turn in session.turns:
        _question(screen, turn.question)
        if turn is session.turns[-1] and turn.shown.id is not None:
            _last(session, screen)
        elif turn.shown.id is not None:
            show(screen, turn.shown.by, turn.shown.text)
    if session.shown.id is None:
        say(screen, "[no answer yet: /retry draws one]")
    elif known := notes(session):
        say(screen, known)


def _question(screen: Console, text: str) -> None:
    """As it was typed: it is nobody's Markdown."""
    if not screen.is_terminal:
        show_plain(screen, "you", iter([text]))
        return
    screen.print(Text("you", style="bold"))
    screen.print(Text(printable(text)))
    screen.print()


def _last(session: Session, screen: Console) -> None:
    show(screen, headed(session.shown.by, mark(*place(session)), screen), session.shown.text)


def headed(name: str, place: str, screen: Console) -> str:
    """Who answers, with the place among versions; in signs that every screen has, where it lacks the others."""
    if not screen.encoding.startswith("utf"):
        place = place.replace("‹", "<").replace("›", ">")
    return f"{name} {place}".rstrip()


def show(screen: Console, name: str, text: str) -> None:
    """Words that are there already."""
    draw = show_blocks if screen.is_terminal else show_plain
    draw(screen, name, iter([text or "(an empty answer)"]))


def stream(
    session: Session, answer: Callable[[threading.Event], Iterator[str]], screen: Console, name: str | None = None
) -> None:
    """Shows an answer as it is drawn. `name` stands in for the model's where that is to stay unknown."""
    stop = threading.Event()
    pieces = answer(stop)
    show = show_blocks if screen.is_terminal else show_plain
    try:
        with _interrupt_sets(stop):
            show(screen, name or session.checkpoint, pieces)
    except KeyboardInterrupt:
        stop.set()
    finally:
        # Closing keeps what was drawn so far, marked as stopped.
        pieces.close()
    if stop.is_set():
        say(screen, "[stopped]")
    elif session.drawn.finish == "length":
        say(screen, f"[cut off after {session.max_new_tokens} tokens; /set max_new_tokens=N allows more]")
    elif not session.drawn.text:
        say(screen, "[an empty answer]")


@contextmanager
def _interrupt_sets(stop: threading.Event) -> Iterator[None]:
    """Ctrl-C ends the answer between two tokens, where nothing is half done; pressed again it does not wait for that."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupted(signum, frame) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = signal.signal(signal.SIGINT, interrupted)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
