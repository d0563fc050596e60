"""Answers on a terminal: Markdown, printed once, with only the last block redrawn."""

import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from pipeline.chat.choice import HOW
from pipeline.chat.screen import blocks, say, show_blocks
from pipeline.chat.words import COMMANDS

WIDTH, HEIGHT = 80, 24


class Screen(io.StringIO):
    """Enough of a terminal to know what stands on it: text, line ends, and the moves that a redraw makes."""

    def __init__(self):
        super().__init__()
        self.lines, self.row, self.column, self.farthest_up = [""], 0, 0, 0

    def write(self, text: str) -> int:
        for part in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|[\n\r]|[^\n\r\x1b]+", text):
            if part == "\n":
                self.row, self.column = self.row + 1, 0
                self.lines += [""] * (self.row + 1 - len(self.lines))
            elif part == "\r":
                self.column = 0
            elif not part.startswith("\x1b"):
                line = self.lines[self.row].ljust(self.column)
                self.lines[self.row] = line[: self.column] + part + line[self.column + len(part) :]
                self.column += len(part)
                assert self.column <= WIDTH
            elif part.endswith("A"):
                self.row -= int(part[2:-1])
                self.farthest_up = max(self.farthest_up, len(self.lines) - self.row)
            elif part == "\x1b[2K":
                self.lines[self.row] = ""
            else:
                assert part[-1] in "mhl", part
        return len(text)

    def text(self) -> str:
        return "\n".join(line.rstrip() for line in self.lines).strip("\n")


@pytest.fixture
def shown(monkeypatch):
    # Each piece is drawn, however fast they come.
    monkeypatch.setattr("pipeline.chat.screen._SECONDS_BETWEEN_FRAMES", 0.0)

    def show(text: str, size: int = 3) -> Screen:
        screen = Screen()
        console = Console(file=screen, force_terminal=True, width=WIDTH, height=HEIGHT, legacy_windows=False)
        show_blocks(console, "ppo", (text[i : i + size] for i in range(0, len(text), size)))
        return screen

    return show


LONG = "\n\n".join(
    [
        "Some **bold** words and `code`.",
        "1. first\n2. second",
        "```python\nfor i in range(3):\n\n    print(i)\n```",
        "The end.",
    ]
)


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_whatever_the_pieces_the_answer_stands_there_once(shown, size):
    assert shown(LONG, size).text().split("\n") == [
        "ppo",
        "Some bold words and code.",
        "",
        " 1 first",
        " 2 second",
        "",
        " for i in range(3):",
        "",
        "     print(i)",
        "",
        "The end.",
    ]


def test_a_block_taller_than_the_terminal_is_whole_when_it_ends_and_never_scrolls_while_it_is_redrawn(shown):
    words = [f"word{i}" for i in range(600)]
    screen = shown(" ".join(words), 40)
    assert screen.text().split()[1:] == words
    assert screen.farthest_up <= HEIGHT


def test_what_was_said_is_all_shown(shown):
    text = shown(
        "a <b>bold</b> tag, [a link](http://x.example), ![an image](http://y.example)\nand the next line"
    ).text()
    assert "<b>bold</b>" in text and "http://x.example" in text and "http://y.example" in text
    assert text.split("\n")[-1] == "and the next line"


def test_a_model_cannot_draw_on_the_terminal(shown):
    screen = shown("red \x1b[31m up \x1b[5A gone \x1b[2J bell \x07 [link](\x1b]8;;http://x\x07)")
    assert "\ufffd[31m" in screen.text() and "\ufffd[5A" in screen.text() and "\ufffd[2J" in screen.text()


def test_what_came_before_an_error_stays(shown):
    def pieces():
        yield "half an "
        yield "answer"
        raise RuntimeError

    screen = Screen()
    console = Console(file=screen, force_terminal=True, width=WIDTH, height=HEIGHT, legacy_windows=False)
    with pytest.raises(RuntimeError):
        show_blocks(console, "ppo", pieces())
    assert screen.text().split("\n") == ["ppo", "half an answer"]


def test_a_word_of_the_program_stays_indented_where_it_is_longer_than_a_line():
    screen = Screen()
    say(Console(file=screen, force_terminal=True, width=20, height=HEIGHT), "one two three four five six")
    assert screen.text().split("\n") == ["  one two three four", "  five six"]
    file = io.StringIO()
    say(Console(file=file, width=20, soft_wrap=True), "one two three four five six")
    assert file.getvalue() == "  one two three four five six\n"


def test_what_is_always_shown_fits_on_a_line():
    assert len(f"  {HOW}") <= WIDTH and all(len(f"  {name:<10}{what}") <= WIDTH for name, what in COMMANDS.items())


@given(st.text(alphabet="a `~\n#-", max_size=80))
def test_cutting_into_blocks_loses_nothing(text):
    assert "".join(blocks(text)) == text


def test_a_blank_line_between_fences_does_not_cut():
    code = "```\na\n\nb\n```\n\n"
    assert blocks(f"x\n\n{code}y") == ["x\n\n", code, "y"]
    assert blocks("```\na\n\nb") == ["```\na\n\nb"]
