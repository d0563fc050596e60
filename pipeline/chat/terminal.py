"""The terminal chat: streams, votes, and stops only the answer on Ctrl-C."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from data.errors import UserError
from data.feedback import FeedbackStore
from pipeline.chat.session import COMMANDS, Session


def chat(run_dir: Path, config) -> None:
    """Talks until /quit or the end of the input."""
    from pipeline.assistant import Assistant

    # A byte that is no UTF-8 is refused with the line that holds it, and a narrow terminal gets "?" for what it cannot show.
    sys.stdin.reconfigure(errors="surrogateescape")
    sys.stdout.reconfigure(errors="replace")
    database = Path(config.chat.feedback_db)
    assistant = Assistant.open(run_dir, config)
    store = FeedbackStore.open(database)
    try:
        session = Session(assistant, store, config.chat)
        talk(session, lines(session, database.with_suffix(".history")))
    finally:
        store.close()


def talk(session: Session, asked: Iterator[str], out=None) -> None:
    """Answers every line of `asked`; a line that starts with "/" is a command."""
    screen = Console(file=out, markup=False, highlight=False, emoji=False)
    # In a file, a line is a line, however long.
    screen.soft_wrap = not screen.is_terminal
    _say(screen, f"{session.checkpoint} answers. /good and /bad vote on it, /help lists the rest, /quit leaves.")
    for line in asked:
        line = line.strip()
        name = line.split(" ")[0].lower()
        if not line:
            continue
        if name == "/quit":
            break
        try:
            if name == "/retry" and session.turns:
                _stream(session, session.retry, screen)
            elif name == "/retry":
                _say(screen, "nothing to retry yet: ask something first")
            elif line.startswith("/"):
                _say(screen, session.command(line))
            else:
                _stream(session, lambda stop, question=line: session.ask(question, stop), screen)
        except UserError as error:
            _say(screen, "\n".join(error.problems))


def lines(session: Session, history: Path) -> Iterator[str]:
    """Lines from the person: with history, completion and a toolbar on a terminal, as they come from a pipe."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        yield from sys.stdin
        return
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import WordCompleter
    from prompt_toolkit.history import FileHistory

    # Made here, for its owner alone: it holds what the person said.
    os.close(os.open(history, os.O_CREAT | os.O_WRONLY, 0o600))
    words = [*COMMANDS, *(f"/model {name}" for name in session.assistant.checkpoints)]
    prompt = PromptSession(
        history=FileHistory(str(history)),
        completer=WordCompleter([*words, "/set temperature=", "/set max_new_tokens="], sentence=True),
        complete_while_typing=False,
        bottom_toolbar=lambda: f" {session.status} · /help",
    )
    while True:
        try:
            yield prompt.prompt("you  ")
        except KeyboardInterrupt:
            print("  /quit or Ctrl-D leaves")
        except EOFError:
            return


def _stream(session: Session, answer: Callable[[threading.Event], Iterator[str]], screen: Console) -> None:
    stop = threading.Event()
    pieces = answer(stop)
    label, said = f"{session.checkpoint:<4} ", False
    try:
        with _interrupt_sets(stop):
            for piece in pieces:
                _write(screen, piece if said else label + piece)
                said = True
    except KeyboardInterrupt:
        stop.set()
    finally:
        # Closing keeps what was drawn so far, marked as stopped.
        pieces.close()
        if said:
            _write(screen, "\n")
    if stop.is_set():
        _say(screen, "[stopped]")
    elif session.turns[-1].finish == "length":
        _say(screen, f"[cut off after {session.max_new_tokens} tokens; /set max_new_tokens=N allows more]")
    elif not said:
        _say(screen, "[an empty answer]")


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


def printable(text: str) -> str:
    """Without characters that steer: no control codes, no marks that turn the direction of text, no half of a pair."""
    return "".join(c if c in "\n\t" or not _steers(c) else "\ufffd" for c in text)


def _steers(c: str) -> bool:
    return (
        c < " "
        or "\x7f" <= c <= "\x9f"
        or "\u202a" <= c <= "\u202e"
        or "\u2066" <= c <= "\u2069"
        or "\ud800" <= c <= "\udfff"
    )


def _write(screen: Console, text: str) -> None:
    screen.file.write(printable(text))
    screen.file.flush()


def _say(screen: Console, text: str) -> None:
    """A word of the program, indented and dim, so that nobody takes it for the model's."""
    for line in printable(text).split("\n"):
        screen.print(f"  {line}".rstrip(), style="dim")
