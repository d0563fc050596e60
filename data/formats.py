"""Rows to records. To add a format, write a function from a row and its id to a record, and name it in FORMATS."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from data.errors import UserError
from data.records import Demonstration, Message, Prompt, Ranking, check_order, check_text
from data.sources import read_rows

Record = Prompt | Demonstration | Ranking
_SHAREGPT_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "system": "system",
}


def load(path: Path, format_name: str) -> list[Record]:
    """All records of a file.

    Raises:
        UserError: every row that cannot be used, each with its number and the reason; or the format does not exist.
    """
    if format_name not in FORMATS:
        raise UserError(
            f"{path}: unknown format '{format_name}'; there are {', '.join(FORMATS)}.{_suggest(format_name, FORMATS)}"
        )
    path = Path(path)
    records, problems, rows_of = [], [], {}
    for number, row in read_rows(path):
        if isinstance(row, str):
            problems.append(f"{path} row {number}: {row}")
            continue
        try:
            record = FORMATS[format_name](row, f"{path.stem}-{number}")
            first = rows_of.setdefault(record.id, number)
            # Results are grouped by id: two rows under one would be taken for one.
            if first != number:
                raise ValueError(f"id {record.id!r} is that of row {first} too; give each row its own, or none")
        except ValueError as error:
            reason = str(error) if str(error).endswith("?") else f"{error}."
            problems.append(f"{path} row {number}: {reason} Mend or drop the row.")
        else:
            records.append(record)
    if problems:
        raise UserError(problems)
    return records


def from_messages(row: dict[str, Any], row_id: str) -> Demonstration:
    """{"messages": [{"role", "content"}, …]}: the last assistant turn is the answer, what comes before it the prompt."""
    _fields(row, need={"messages"})
    return _demonstration(_id(row, row_id), _messages(row["messages"], "messages"), _topic(row))


def from_prompt_completion(row: dict[str, Any], row_id: str) -> Demonstration:
    """{"prompt": text or messages, "completion": text or one assistant message}."""
    _fields(row, need={"prompt", "completion"})
    return Demonstration(
        _id(row, row_id), _prompt(row["prompt"]), _answer(row["completion"], "completion"), _topic(row)
    )


def from_alpaca(row: dict[str, Any], row_id: str) -> Demonstration:
    """{"instruction", "input" (may be empty), "output"}."""
    _fields(row, need={"instruction", "output"}, may={"input"}, extras=True)
    for name in ("instruction", "output"):
        check_text(name, row[name])
    extra = row.get("input") or ""
    if extra:
        check_text("input", extra)
    question = f"{row['instruction']}\n\n{extra}" if extra else row["instruction"]
    return Demonstration(_id(row, row_id), (Message("user", question),), row["output"], _topic(row))


def from_sharegpt(row: dict[str, Any], row_id: str) -> Demonstration | Ranking:
    """{"conversations": [{"from", "value"}, …]}, with "chosen" and "rejected" messages a preference."""
    _fields(row, need={"conversations"}, may={"chosen", "rejected"}, extras=True)
    turns = row["conversations"]
    if not isinstance(turns, list):
        raise ValueError(f"conversations is {type(turns).__name__}, expected a list")
    messages = tuple(_sharegpt_turn(turn, number) for number, turn in enumerate(turns, start=1))
    if "chosen" in row or "rejected" in row:
        _fields(row, need={"conversations", "chosen", "rejected"}, extras=True)
        chosen, rejected = (_sharegpt_turn(row[name], name).content for name in ("chosen", "rejected"))
        return _preference(_id(row, row_id), messages, chosen, rejected, _topic(row))
    return _demonstration(_id(row, row_id), messages, _topic(row))


def from_hh(row: dict[str, Any], row_id: str) -> Ranking:
    """{"chosen", "rejected"}: transcripts with "\\n\\nHuman:" and "\\n\\nAssistant:" turns that part at the last answer."""
    _fields(row, need={"chosen", "rejected"}, extras=True)
    sides = []
    for name in ("chosen", "rejected"):
        check_text(name, row[name])
        turns = _transcript(row[name], name)
        if turns[-1].role != "assistant":
            raise ValueError(f"{name} does not end with an assistant turn")
        sides.append(turns)
    return _preference_of(_id(row, row_id), sides[0], sides[1], _topic(row))


def from_ultrafeedback(row: dict[str, Any], row_id: str) -> Ranking:
    """{"chosen", "rejected"}: lists of messages that share all but the last. Equal scores are a tie."""
    _fields(row, need={"chosen", "rejected"}, may={"score_chosen", "score_rejected"}, extras=True)
    chosen, rejected = (_messages(row[name], name) for name in ("chosen", "rejected"))
    for name, turns in (("chosen", chosen), ("rejected", rejected)):
        if not turns or turns[-1].role != "assistant":
            raise ValueError(f"{name} does not end with an assistant turn")
    tie = row.get("score_chosen") is not None and row.get("score_chosen") == row.get("score_rejected")
    return _preference_of(_id(row, row_id), chosen, rejected, _topic(row), tie=tie)


def from_ranked(row: dict[str, Any], row_id: str) -> Ranking:
    """{"prompt": text or messages, "responses": [text], "ranks": [0 = best], "finished": [bool] (default all true)}."""
    _fields(row, need={"prompt", "responses", "ranks"}, may={"finished"})
    responses, ranks = row["responses"], row["ranks"]
    finished = row.get("finished")
    if not isinstance(responses, list):
        raise ValueError(f"responses is {type(responses).__name__}, expected a list of texts")
    finished = [True] * len(responses) if finished is None else finished
    for name, column, kind in (("ranks", ranks, int), ("finished", finished, bool)):
        if not isinstance(column, list) or any(type(x) is not kind for x in column):
            raise ValueError(
                f"{name} must be a list of {'whole numbers' if kind is int else 'true or false'}, got {column!r:.60}"
            )
    return Ranking(
        _id(row, row_id), _prompt(row["prompt"]), tuple(responses), tuple(ranks), tuple(finished), _topic(row)
    )


def from_prompts(row: dict[str, Any], row_id: str) -> Prompt:
    """{"prompt": text or messages}."""
    _fields(row, need={"prompt"})
    return Prompt(_id(row, row_id), _prompt(row["prompt"]), _topic(row))


FORMATS: dict[str, Callable[[dict[str, Any], str], Record]] = {
    "messages": from_messages,
    "prompt_completion": from_prompt_completion,
    "alpaca": from_alpaca,
    "sharegpt": from_sharegpt,
    "hh": from_hh,
    "ultrafeedback": from_ultrafeedback,
    "ranked": from_ranked,
    "prompts": from_prompts,
}


# -- parts of a row --------------------------------------------------------------------------------------------------------


_COMMON = {"id", "topic"}


def _fields(row: dict[str, Any], *, need: set[str], may: set[str] = frozenset(), extras: bool = False) -> None:
    """Complains of a field that is missing, or that nobody knows.

    With `extras`, as public sets carry them, a field is strange only when it looks like a slip for a known one.
    """
    known = need | may | _COMMON
    missing, unknown = sorted(need - row.keys()), sorted(row.keys() - known)
    for name in unknown:
        meant = difflib.get_close_matches(name, known - row.keys(), n=1, cutoff=0.8)
        if meant:
            raise ValueError(f"unknown field {name!r:.60}; did you mean '{meant[0]}'?")
    if missing:
        raise ValueError(
            f"no field '{missing[0]}'; found {', '.join(map(repr, row)) or 'none':.200}{_looks_like(row.keys())}"
        )
    if unknown and not extras:
        raise ValueError(f"unknown field {unknown[0]!r:.60}; known are {', '.join(sorted(known))}")


# The fields that tell a format, in the order to try.
_MARKS: dict[str, set[str]] = {
    "ranked": {"prompt", "responses", "ranks"},
    "ultrafeedback (or hh, where they are text)": {"chosen", "rejected"},
    "sharegpt": {"conversations"},
    "messages": {"messages"},
    "alpaca": {"instruction", "output"},
    "prompt_completion": {"prompt", "completion"},
    "prompts": {"prompt"},
}


def _looks_like(names) -> str:
    if "label" in names and names & {"completion", "messages", "response"}:
        return "; these are single thumbs, and no format takes them: rank two answers to one prompt and use 'ranked'"
    for name, marks in _MARKS.items():
        if marks <= names:
            return f"; that is the format {name}"
    return ""


def _suggest(word: str, known) -> str:
    close = difflib.get_close_matches(str(word), [str(k) for k in known], n=1)
    return f"; did you mean '{close[0]}'?" if close else ""


def _messages(value: Any, name: str) -> tuple[Message, ...]:
    if not isinstance(value, list) or not value:
        raise ValueError(
            f"{name} is {type(value).__name__ if not isinstance(value, list) else 'empty'}, expected a list of turns"
        )
    turns = []
    for number, turn in enumerate(value, start=1):
        if not isinstance(turn, dict) or not {"role", "content"} <= turn.keys():
            raise ValueError(f"{name} turn {number} needs 'role' and 'content'")
        turns.append(_message(turn["role"], turn["content"], f"{name} turn {number}"))
    return tuple(turns)


def _message(role: Any, content: Any, where: str) -> Message:
    try:
        return Message(role, content)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{where}: {error}") from None


def _sharegpt_turn(turn: Any, where: object) -> Message:
    if not isinstance(turn, dict) or not {"from", "value"} <= turn.keys():
        raise ValueError(f"conversations turn {where} needs 'from' and 'value'")
    speaker = turn["from"]
    if not isinstance(speaker, str) or speaker not in _SHAREGPT_ROLES:
        raise ValueError(
            f"conversations turn {where}: unknown speaker {speaker!r}; known are {', '.join(_SHAREGPT_ROLES)}"
        )
    return _message(_SHAREGPT_ROLES[speaker], turn["value"], f"conversations turn {where}")


def _prompt(value: Any) -> tuple[Message, ...]:
    if isinstance(value, str):
        return (_message("user", value, "prompt"),)
    return _messages(value, "prompt")


def _answer(value: Any, name: str) -> str:
    if isinstance(value, list):
        turns = _messages(value, name)
        if len(turns) != 1 or turns[0].role != "assistant":
            raise ValueError(f"{name} must be one assistant turn, got {len(turns)} turns")
        return turns[0].content
    check_text(name, value)
    return value


def _transcript(text: str, name: str) -> tuple[Message, ...]:
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
        turns.append(_message(marks[mark], body[:end].strip(), f"{name} turn {len(turns) + 1}"))
        rest = body[end:]
    return tuple(turns)


def _demonstration(row_id: str, messages: tuple[Message, ...], topic: str | None) -> Demonstration:
    check_order(messages)
    # What the user said after the last answer has none to learn from.
    while messages and messages[-1].role != "assistant":
        messages = messages[:-1]
    if not messages:
        raise ValueError("no assistant turn: nothing to learn from")
    return Demonstration(row_id, messages[:-1], messages[-1].content, topic)


def _preference_of(
    row_id: str, chosen: tuple[Message, ...], rejected: tuple[Message, ...], topic: str | None, *, tie: bool = False
) -> Ranking:
    for number, (a, b) in enumerate(zip(chosen[:-1], rejected[:-1], strict=False), start=1):
        if a != b:
            raise ValueError(
                f"chosen and rejected differ at turn {number}, before the last; their prompts must be the same"
            )
    if len(chosen) != len(rejected):
        raise ValueError(f"chosen has {len(chosen)} turns, rejected {len(rejected)}; their prompts must be the same")
    return _preference(row_id, chosen[:-1], chosen[-1].content, rejected[-1].content, topic, tie=tie)


def _preference(
    row_id: str, prompt: tuple[Message, ...], chosen: str, rejected: str, topic: str | None, *, tie: bool = False
) -> Ranking:
    if chosen == rejected and not tie:
        raise ValueError("chosen and rejected are the same text")
    return Ranking(row_id, prompt, (chosen, rejected), (0, 0 if tie else 1), (True, True), topic)


def _id(row: dict[str, Any], fallback: str) -> str:
    value = row.get("id")
    if value is None or value == "":
        return fallback
    if isinstance(value, str):
        check_text("id", value)
    elif type(value) is not int:
        raise ValueError(f"id is {type(value).__name__}, expected text or a whole number")
    return str(value)


def _topic(row: dict[str, Any]) -> str | None:
    value = row.get("topic")
    if value is not None and not isinstance(value, str):
        raise ValueError(f"topic is {type(value).__name__}, expected text")
    return value
