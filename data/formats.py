"""Rows to records. To add a format, write a function from a row and its id to a record, and name it in FORMATS."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable
from itertools import zip_longest
from pathlib import Path
from typing import Any

from data.errors import UserError
from data.records import Demonstration, Message, Prompt, Ranking, check_order, check_text, kind_of
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
# Formats of other projects that compare two answers. Now and then both are the same text.
PAIR_FORMATS = ("sharegpt", "hh", "ultrafeedback")
TIED_SHARE = 0.05


def load(path: Path, format_name: str) -> list[Record]:
    """All records of a file.

    Two answers that are the same text teach nothing; a few are kept as ties, past `TIED_SHARE` of the rows they are refused.

    Raises:
        UserError: every row that cannot be used, each with its number and the reason; or the format does not exist.
    """
    path = Path(path)
    if format_name not in FORMATS:
        raise UserError(
            f"{path}: unknown format '{format_name}'; there are {', '.join(FORMATS)}{_suggest(format_name, FORMATS)}."
        )
    records: dict[int, Record] = {}
    faults: dict[int, str] = {}
    rows_of: dict[str, int] = {}
    end: tuple[str, ...] = ()
    try:
        for number, row in read_rows(path):
            try:
                if isinstance(row, str):
                    raise ValueError(row)
                record = FORMATS[format_name](row, f"{path.stem}-{number}")
                first = rows_of.setdefault(record.id, number)
                # Results are grouped by id: two rows under one would be taken for one.
                if first != number:
                    raise ValueError(f"id {record.id!r} is that of row {first} too; give each row its own, or none")
                records[number] = record
            except ValueError as error:
                faults[number] = str(error)
    except UserError as error:
        # A file may break off after rows that have faults of their own; all are told at once.
        end = error.problems
    if format_name in PAIR_FORMATS:
        faults |= _same_answers(records)
    if faults or end:
        raise UserError([*_told(path, faults, all_rows=not records), *end])
    return list(records.values())


def _same_answers(records: dict[int, Record]) -> dict[int, str]:
    same = [n for n, r in records.items() if isinstance(r, Ranking) and len(set(r.responses)) == 1]
    if len(same) <= TIED_SHARE * len(records):
        return {}
    share = f"{len(same)} of {len(records)} rows are so, and at most {TIED_SHARE:.0%} may be"
    return dict.fromkeys(same, f"chosen and rejected are the same text; {share}")


def _told(path: Path, faults: dict[int, str], *, all_rows: bool) -> list[str]:
    """A line a row; one line for all when every row has the same fault, as when the format is another."""
    numbers = sorted(faults)
    if all_rows and len(faults) > 1 and len(set(faults.values())) == 1:
        place = f"{path} rows {numbers[0]} to {numbers[-1]} (all)"
        return [_line(place, faults[numbers[0]], "Mend the file, or name its format.")]
    return [_line(f"{path} row {number}", faults[number], "Mend or drop the row.") for number in numbers]


def _line(place: str, reason: str, advice: str) -> str:
    # A reason that ends with a full stop says itself what to do.
    if reason.endswith("."):
        return f"{place}: {reason}"
    return f"{place}: {reason}{'' if reason.endswith('?') else '.'} {advice}"


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
    extra = row.get("input")
    if extra is not None and extra != "":
        check_text("input", extra)
    question = f"{row['instruction']}\n\n{extra}" if extra else row["instruction"]
    return Demonstration(_id(row, row_id), (Message("user", question),), row["output"], _topic(row))


def from_sharegpt(row: dict[str, Any], row_id: str) -> Demonstration | Ranking:
    """{"conversations": [{"from", "value"}, …]}, with "chosen" and "rejected" messages a preference."""
    _fields(row, need={"conversations"}, may={"chosen", "rejected"}, extras=True)
    turns = row["conversations"]
    if not isinstance(turns, list):
        raise ValueError(f"conversations is {kind_of(turns)}, expected a list of turns")
    messages = tuple(_sharegpt_turn(turn, f"conversations turn {n}") for n, turn in enumerate(turns, start=1))
    if "chosen" in row or "rejected" in row:
        _fields(row, need={"conversations", "chosen", "rejected"}, extras=True)
        sides = [_sharegpt_turn(row[name], name) for name in ("chosen", "rejected")]
        return _preference(_id(row, row_id), (*messages, sides[0]), (*messages, sides[1]), _topic(row))
    return _demonstration(_id(row, row_id), messages, _topic(row))


def from_hh(row: dict[str, Any], row_id: str) -> Ranking:
    """{"chosen", "rejected"}: transcripts with "\\n\\nHuman:" and "\\n\\nAssistant:" turns that part at the last answer."""
    _fields(row, need={"chosen", "rejected"}, extras=True)
    chosen, rejected = (_transcript(row[name], name) for name in ("chosen", "rejected"))
    return _preference(_id(row, row_id), chosen, rejected, _topic(row))


def from_ultrafeedback(row: dict[str, Any], row_id: str) -> Ranking:
    """{"chosen", "rejected"}: lists of messages that share all but the last. Equal "score_chosen", "score_rejected" are a tie."""
    _fields(row, need={"chosen", "rejected"}, may={"score_chosen", "score_rejected"}, extras=True)
    chosen, rejected = (_messages(row[name], name) for name in ("chosen", "rejected"))
    better, worse = (_score(row, name) for name in ("score_chosen", "score_rejected"))
    if better is not None and worse is not None and better < worse:
        raise ValueError(f"chosen has the lower score: {better:g}, rejected {worse:g}")
    tie = better is not None and better == worse
    return _preference(_id(row, row_id), chosen, rejected, _topic(row), tie=tie)


def from_ranked(row: dict[str, Any], row_id: str) -> Ranking:
    """{"prompt": text or messages, "responses": [text], "ranks": [0 = best], "finished": [bool] (default all true)}."""
    _fields(row, need={"prompt", "responses", "ranks"}, may={"finished"})
    responses, ranks = row["responses"], row["ranks"]
    finished = row.get("finished")
    if not isinstance(responses, list):
        raise ValueError(f"responses is {kind_of(responses)}, expected a list of texts")
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
    # Where rows of two spellings meet in one table, the right column is there and null. An `idx` is no slip for `id`.
    open_fields = sorted(name for name in (need | may if extras else known) if row.get(name) is None)
    for name in unknown:
        meant = difflib.get_close_matches(name, open_fields, n=1, cutoff=0.8)
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
        raise ValueError(f"{name} is {'empty' if value == [] else kind_of(value)}, expected a list of turns")
    return tuple(_turn(turn, ("role", "content"), f"{name} turn {n}") for n, turn in enumerate(value, start=1))


def _turn(turn: Any, keys: tuple[str, str], where: str) -> Message:
    if not isinstance(turn, dict):
        raise ValueError(f"{where} is {kind_of(turn)}, expected an object with '{keys[0]}' and '{keys[1]}'")
    for key in keys:
        if key not in turn:
            raise ValueError(f"{where} has no '{key}'; found {', '.join(map(repr, turn)) or 'nothing':.200}")
    return _message(turn[keys[0]], turn[keys[1]], where)


def _message(role: Any, content: Any, where: str) -> Message:
    try:
        return Message(role, content)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{where}: {error}") from None


def _sharegpt_turn(turn: Any, where: str) -> Message:
    speaker = turn.get("from") if isinstance(turn, dict) else None
    if isinstance(speaker, str) and speaker in _SHAREGPT_ROLES:
        turn = {**turn, "from": _SHAREGPT_ROLES[speaker]}
    elif speaker is not None:
        raise ValueError(f"{where}: unknown speaker {speaker!r:.40}; known are {', '.join(_SHAREGPT_ROLES)}")
    return _turn(turn, ("from", "value"), where)


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


def _transcript(text: Any, name: str) -> tuple[Message, ...]:
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


def _preference(
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


def _score(row: dict[str, Any], name: str) -> float | None:
    value = row.get(name)
    if value is None:
        return None
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ValueError(f"{name} is {kind_of(value)} ({value!r:.40}), expected a finite number")
    return value


def _id(row: dict[str, Any], fallback: str) -> str:
    value = row.get("id")
    if value is None or value == "":
        return fallback
    if isinstance(value, str):
        check_text("id", value)
    elif type(value) is not int:
        raise ValueError(f"id is {kind_of(value)}, expected text or a whole number")
    return str(value)


def _topic(row: dict[str, Any]) -> str | None:
    value = row.get("topic")
    if value is not None:
        check_text("topic", value)
    return value
