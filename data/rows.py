"""Records as rows of the built-in formats, which `data/formats.py` reads back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from data.records import Demonstration, Message, Prompt, Ranking, Thumb


def message_rows(messages: Sequence[Message]) -> list[dict[str, str]]:
    return [{"role": m.role, "content": m.content} for m in messages]


def demonstration_row(d: Demonstration) -> dict:
    """Format `messages`."""
    answer = {"role": "assistant", "content": d.response}
    return {"id": d.id, "topic": d.topic, "messages": [*message_rows(d.prompt), answer]}


def ranking_row(r: Ranking) -> dict:
    """Format `ranked`."""
    return {
        "id": r.id,
        "topic": r.topic,
        "prompt": message_rows(r.prompt),
        "responses": list(r.responses),
        "ranks": list(r.ranks),
        "finished": list(r.finished),
    }


def thumb_row(t: Thumb) -> dict:
    """Format `thumbs`."""
    return {
        "id": t.id,
        "topic": t.topic,
        "prompt": message_rows(t.prompt),
        "completion": t.response,
        "label": t.up,
        "finished": t.finished,
        "rater": t.rater,
    }


def prompt_row(p: Prompt) -> dict:
    """Format `prompts`."""
    return {"id": p.id, "topic": p.topic, "prompt": message_rows(p.messages)}


def write_rows(path: Path, rows: Iterable[dict]) -> None:
    """JSONL, one row a line."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
