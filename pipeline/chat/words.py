"""The words of the chat: its commands, the reasons that go with a vote, and what no model can be told."""

from __future__ import annotations

from data.errors import UserError
from data.records import check_text

# Each fits on a line of eighty columns, behind its name.
COMMANDS: dict[str, str] = {
    "/good": "the last answer was good",
    "/bad": "the last answer was bad; words after it are kept: /bad too long",
    "/undo": "take the last vote back",
    "/retry": "another answer to the same question; the old one is kept",
    "/previous": "the answer before this one, of several to the last question",
    "/next": "the one after it; votes and the talk go on from the one shown",
    "/compare": "a second answer beside the last, to choose; /compare MODEL",
    "/edit": "your own wording of the last answer: /edit TEXT, or /edit alone",
    "/ask": "the last question in other words: /ask TEXT, or /ask alone",
    "/new": "start a new conversation",
    "/history": "past conversations; /history WORDS finds those that say them",
    "/open": "go back into one of them: /open NUMBER",
    "/delete": "this conversation, with its votes, for good: /delete yes",
    "/model": "who answers: /model NAME; /model alone lists them",
    "/system": "a system prompt for the next conversation: /system TEXT",
    "/set": "sampling: /set temperature=0.5; also top_p and max_new_tokens",
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


def read_words(words: str) -> tuple[tuple[str, ...], str | None]:
    """Tags among the comma-separated words after a vote, and the rest as a comment."""
    parts = [part.strip() for part in words.split(",")]
    tags = tuple(dict.fromkeys(part.lower() for part in parts if part.lower() in TAGS))
    # Without a tag the comment stays as it was typed.
    rest = ", ".join(part for part in parts if part and part.lower() not in TAGS) if tags else words
    return tags, rest or None


def check(name: str, text: str) -> None:
    """Raises UserError for what is no text that a model can take."""
    try:
        check_text(name, text)
    except ValueError as error:
        raise UserError(f"{error}; nothing was sent.") from None
