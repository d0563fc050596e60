"""What the store has beside the words on the screen: other versions of the last answer, and earlier conversations."""

from __future__ import annotations

import time
from collections.abc import Sequence

from data.errors import UserError
from data.transcripts import Conversation, Node, choices, conversations, nodes, stands_at
from pipeline.chat.choice import Said
from pipeline.chat.session import Session, Turn

_LISTED, _TITLE_CHARACTERS = 20, 50
_ENDS = {"length": "cut off", "stopped": "stopped", "error": "broke off"}


# -- versions of the last answer -------------------------------------------------------------------------------------------


def place(session: Session) -> tuple[int, int]:
    """Which version of the last answer is shown, counted from 1, and how many there are; zeros where there is none."""
    return _place(session, _versions(session))


def _place(session: Session, versions: Sequence[Node]) -> tuple[int, int]:
    ids = [node.id for node in versions]
    return (ids.index(session.shown.id) + 1, len(ids)) if session.shown.id in ids else (0, 0)


def mark(at: int, of: int) -> str:
    """The place among versions, as the page shows it; nothing where there is one only."""
    return f"‹ {at}/{of} ›" if of > 1 else ""


def step(session: Session, by: int) -> tuple[str, str]:
    """Shows the version before (-1) or after (1) the present one: what was said of it, and why not, where there is none."""
    versions = _versions(session)
    at, of = _place(session, versions)
    if not at:
        return "", "nothing to go through yet: ask something first"
    if of == 1:
        return "", "there is one answer only; /retry draws another"
    if not 1 <= at + by <= of:
        return "", f"that is the {'first' if by < 0 else 'last'} of {of} answers"
    node = versions[at + by - 1]
    session.turns[-1].shown = _said(session, node)
    return notes(session), ""


def notes(session: Session) -> str:
    """What is known of the answer shown: how it ended, the thumb on it, the choice it was in, and whether something followed it."""
    if session.conversation is None:
        return ""
    found = nodes(session.store, session.conversation, session.rater)
    node = next((node for node in found if node.id == session.shown.id), None)
    if node is None:
        return ""
    thumb = {1: "good", -1: "bad"}.get(node.rating)
    parts = [
        _ENDS.get(node.finish),
        _choice(session),
        thumb and " · ".join(filter(None, (f"you said: {thumb}", *node.tags, node.comment))),
        any(other.parent == node.id for other in found)
        and "the talk went on from this one; a question begins anew here",
    ]
    return "; ".join(filter(None, parts))


def _choice(session: Session) -> str:
    made = [one for one in choices(session.store, session.conversation, session.rater) if session.shown.id in one[2:4]]
    if not made:
        return ""
    _, _, left, right, winner = made[-1]
    preferred = {"left": left, "right": right}.get(winner)
    if preferred is None:
        return f"you chose between this one and another: {'equally good' if winner == 'tie' else 'both bad'}"
    return "you chose this one" if preferred == session.shown.id else "you chose another one"


def _versions(session: Session) -> list[Node]:
    """From the store: the page may have added some meanwhile."""
    if session.conversation is None or not session.turns:
        return []
    question = session.turns[-1].question_id
    return [n for n in nodes(session.store, session.conversation, session.rater) if n.parent == question]


def _said(session: Session, node: Node) -> Said:
    own = node.author == "human-edit"
    model = node.model and session.assistant.name_of(node.model.run, node.model.stage, node.model.weights_sha256)
    return Said(node.content, node.id, node.finish, "your wording" if own else model or "another model", own)


# -- earlier conversations -------------------------------------------------------------------------------------------------


def listing(session: Session, words: str) -> str:
    """The person's conversations, newest first, with the numbers that /open takes; with `words`, those that say them."""
    session.listed = tuple(conversations(session.store, session.rater, search=words))
    if not session.listed:
        return f"nothing found that says {words!r}" if words else "no conversation yet"
    shown = session.listed[:_LISTED]
    lines = [_line(n, one, one.id == session.conversation) for n, one in enumerate(shown, start=1)]
    if len(session.listed) > len(shown):
        lines.append(f"the newest {len(shown)} of {len(session.listed)}; /history WORDS finds those that say them")
    return "\n".join([*lines, "/open NUMBER goes back into one"])


def _line(number: int, one: Conversation, present: bool) -> str:
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(one.created_ms / 1000))
    title = one.title if len(one.title) <= _TITLE_CHARACTERS else one.title[: _TITLE_CHARACTERS - 1] + "…"
    return f"{number:>3}  {when}  {title}" + ("  (this one)" if present else "")


def go_back(session: Session, text: str) -> None:
    """Takes up a conversation where it was left, by its number in the last list, or the newest ones where none was asked for.

    Raises:
        UserError: there is no such number, or the conversation was deleted meanwhile.
    """
    listed: Sequence[Conversation] = session.listed or conversations(session.store, session.rater)
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= len(listed):
        if not listed:
            raise UserError("/open goes back into a conversation, and there is none yet.")
        of = "of the last list" if session.listed else "of the newest ones"
        raise UserError(f"/open takes a number from 1 to {len(listed)} {of} (got '{text}'); /history lists all.")
    conversation = listed[int(text) - 1].id
    found = nodes(session.store, conversation, session.rater)
    if not found:
        raise UserError("That conversation was deleted meanwhile; /history lists what is there.")
    turns: list[Turn] = []
    for node in stands_at(found, choices(session.store, conversation, session.rater)):
        if node.author == "human":
            turns.append(Turn(node.content, node.id, node.parent))
        else:
            turns[-1].shown = _said(session, node)
    session.take_up(conversation, turns)
