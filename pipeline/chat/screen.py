"""Answers on a screen: Markdown printed once, with only the last block redrawn, and nothing that a model says steers the terminal."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from markdown_it import MarkdownIt
from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.markdown import Markdown
from rich.segment import Segment, Segments
from rich.text import Text

_FENCE = re.compile(r"^ {0,3}(```|~~~)", re.MULTILINE)
_SECONDS_BETWEEN_FRAMES = 0.05


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


def say(screen: Console, text: str) -> None:
    """A word of the program, indented and dim, so that nobody takes it for the model's."""
    for line in printable(text).split("\n"):
        # In a file, a line is a line.
        parts = [line] if screen.soft_wrap else Text(line).wrap(screen, max(1, screen.width - 2))
        for part in parts:
            screen.print(f"  {part}".rstrip(), style="dim")
