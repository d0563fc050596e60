"""Parts of a row that several formats share. Each raises ValueError with the place in the row, what it found and what it expected."""

from __future__ import annotations

import difflib
import sys
from itertools import zip_longest
from typing import Any

from data.records import Demonstration, Message, Ranking, check_order, check_text, kind_of

_SHAREGPT_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "system": "system",
}

_COMMON = {"id", "topic"}


def check_fields(row: dict[str, Any], *, need: set[str], may: set[str] = frozenset(), extras: bool = False) -> None:
    """Complains of a field that is missing, or that nobody knows.

    With `extras`, as public sets carry them, a field is strange only when it looks like a slip for a known one.
    """
    known = need | may | _COMMON
    missing, unknown = sorted(need - row.keys()), sorted(row.keys() - known)
    # Where rows of two spellings meet in one table, the right column is there and null. An `idx` is no slip for `id`.
    open_fields = sorted(name for name in (need | may if extras else known) if row.get(name) is None)
    for name in unknown:
        meant = difflib.get_close_matches(name, open_fields, n=1, cutoff=0.8)
        if meant:
            raise ValueError(f"unknown field {name!r:.60}; did you mean '{meant[0]}'?")
    if missing:
        raise ValueError(
            f"no field '{missing[0]}'; found {', '.join(map(repr, row)) or 'none':.200}{looks_like(row.keys())}"
        )
    if unknown and not extras:
        raise ValueError(f"unknown field {unknown[0]!r:.60}; known are {', '.join(sorted(known))}")


# The fields that tell a format, in the order to try. What comes after a name in brackets is for people.
MARKS: tuple[tuple[str, set[str]], ...] = (
    ("ranked", {"prompt", "responses", "ranks"}),
    ("scored", {"prompt", "responses"}),
    ("scored_rows", {"prompt", "response", "score"}),
    ("summaries", {"info", "summaries", "choice"}),
    ("pairs (or ultrafeedback, where chosen holds the whole talk)", {"prompt", "chosen", "rejected"}),
    ("ultrafeedback (or hh, where they are text)", {"chosen", "rejected"}),
    ("sharegpt", {"conversations"}),
    ("thumbs", {"prompt", "completion", "label"}),
    ("thumbs", {"messages", "label"}),
    ("oasst_demonstrations or oasst_rankings", {"message_tree_id", "prompt"}),
    ("messages", {"messages"}),
    ("alpaca", {"instruction", "output"}),
    ("prompt_completion", {"prompt", "completion"}),
    ("prompts", {"prompt"}),
)


def looks_like(names) -> str:
    for name, marks in MARKS:
        if marks <= names:
            more = ""
            if name == "thumbs":
                more = (
                    "; single thumbs compare nothing, but 'thumbs_ranked' ranks answers where a prompt has both kinds"
                )
            return f"; that is the format {name}{more}"
    return ""


def suggest(word: str, known) -> str:
    close = difflib.get_close_matches(str(word), [str(k) for k in known], n=1)
    return f"; did you mean '{close[0]}'?" if close else ""


def messages_in(value: Any, name: str) -> tuple[Message, ...]:
    if not isinstance(value, list) or not value:
        raise ValueError(f"{name} is {'empty' if value == [] else kind_of(value)}, expected a list of turns")
    return tuple(_turn(turn, ("role", "content"), f"{name} turn {n}") for n, turn in enumerate(value, start=1))


def _turn(turn: Any, keys: tuple[str, str], where: str) -> Message:
    if not isinstance(turn, dict):
        raise ValueError(f"{where} is {kind_of(turn)}, expected an object with '{keys[0]}' and '{keys[1]}'")
    for key in keys:
        if key not in turn:
            raise ValueError(f"{where} has no '{key}'; found {', '.join(map(repr, turn)) or 'nothing':.200}")
    return message_in(turn[keys[0]], turn[keys[1]], where)


def message_in(role: Any, content: Any, where: str) -> Message:
    try:
        return Message(role, content)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{where}: {error}") from None


def sharegpt_turn(turn: Any, where: str) -> Message:
    speaker = turn.get("from") if isinstance(turn, dict) else None
    if isinstance(speaker, str) and speaker in _SHAREGPT_ROLES:
        turn = {**turn, "from": _SHAREGPT_ROLES[speaker]}
    elif speaker is not None:
        raise ValueError(f"{where}: unknown speaker {speaker!r:.40}; known are {', '.join(_SHAREGPT_ROLES)}")
    return _turn(turn, ("from", "value"), where)


def prompt_in(value: Any) -> tuple[Message, ...]:
    if isinstance(value, str):
        return (message_in("user", value, "prompt"),)
    if not isinstance(value, list):
        raise ValueError(f"prompt is {kind_of(value)}, expected text or a list of turns")
    return messages_in(value, "prompt")


def answer_in(value: Any, name: str) -> str:
    if isinstance(value, list):
        turns = messages_in(value, name)
        if len(turns) != 1 or turns[0].role != "assistant":
            raise ValueError(f"{name} must be one assistant turn, got {len(turns)} turns")
        return turns[0].content
    check_text(name, value)
    return value


def transcript(text: Any, name: str) -> tuple[Message, ...]:
    check_text(name, text)
    turns: list[Message] = []
    rest = text.replace("\r\n", "\n")
    marks = {"\n\nHuman:": "user", "\n\nAssistant:": "assistant"}
    if not rest.startswith(tuple(marks)):
        raise ValueError(f"{name} does not start with '\\n\\nHuman:'")
    while rest:
        mark = next(m for m in marks if rest.startswith(m))
        body = rest[len(mark) :]
        ends = [i for m in marks if (i := body.find(m)) >= 0]
        end = min(ends, default=len(body))
        turns.append(message_in(marks[mark], body[:end].strip(), f"{name} turn {len(turns) + 1}"))
        rest = body[end:]
    return tuple(turns)


def demonstration(row_id: str, messages: tuple[Message, ...], topic: str | None) -> Demonstration:
    check_order(messages)
    # What the user said after the last answer has none to learn from.
    while messages and messages[-1].role != "assistant":
        messages = messages[:-1]
    if not messages:
        raise ValueError("no assistant turn: nothing to learn from")
    return Demonstration(row_id, messages[:-1], messages[-1].content, topic)


def preference(
    row_id: str, chosen: tuple[Message, ...], rejected: tuple[Message, ...], topic: str | None, *, tie: bool = False
) -> Ranking:
    """Two conversations that are the same up to their last turn, the answers. The same answer twice is a tie."""
    for name, turns in (("chosen", chosen), ("rejected", rejected)):
        try:
            check_order(turns)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
        if turns[-1].role != "assistant":
            raise ValueError(f"{name} does not end with an assistant turn")
    for number, (one, other) in enumerate(zip_longest(chosen[:-1], rejected[:-1]), start=1):
        if one != other:
            raise ValueError(f"the prompts of chosen and rejected differ at turn {number}; they must be the same")
    answers = (chosen[-1].content, rejected[-1].content)
    tie = tie or answers[0] == answers[1]
    return Ranking(row_id, chosen[:-1], answers, (0, 0 if tie else 1), (True, True), topic)


def score_in(row: dict[str, Any], name: str) -> float | None:
    return None if row.get(name) is None else number_in(row, name)


_LARGEST = sys.float_info.max


def number_in(row: dict[str, Any], name: str) -> float:
    value = row[name]
    # Compared and not asked: an integer of four hundred digits has no place among the floats that `isfinite` reads.
    if type(value) not in (int, float) or not -_LARGEST <= value <= _LARGEST:
        raise ValueError(f"{name} is {kind_of(value)} ({value!r:.40}), expected a finite number")
    return value


def id_in(row: dict[str, Any], fallback: str) -> str:
    value = row.get("id")
    if value is None or value == "":
        return fallback
    if isinstance(value, str):
        check_text("id", value)
    elif type(value) is not int:
        raise ValueError(f"id is {kind_of(value)}, expected text or a whole number")
    return str(value)


def topic_in(row: dict[str, Any]) -> str | None:
    value = row.get("topic")
    if value is not None:
        check_text("topic", value)
    return value
