"""The terminal chat: streams, votes, and stops only the answer on Ctrl-C."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from data.errors import UserError
from data.feedback import FeedbackStore
from pipeline.chat.choice import HOW, KEYS, offered, toss
from pipeline.chat.commands import obey
from pipeline.chat.history import go_back, mark, place
from pipeline.chat.prompt import lines
from pipeline.chat.screen import say
from pipeline.chat.session import Session
from pipeline.chat.shown import headed, show, show_step, stream, transcript

if TYPE_CHECKING:
    from pipeline.lineup import Checkpoint

_STEPS = {"/previous": -1, "/next": 1}


def chat(run_dir: Path, config, others: Sequence[Checkpoint] = ()) -> None:
    """Talks until /quit or the end of the input; `others` are the assistants of other rounds, to talk to as well."""
    from pipeline.assistant import Assistant

    # A byte that is no UTF-8 is refused with the line that holds it, and a narrow terminal gets "?" for what it cannot show.
    sys.stdin.reconfigure(errors="surrogateescape")
    sys.stdout.reconfigure(errors="replace")
    database = Path(config.chat.feedback_db)
    assistant = Assistant.open(run_dir, config, others)
    store = FeedbackStore.open(database)
    try:
        session = Session(assistant, store, config.chat)
        # Only who sits there can choose; a pipe gets one answer a line.
        share = config.chat.comparison_share if sys.stdin.isatty() and sys.stdout.isatty() else 0.0
        talk(session, lines(session, database.with_suffix(".history")), share=share)
    finally:
        store.close()


def talk(session: Session, asked: Iterator[str], out=None, share: float = 0.0) -> None:
    """Answers every line of `asked`; a line that starts with "/" is a command. `share` of the questions are answered twice."""
    screen = Console(file=out, markup=False, highlight=False, emoji=False)
    # In a file, a line is a line, however long.
    screen.soft_wrap = not screen.is_terminal
    say(screen, f"{session.checkpoint} answers. /good and /bad vote on it, /help lists the rest, /quit leaves.")
    for line in asked:
        line = line.strip()
        if not line:
            continue
        if line.split()[0].lower() == "/quit":
            break
        try:
            if session.lost():
                say(screen, "that conversation was deleted meanwhile; a new one begins")
            _hear(session, line, screen, share)
        except UserError as error:
            say(screen, "\n".join(error.problems))


def _hear(session: Session, line: str, screen: Console, share: float) -> None:
    name, rest = [*line.split(None, 1), ""][:2]
    name = name.lower()
    if session.choice is not None:
        key = line.lower()
        say(screen, session.choose(key))
        if key in KEYS:
            return
    if name == "/retry" and session.turns:
        of = place(session)[1] + 1
        stream(session, session.retry, screen, headed(session.checkpoint, mark(of, of), screen))
    elif name == "/retry":
        say(screen, "nothing to retry yet: ask something first")
    elif name in _STEPS:
        show_step(session, _STEPS[name], screen)
    elif name == "/open":
        go_back(session, rest.strip())
        transcript(session, screen)
    elif name == "/compare":
        _compare(session, rest, screen)
    elif name == "/ask" and not session.turns:
        say(screen, "no question to change yet: ask something first")
    elif name == "/ask" and not rest:
        session.draft = f"/ask {session.turns[-1].question}"
        say(screen, "mend it and press Enter (Alt-Enter begins a line), or give the words at once: /ask TEXT")
    elif name == "/ask":
        stream(session, lambda stop: session.ask_again(rest, stop), screen)
    elif line.startswith("/"):
        say(screen, obey(session, line))
    elif offered(share):
        _twice(session, line, screen)
    else:
        stream(session, lambda stop: session.ask(line, stop), screen)


def _twice(session: Session, question: str, screen: Console) -> None:
    """A question answered two times by one model, for a choice."""
    stream(session, lambda stop: session.ask(question, stop), screen, "A")
    if not session.comparable(""):
        second = lambda stop: session.second(session.checkpoint, stop, first=False, blind=True)  # noqa: E731
        stream(session, second, screen, "B")
    _offer(session, screen)


def _compare(session: Session, name: str, screen: Console) -> None:
    """A second answer beside the last one, on sides drawn by lot. Not blind: the first had been read with its name."""
    if reason := session.comparable(name):
        say(screen, reason)
        return
    shown, first = session.turns[-1].shown, toss()
    second = lambda stop: session.second(name or session.checkpoint, stop, first=first, blind=False)  # noqa: E731
    if not first:
        show(screen, "A", shown.text)
    stream(session, second, screen, "A" if first else "B")
    if first and session.choice is not None:
        show(screen, "B", shown.text)
    _offer(session, screen)


def _offer(session: Session, screen: Console) -> None:
    if session.choice is not None:
        # Only now both can be read.
        session.choice.since = time.monotonic()
        say(screen, HOW)
