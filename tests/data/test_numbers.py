"""Counts in sentences: one is no plural, whatever is counted."""

import ast
import re
from pathlib import Path

import pytest

from data.numbers import many

ROOT = Path(__file__).resolve().parents[2]
# A number of things, where nothing chooses between one and more of them.
_THINGS = "problems prompts votes pairs thumbs rankings answers demonstrations judgements comparisons attempts updates"
_PLURAL = re.compile(rf"^ (?:(?:new|more|lone|blind) )*({'|'.join(_THINGS.split())})\b")


@pytest.mark.parametrize(
    ("count", "words", "said"),
    [(0, ("vote",), "0 votes"), (1, ("vote",), "1 vote"), (2, ("vote",), "2 votes"), (1, ("person", "people"), "1 person"),
     (1234, ("person", "people"), "1,234 people")],
)
def test_one_is_no_plural(count, words, said):
    assert many(count, *words) == said


def unchosen(source: str) -> list[str]:
    """What f-strings say right behind `{len(…)}`, or a name that is counted, and would be wrong behind 1."""
    found = []
    for text in (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.JoinedStr)):
        for number, word in zip(text.values, text.values[1:], strict=False):
            counted = isinstance(number, ast.FormattedValue) and re.match(r"(len|sum)\(|.*\bcount\b", ast.unparse(number.value))
            if counted and isinstance(word, ast.Constant) and (plural := _PLURAL.match(word.value)):
                found.append(f"{{{ast.unparse(number.value)}}}{plural[0]}")
    return found


def test_what_is_counted_by_its_length_is_said_by_it():
    said = "f'{len(x)} more prompts are' f'{count} votes' f'{many(1, \"vote\")} votes' f'{name} answers'"
    assert unchosen(said) == ["{len(x)} more prompts", "{count} votes"]
    # Slips of the caller, which no user sees, and counts of two and more alone.
    allowed = {"comparisons.py", "diversity.py", "paged.py", "kl.py", "sources.py", "page_policies.py"}
    files = [f for part in ("data", "reward", "pipeline") for f in sorted((ROOT / part).rglob("*.py")) if f.name not in allowed]
    assert {f"{file.relative_to(ROOT)}: {said}" for file in files for said in unchosen(file.read_text(encoding="utf-8"))} == set()
