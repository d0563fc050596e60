"""The terminal chat: streams, votes, and stops only the answer on Ctrl-C."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from markdown_it import MarkdownIt
from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.markdown import Markdown
from rich.segment import Segment, Segments
from rich.text import Text

from data.errors import UserError
from data.feedback import FeedbackStore
from pipeline.chat.choice import HOW, KEYS, offered, toss
from pipeline.chat.session import COMMANDS, TAGS, Session

if TYPE_CHECKING:
    from pipeline.lineup import Checkpoint

_FENCE = re.compile(r"^ {0,3}(```|~~~)", re.MULTILINE)
_SECONDS_BETWEEN_FRAMES = 0.05


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
    _say(screen, f"{session.checkpoint} answers. /good and /bad vote on it, /help lists the rest, /quit leaves.")
    for line in asked:
        line = line.strip()
        if not line:
            continue
        if line.split()[0].lower() == "/quit":
            break
        try:
            _hear(session, line, screen, share)
        except UserError as error:
            _say(screen, "\n".join(error.problems))


def _hear(session: Session, line: str, screen: Console, share: float) -> None:
    name, rest = [*line.split(None, 1), ""][:2]
    name = name.lower()
    if session.choice is not None:
        _say(screen, session.choose(line))
        if line in KEYS:
            return
    if name == "/retry" and session.turns:
        _stream(session, session.retry, screen)
    elif name == "/retry":
        _say(screen, "nothing to retry yet: ask something first")
    elif name == "/compare":
        _compare(session, rest, screen)
    elif name == "/ask" and not session.turns:
        _say(screen, "no question to change yet: ask something first")
    elif name == "/ask" and not rest:
        session.draft = f"/ask {session.turns[-1].question}"
        _say(screen, "mend it and press Enter (Alt-Enter begins a line), or give the words at once: /ask TEXT")
    elif name == "/ask":
        _stream(session, lambda stop: session.ask_again(rest, stop), screen)
    elif line.startswith("/"):
        _say(screen, session.command(line))
    elif offered(share):
        _twice(session, line, screen)
    else:
        _stream(session, lambda stop: session.ask(line, stop), screen)


def _twice(session: Session, question: str, screen: Console) -> None:
    """A question answered two times by one model, for a choice."""
    _stream(session, lambda stop: session.ask(question, stop), screen, "A")
    if not session.comparable(""):
        second = lambda stop: session.second(session.checkpoint, stop, first=False, blind=True)  # noqa: E731
        _stream(session, second, screen, "B")
    _offer(session, screen)


def _compare(session: Session, name: str, screen: Console) -> None:
    """A second answer beside the last one, on sides drawn by lot. Not blind: the first had been read with its name."""
    if reason := session.comparable(name):
        _say(screen, reason)
        return
    shown, first = session.turns[-1].shown, toss()
    second = lambda stop: session.second(name or session.checkpoint, stop, first=first, blind=False)  # noqa: E731
    show = show_blocks if screen.is_terminal else show_plain
    if not first:
        show(screen, "A", iter([shown.text]))
    _stream(session, second, screen, "A" if first else "B")
    if first and session.choice is not None:
        show(screen, "B", iter([shown.text]))
    _offer(session, screen)


def _offer(session: Session, screen: Console) -> None:
    if session.choice is not None:
        # Only now both can be read.
        session.choice.since = time.monotonic()
        _say(screen, HOW)


def lines(session: Session, history: Path) -> Iterator[str]:
    """Lines from the person: with history, completion and a toolbar on a terminal, as they come from a pipe."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        yield from sys.stdin
        return
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import WordCompleter
    from prompt_toolkit.history import FileHistory
    from prompt_toolkit.key_binding import KeyBindings

    # Made here, for its owner alone: it holds what the person said.
    os.close(os.open(history, os.O_CREAT | os.O_WRONLY, 0o600))
    models = [f"{verb} {name}" for verb in ("/model", "/compare") for name in session.assistant.checkpoints]
    words = [*COMMANDS, *models, *(f"/bad {tag}" for tag in TAGS)]
    keys = KeyBindings()
    # Alt-Enter: a question may have several lines.
    keys.add("escape", "enter")(lambda event: event.current_buffer.insert_text("\n"))
    prompt = PromptSession(
        history=FileHistory(str(history)),
        completer=WordCompleter([*words, "/set temperature=", "/set top_p=", "/set max_new_tokens="], sentence=True),
        complete_while_typing=False,
        key_bindings=keys,
        # Eight lines, kept free for a menu below the prompt, would push the conversation up.
        reserve_space_for_menu=4,
        bottom_toolbar=lambda: f" {session.status} · /help",
    )
    while True:
        try:
            draft, session.draft = session.draft, ""
            yield prompt.prompt("you  ", default=draft)
        except KeyboardInterrupt:
            print("  /quit or Ctrl-D leaves")
        except EOFError:
            return


def _stream(
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
        _say(screen, "[stopped]")
    elif session.drawn.finish == "length":
        _say(screen, f"[cut off after {session.max_new_tokens} tokens; /set max_new_tokens=N allows more]")
    elif not session.drawn.text:
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


@contextmanager
def _no_echo() -> Iterator[None]:
    """Keys pressed meanwhile, Ctrl-C too, leave no trace in the part that is redrawn; they are read by the next prompt."""
    if os.name != "posix" or not sys.stdin.isatty():
        yield
        return
    import termios

    before = termios.tcgetattr(sys.stdin)
    termios.tcsetattr(sys.stdin, termios.TCSADRAIN, [*before[:3], before[3] & ~termios.ECHO, *before[4:]])
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def show_plain(screen: Console, name: str, pieces: Iterator[str]) -> None:
    """The answer as it comes, for a pipe or a file."""
    said = False
    try:
        for piece in pieces:
            _write(screen, piece if said else f"{name:<4} {piece}")
            said = True
    finally:
        if said:
            _write(screen, "\n")


def show_blocks(screen: Console, name: str, pieces: Iterator[str]) -> None:
    """The answer as Markdown, for a terminal: finished blocks are printed once and scroll away, only the last is redrawn."""
    tail, drawn_at = "", 0.0
    screen.print(Text(name, style="bold"))
    # Transient: what is redrawn disappears at the end, and the whole block is printed in its place.
    with _no_echo(), Live(console=screen, auto_refresh=False, transient=True) as live:
        try:
            for piece in pieces:
                *done, tail = blocks(tail + printable(piece))
                if done:
                    live.update("", refresh=True)
                for block in done:
                    _print_block(screen, block)
                if time.monotonic() - drawn_at >= _SECONDS_BETWEEN_FRAMES:
                    live.update(_Shown(tail, height=max(1, screen.height - 2)), refresh=True)
                    drawn_at = time.monotonic()
        finally:
            live.update("", refresh=True)
            _print_block(screen, tail)


def _print_block(screen: Console, block: str) -> None:
    if block.strip():
        screen.print(_Shown(block))
        screen.print()


@dataclass(frozen=True)
class _Shown:
    """A block as it looks, without the blank lines that some kinds come with; at most its last `height` lines."""

    text: str
    height: int | None = None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = console.render_lines(markdown(self.text), options, pad=False)
        full = [n for n, line in enumerate(lines) if any(segment.text.strip() for segment in line)]
        lines = lines[full[0] : full[-1] + 1] if full else []
        shown = lines if self.height is None else lines[-self.height :]
        yield Segments([segment for line in shown for segment in (*line, Segment.line())])


def blocks(text: str) -> list[str]:
    """The text cut after blank lines; code between fences stays whole. The last part may be unfinished."""
    parts = [""]
    for line in text.splitlines(keepends=True):
        parts[-1] += line
        if line == "\n" and parts[-1].strip() and len(_FENCE.findall(parts[-1])) % 2 == 0:
            parts.append("")
    return parts


def markdown(text: str) -> Markdown:
    """Shows all that was said: HTML, image marks and single line ends stay, and a link shows where it leads."""
    shown = Markdown(text, code_theme="ansi_dark", hyperlinks=False)
    parser = MarkdownIt("commonmark", {"html": False}).enable(["strikethrough", "table"]).disable("image")
    shown.parsed = parser.parse(text)
    for token in shown.parsed:
        for child in token.children or ():
            if child.type == "softbreak":
                child.type = "hardbreak"
    return shown


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
