"""The line that a person types on: history, completion and a toolbar on a terminal, lines as they come from a pipe."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

from pipeline.chat.session import Session
from pipeline.chat.words import COMMANDS, TAGS


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
