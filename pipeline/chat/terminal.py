"""The terminal chat: streams, votes, and stops only the answer on Ctrl-C."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from data.feedback import FeedbackStore
from pipeline.chat.session import COMMANDS, Session


def chat(run_dir: Path, config) -> None:
    """Talks until /quit or the end of the input."""
    from pipeline.assistant import Assistant

    assistant = Assistant.open(run_dir, config)
    store = FeedbackStore.open(Path(config.chat.feedback_db))
    try:
        talk(Session(assistant, store, config.chat), lines(Path(config.chat.feedback_db).with_suffix(".history")))
    finally:
        store.close()


def talk(session: Session, asked: Iterator[str], out=None) -> None:
    """Answers every line of `asked`; a line that starts with "/" is a command."""
    out = out or sys.stdout
    _say(out, f"{session.checkpoint} answers. /good and /bad vote on an answer, /help lists the rest, /quit leaves.")
    for line in asked:
        line = line.strip()
        name = line.split(" ")[0]
        if not line:
            continue
        if name == "/quit":
            break
        if name == "/retry":
            if not session.turns:
                _say(out, "nothing to retry yet: ask something first")
            else:
                _stream(session.retry, out)
        elif line.startswith("/"):
            _say(out, session.command(line))
        else:
            _stream(lambda stop, question=line: session.ask(question, stop), out)


def lines(history: Path) -> Iterator[str]:
    """Lines from the person: with history, completion and editing on a terminal, as they come from a pipe."""
    if not sys.stdin.isatty():
        yield from sys.stdin
        return
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import WordCompleter
    from prompt_toolkit.history import FileHistory

    history.parent.mkdir(parents=True, exist_ok=True)
    prompt = PromptSession(
        history=FileHistory(str(history)),
        completer=WordCompleter(list(COMMANDS), sentence=True),
        complete_while_typing=False,
    )
    while True:
        try:
            yield prompt.prompt("you  ")
        except KeyboardInterrupt:
            continue
        except EOFError:
            return


def _stream(answer, out) -> None:
    stop = threading.Event()
    pieces = answer(stop)
    try:
        for piece in pieces:
            out.write(printable(piece))
            out.flush()
    except KeyboardInterrupt:
        stop.set()
        # Closing keeps what was drawn so far, marked as stopped.
        pieces.close()
        out.write(" [stopped]")
    out.write("\n")
    out.flush()


def printable(text: str) -> str:
    """Without control characters: a model's output must not steer the terminal."""
    return "".join(c if c in "\n\t" or (c >= " " and not "\x7f" <= c <= "\x9f") else "\ufffd" for c in text)


def _say(out, text: str) -> None:
    out.write(f"  {printable(text)}\n".replace("\n", "\n  ").rstrip(" "))
    out.flush()
