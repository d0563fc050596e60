"""Fixed texts and questions that a policy is measured on besides the held-out prompts: never trained on, the same for every run.

The built-in ones were written for this project and lie in data/seed/; a file of one's own takes their place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from data.errors import UserError
from data.fields import suggest
from data.records import check_text
from data.sources import read_rows

BUILT_IN = "built-in"
_SEED = Path(__file__).resolve().parent / "seed"
_FILES = {"general_text": _SEED / "general_text.jsonl", "facts": _SEED / "facts.jsonl"}
T = TypeVar("T", "Paragraph", "Fact")


@dataclass(frozen=True)
class Paragraph:
    """A piece of ordinary text; `kind` groups pieces for people to read, nothing more."""

    id: str
    text: str
    kind: str | None = None

    def row(self) -> dict[str, str]:
        return {"id": self.id, **({"kind": self.kind} if self.kind else {}), "text": self.text}


@dataclass(frozen=True)
class Fact:
    """A question with one right and one wrong answer.

    Attributes:
        answer: a sentence with `{}` where the answer stands, so that two answers differ in one place alone.
    """

    id: str
    question: str
    answer: str
    right: str
    wrong: str

    def reply(self, said: str) -> str:
        return self.answer.replace("{}", said)

    def row(self) -> dict[str, str]:
        return {
            "id": self.id,
            "question": self.question,
            "answer": self.answer,
            "right": self.right,
            "wrong": self.wrong,
        }


def source(key: str, setting: str) -> Path:
    """The file that `data.general_text` or `data.facts` means."""
    return _FILES[key] if setting == BUILT_IN else Path(setting)


def load_paragraphs(path: Path) -> list[Paragraph]:
    """The pieces of a JSONL, JSON, CSV or Parquet file with a field `text`; of a .txt file, what empty lines set apart.

    Raises:
        UserError: every row that cannot be used, with its number and the reason.
    """
    if path.suffix == ".txt":
        return _load_plain(path)
    return _load(
        path,
        ("text",),
        ("id", "kind"),
        lambda i, row: Paragraph(row.get("id") or f"text-{i}", row["text"], row.get("kind")),
    )


def load_facts(path: Path) -> list[Fact]:
    """The rows of a file with the fields of `Fact`; `answer` may be missing, and is then the answer by itself.

    Raises:
        UserError: as `load_paragraphs`.
    """
    return _load(path, ("question", "right", "wrong"), ("id", "answer"), _fact)


def _fact(number: int, row: Mapping[str, str]) -> Fact:
    found = Fact(
        row.get("id") or f"fact-{number}", row["question"], row.get("answer") or "{}", row["right"], row["wrong"]
    )
    if found.answer.count("{}") != 1:
        raise ValueError("'answer' must hold {} once, where the right or the wrong answer is put")
    if found.right.casefold() == found.wrong.casefold():
        raise ValueError("'right' and 'wrong' are the same")
    return found


def _load(
    path: Path, needed: tuple[str, ...], optional: tuple[str, ...], make: Callable[[int, Mapping[str, str]], T]
) -> list[T]:
    found: dict[str, T] = {}
    problems: list[str] = []
    for number, row in read_rows(path):
        try:
            if not isinstance(row, dict):
                raise ValueError(str(row))
            _check_fields(row, needed, optional)
            record = make(number, row)
            if record.id in found:
                raise ValueError(f"the id '{record.id}' stands in an earlier row already")
            found[record.id] = record
        except ValueError as error:
            problems.append(f"{path} row {number}: {error}. Mend or drop the row.")
    if not found and not problems:
        problems = [f"{path}: holds no row."]
    if problems:
        raise UserError(problems)
    return list(found.values())


def _check_fields(row: Mapping[str, Any], needed: tuple[str, ...], optional: tuple[str, ...]) -> None:
    if missing := [name for name in needed if name not in row]:
        raise ValueError(f"no field '{missing[0]}'; found {', '.join(map(repr, row)) or 'nothing'}")
    if unknown := [name for name in row if name not in (*needed, *optional)]:
        raise ValueError(f"unknown field '{unknown[0]}'{suggest(unknown[0], (*needed, *optional))}")
    for name, value in row.items():
        if value is not None or name in needed:
            check_text(name, value)


def _load_plain(path: Path) -> list[Paragraph]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as UTF-8 text ({error}).") from None
    pieces = [piece.strip() for piece in text.replace("\r\n", "\n").split("\n\n")]
    found = [Paragraph(f"text-{number}", piece) for number, piece in enumerate(filter(None, pieces), start=1)]
    if not found:
        raise UserError(f"{path}: holds no text.")
    for paragraph in found:
        try:
            check_text("text", paragraph.text)
        except ValueError as error:
            raise UserError(f"{path}, {paragraph.id}: {error}.") from None
    return found
