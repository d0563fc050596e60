"""Rule-based verifiers: is an answer right, by a rule that can be read? For tasks with a known result.

To add one, write a function from (answer, reference) to bool and name it in VERIFIERS. An empty answer is never right.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from decimal import Decimal, InvalidOperation

from pipeline.evaluation.metrics import words
from pipeline.evaluation.statistics import Floats

Verifier = Callable[[str, str], bool]
_NUMBER = re.compile(r"[-−]?\d[\d,]*(?:\.\d+)?|[-−]?\.\d+")


def same_words(answer: str, reference: str) -> bool:
    """The same words in the same order, without regard to case, punctuation and spacing."""
    return words(answer) == words(reference)


def contains(answer: str, reference: str) -> bool:
    """The words of the reference stand somewhere in the answer, whole and in a row: 'art' is not in 'start'."""
    said, wanted = words(answer), words(reference)
    return bool(wanted) and any(said[k : k + len(wanted)] == wanted for k in range(len(said)))


def last_number(answer: str, reference: str) -> bool:
    """The last number of the answer equals that of the reference: 1,200.50 is 1200.5 (as GSM8K is commonly scored)."""
    said, wanted = _numbers(answer), _numbers(reference)
    return bool(said and wanted) and said[-1] == wanted[-1]


def is_json(answer: str, reference: str) -> bool:
    """The answer is JSON with the reference's value, whatever its spacing and order of keys; an empty reference takes any."""
    try:
        said = json.loads(answer)
        return not reference.strip() or said == json.loads(reference)
    except ValueError:
        return False


def at_most_words(answer: str, reference: str) -> bool:
    """The answer has at least one word and at most as many as the reference says: '20'."""
    return 0 < len(words(answer)) <= int(reference)


VERIFIERS: dict[str, Verifier] = {
    "same_words": same_words,
    "contains": contains,
    "last_number": last_number,
    "is_json": is_json,
    "at_most_words": at_most_words,
}


def verify(name: str, answers: Sequence[str], references: Sequence[str]) -> Floats:
    """(n,) 1 where the named verifier takes the answer, else 0.

    Raises:
        ValueError: no verifier of that name, or lists of different length.
    """
    import numpy as np

    if name not in VERIFIERS:
        raise ValueError(f"no verifier '{name}'; there are: {', '.join(VERIFIERS)}")
    pairs = zip(answers, references, strict=True)
    return np.array([float(bool(a.strip()) and VERIFIERS[name](a, r)) for a, r in pairs], dtype=np.float64)


def _numbers(text: str) -> list[Decimal]:
    found = []
    for raw in _NUMBER.findall(text):
        try:
            found.append(Decimal(raw.replace(",", "").replace("−", "-")))
        except InvalidOperation:
            continue
    return found
