"""What votes became, as rows in the shapes that TRL trains on; `data/formats.py` reads each of them back."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from data.rows import message_rows
from data.votes import Lesson


@dataclass(frozen=True)
class Shape:
    """One shape of rows.

    Attributes:
        reads_as: the name in FORMATS that reads it back.
        what: the rows in words.
    """

    rows: Callable[[Lesson], Iterator[dict]]
    reads_as: str
    what: str


def _kto(lesson: Lesson) -> Iterator[dict]:
    for t in lesson.thumbs:
        yield {"id": t.id, "prompt": message_rows(t.prompt), "completion": _answer(t.response), "label": t.up}


def _preference(lesson: Lesson) -> Iterator[dict]:
    for r in lesson.rankings:
        for number, (better, worse) in enumerate(r.pairs()):
            sides = {"chosen": r.responses[better], "rejected": r.responses[worse]}
            yield {"id": f"{r.id}-{number}"} | {
                k: [*message_rows(r.prompt), *_answer(text)] for k, text in sides.items()
            }


def _sft(lesson: Lesson) -> Iterator[dict]:
    for d in lesson.demonstrations:
        yield {"id": d.id, "messages": [*message_rows(d.prompt), *_answer(d.response)]}


SHAPES: dict[str, Shape] = {
    "kto": Shape(_kto, "thumbs", "answers with a thumb, for KTO"),
    "preference": Shape(
        _preference, "ultrafeedback", "pairs of a better and a worse answer, for DPO or a reward model"
    ),
    "sft": Shape(_sft, "messages", "demonstrations, for SFT"),
}


def write(rows: Iterable[dict], path: Path) -> tuple[int, str]:
    """Writes JSONL beside the file and moves it there whole; the owner alone may read it. Returns rows and sha256."""
    partial = path.with_name(path.name + ".partial")
    digest, count = hashlib.sha256(), 0
    path.parent.mkdir(parents=True, exist_ok=True)
    partial.touch(mode=0o600)
    try:
        with partial.open("wb") as file:
            for count, row in enumerate(rows, start=1):  # noqa: B007  the last number is the count
                line = json.dumps(row, ensure_ascii=False).encode() + b"\n"
                digest.update(line)
                file.write(line)
        partial.replace(path)
    except BaseException:
        # People's words are not left lying about where nobody would look for them.
        partial.unlink(missing_ok=True)
        raise
    return count, digest.hexdigest()


def _answer(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]
