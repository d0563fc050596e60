"""Votes that were given elsewhere, into the store: Open WebUI's export of its feedback, and FastChat's logs of its arenas."""

from __future__ import annotations

import json
import re
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from data.errors import UserError
from data.feedback import FeedbackStore
from data.records import Message, check_text, check_turns, kind_of

_THUMBS = {"up": 1, "down": -1}
_FOLDED = re.compile(r'<details type="(reasoning|code_interpreter|tool_calls)".*?</details>\s*', re.DOTALL)
_NAMESPACE = uuid.UUID("6f1d3c1e-6b0f-4c57-9d0a-2f6f0c3b8f11")


class LeftOut(Exception):
    """A row that holds no vote which could be learned from; its text is the reason that is counted."""


@dataclass(frozen=True)
class Elsewhere:
    """One vote, with the words that it was about.

    Attributes:
        key: names the vote in its source, so that a second import finds it again.
        vote: up or down on one answer; left, right, tie or both_bad between two.
    """

    key: str
    rater: str
    prompt: tuple[Message, ...]
    answers: tuple[str, ...]
    models: tuple[str, ...]
    vote: str
    tags: tuple[str, ...] = ()
    comment: str | None = None

    def __post_init__(self) -> None:
        check_turns(self.prompt)
        for text in self.answers:
            check_text("answer", text)
        # Whatever is shown or stored must be text that can be.
        named = {"rater": (self.rater,), "model": self.models, "tag": self.tags, "comment": (self.comment or "none",)}
        for name, texts in named.items():
            for text in texts:
                check_text(name, text)


@dataclass(frozen=True)
class _NoJson:
    """A line that could not be read."""

    why: str


@dataclass
class Imported:
    """How many votes came in, how many were there already, and rows that gave none, by reason."""

    votes: int = 0
    known: int = 0
    left_out: Counter = field(default_factory=Counter)


def import_votes(store: FeedbackStore, format_name: str, path: Path) -> Imported:
    """Adds the votes of a file to the store: all of them, or none after a mistake (`read_votes` says which)."""
    return add_votes(store, format_name, *read_votes(format_name, path))


def read_votes(format_name: str, path: Path) -> tuple[list[Elsewhere], Counter]:
    """The votes of a file, and its rows that hold none, by reason. Touches no store, so that a slip makes none.

    Raises:
        UserError: there is no such format, or every row that is not of it, with its number.
    """
    if format_name not in IMPORTS:
        raise UserError(f"no such format '{format_name}'; there are {', '.join(IMPORTS)}.")
    parse = IMPORTS[format_name]()
    found, problems, left_out = [], [], Counter()
    for number, row in _rows(path):
        try:
            if isinstance(row, _NoJson):
                raise ValueError(f"no JSON ({row.why})")
            if not isinstance(row, dict):
                raise ValueError(f"it is {kind_of(row)}, expected an object")
            found += parse(row)
        except LeftOut as reason:
            left_out[str(reason)] += 1
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            reason = f"no field {error}" if isinstance(error, KeyError) else str(error)
            problems.append(
                f"{path} row {number}: {reason}. It is not as {format_name} writes it; mend or drop the row."
            )
    if problems:
        raise UserError(problems)
    return found, left_out


def add_votes(store: FeedbackStore, format_name: str, found: Sequence[Elsewhere], left_out: Counter) -> Imported:
    """Puts into the store what `read_votes` found, all of it or nothing; what is there already is counted."""
    done = Imported(left_out=left_out)
    with store.together():
        if format_name in _NUMBERED:
            found = _numbered(store, format_name, found)
        for vote in found:
            if _keep(store, format_name, vote):
                done.votes += 1
            else:
                done.known += 1
    return done


def _rows(path: Path) -> Iterator[tuple[int, Any]]:
    """A JSON list, or an object a line, whatever the file's name ends in: FastChat's logs are lines in a .json."""
    try:
        # Some editors begin a file with a mark of its byte order.
        text = path.read_text(encoding="utf-8-sig")
        if not text.strip():
            raise UserError(f"{path}: is empty. Export it again.")
        if text.lstrip().startswith("["):
            yield from enumerate(json.loads(text), start=1)
            return
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}).") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: no JSON in UTF-8 ({error}).") from None
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError) as error:
                yield number, _NoJson(str(error))


def _numbered(store: FeedbackStore, source: str, found: Sequence[Elsewhere]) -> list[Elsewhere]:
    """The votes with raters who are numbered through the whole store, and not from 1 in each file.

    Addresses are not kept, so a person of two files cannot be told by theirs: whoever votes in a file that shares no vote with the store
    is somebody new, and two people never become one. A vote that is known tells who gave it; so a log that has grown goes on as it began.
    """
    names: dict[str, str] = {}
    for vote in found:
        known = store.rows(
            "SELECT c.rater FROM message m JOIN conversation c ON c.id = m.conversation WHERE m.id = ?", (_ids(source, vote)[0],)
        )
        if known and vote.rater not in names and known[0][0] not in names.values():
            names[vote.rater] = known[0][0]
    taken = (name.removeprefix(f"{source}-") for (name,) in store.rows("SELECT id FROM rater") if name.startswith(f"{source}-"))
    last = max((int(number) for number in taken if number.isdecimal()), default=0)
    for vote in found:
        if vote.rater not in names:
            names[vote.rater] = f"{source}-{(last := last + 1)}"
    return [replace(vote, rater=names[vote.rater]) for vote in found]


def _ids(source: str, vote: Elsewhere) -> list[str]:
    """Ids of its answers in the store, the same in every import."""
    return [str(uuid.uuid5(_NAMESPACE, f"{source} {vote.key} {side}")) for side in range(len(vote.answers))]


def _keep(store: FeedbackStore, source: str, vote: Elsewhere) -> bool:
    """False where the vote is in the store already."""
    ids = _ids(source, vote)
    if store.rows("SELECT 1 FROM message WHERE id = ?", (ids[0],)):
        return False
    system = vote.prompt[0].content if vote.prompt[0].role == "system" else None
    conversation = store.start_conversation(rater=vote.rater, system_prompt=system)
    parent = None
    for message in vote.prompt[system is not None :]:
        author = "human" if message.role == "user" else "model"
        parent = store.add_message(conversation, parent=parent, author=author, content=message.content)
    for answer, model, name in zip(vote.answers, vote.models, ids, strict=True):
        known = store.add_model(run=source, stage=model, weights_sha256="", template_sha256="")
        store.add_message(
            conversation, parent=parent, author="model", content=answer, model=known, finish="stop", message_id=name
        )
    if vote.vote in _THUMBS:
        store.rate(ids[0], rater=vote.rater, value=_THUMBS[vote.vote], tags=vote.tags, comment=vote.comment)
    else:
        store.compare(*ids, rater=vote.rater, winner=vote.vote, blind=True, shown_ms=0)
    return True


# -- Open WebUI --------------------------------------------------------------------------------------------------------------


def _open_webui() -> Callable[[dict], list[Elsewhere]]:
    """Rows of Evaluations → Feedbacks → Export. A rating beside other models' answers is a choice, as its leaderboard has it."""

    def parse(row: dict) -> list[Elsewhere]:
        data, meta = row.get("data") or {}, row.get("meta") or {}
        if row.get("type") != "rating" or data.get("rating") is None:
            raise LeftOut("rows without a rating")
        # A number, or the same as text: its own schema leaves both open.
        rating = {"1": 1, "0": 0, "-1": -1, "1.0": 1, "0.0": 0, "-1.0": -1}.get(str(data["rating"]).strip())
        if rating is None:
            raise ValueError(f"rating is {data['rating']!s:.40}, expected 1, 0 or -1")
        chat = ((row.get("snapshot") or {}).get("chat") or {}).get("chat") or {}
        messages = (chat.get("history") or {}).get("messages") or {}
        rated = messages.get(meta.get("message_id"))
        if rated is None:
            raise LeftOut("ratings without their conversation")
        prompt = _above(messages, rated, chat)
        rater = f"open-webui-{row['user_id']}"
        mine = _model(rated) or str(data.get("model_id") or "unknown")
        others = _siblings(messages, rated, data.get("sibling_model_ids") or ())
        if not others:
            if not rating:
                raise LeftOut("draws without another answer")
            named = data.get("tags") or meta.get("tags") or []
            if not isinstance(named, list):
                raise ValueError(f"tags is {kind_of(named)}, expected a list")
            tags = (*(tag for tag in named if tag != ""), *([data["reason"]] if data.get("reason") else []))
            vote = "up" if rating > 0 else "down"
            comment = data.get("comment") or None
            comment = (comment.strip() or None) if isinstance(comment, str) else comment
            return [Elsewhere(str(row["id"]), rater, prompt, (_said(rated),), (mine,), vote, tags, comment)]
        winner = {1: "left", 0: "tie", -1: "right"}[rating]
        return [
            Elsewhere(f"{row['id']} {name}", rater, prompt, (_said(rated), _said(other)), (mine, _model(other)), winner)
            for name, other in others
        ]

    return parse


def _above(messages: dict, rated: dict, chat: dict) -> tuple[Message, ...]:
    turns: list[Message] = []
    seen = set()
    above = rated.get("parentId")
    while above is not None:
        if above in seen or above not in messages:
            raise LeftOut("ratings without their conversation")
        seen.add(above)
        turns.append(Message(messages[above]["role"], _said(messages[above])))
        above = messages[above].get("parentId")
    system = (chat.get("params") or {}).get("system")
    return (*([Message("system", system)] if system else []), *reversed(turns))


def _siblings(messages: dict, rated: dict, models) -> list[tuple[str, dict]]:
    children = messages[rated["parentId"]].get("childrenIds") or ()
    return [
        (name, messages[name])
        for name in children
        if name in messages and messages[name] is not rated and _model(messages[name]) in models
    ]


def _model(message: dict) -> str:
    """Who wrote an answer. In an arena `model` is the arena, and the one that it drew stands beside it."""
    return str(message.get("selectedModelId") or message.get("model") or "")


def _said(message: dict) -> str:
    content = message["content"]
    if not isinstance(content, str):
        raise LeftOut("conversations with more than text")
    # Thoughts and tools' output, which Open WebUI folds away on the page and does not show the model again.
    content = _FOLDED.sub("", content) if message["role"] == "assistant" else content
    if not content.strip():
        raise LeftOut("conversations with an empty turn")
    return content


# -- FastChat ----------------------------------------------------------------------------------------------------------------

_CHOICES = {"leftvote": "left", "rightvote": "right", "tievote": "tie", "bothbad_vote": "both_bad"}
_SINGLE = {"upvote": "up", "downvote": "down"}
# What FastChat itself puts where an answer should be; its own cleaning of these logs drops such talks too.
_ERRORS = ("**NETWORK ERROR", "$MODERATION$", "**API REQUEST ERROR")


def _fastchat() -> Callable[[dict], list[Elsewhere]]:
    """Lines of `*-conv.json`. Addresses become 1, 2, … in the order in which the file first has them; `_numbered` names them."""
    numbers: dict[str, int] = {}

    def parse(row: dict) -> list[Elsewhere]:
        kind = row["type"]
        if kind not in _CHOICES and kind not in _SINGLE:
            raise LeftOut(f"lines of type {kind!r:.30}")
        rater = str(numbers.setdefault(str(row.get("ip")), len(numbers) + 1))
        states = row["states"] if kind in _CHOICES else [row["state"]]
        talks = [_talk(state) for state in states]
        if any(prompt != talks[0][0] for prompt, _ in talks):
            raise LeftOut("choices between conversations that parted earlier")
        key = f"{row.get('tstamp')} {' '.join(str(s.get('conv_id')) for s in states)} {kind}"
        models = tuple(str(s.get("model_name") or "unknown") for s in states)
        vote = (_CHOICES | _SINGLE)[kind]
        return [Elsewhere(key, rater, talks[0][0], tuple(answer for _, answer in talks), models, vote)]

    return parse


def _talk(state: dict) -> tuple[tuple[Message, ...], str]:
    user, _ = state["roles"]
    # What comes before the offset is part of the model's template.
    turns = [(role == user, text) for role, text in state["messages"][state.get("offset", 0) :]]
    for _, text in turns:
        if text is not None and not isinstance(text, str):
            raise LeftOut("conversations with more than text")
    if not turns or turns[-1][0] or not all(text and text.strip() for _, text in turns):
        raise LeftOut("conversations without an answer")
    if any(not is_user and text.startswith(_ERRORS) for is_user, text in turns):
        raise LeftOut("conversations with an error of the server for an answer")
    system = state.get("system_message", state.get("system"))
    prompt = [Message("user" if is_user else "assistant", text) for is_user, text in turns[:-1]]
    return (*([Message("system", system)] if system else []), *prompt), turns[-1][1]


IMPORTS: dict[str, Callable[[], Callable[[dict], list[Elsewhere]]]] = {"open-webui": _open_webui, "fastchat": _fastchat}
# Whose raters have no name outside their file.
_NUMBERED = ("fastchat",)
