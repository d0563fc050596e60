"""Metrics of a set of answers, as plain functions and as `evaluate.Metric` modules that need no network.

A new metric is a function `(answers) -> float` and one line in METRICS; or a class of your own, derived from
`evaluate.Metric` with the inputs `predictions` (text), `finished` (bool) and `tokens` (int), registered the same way.
`evaluate.load` is never called: it would fetch, and run, code by name.

Words are runs of letters, digits and inner apostrophes in lower case: a tokenizer's pieces would make the numbers of
two base models incomparable.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import evaluate

# A line that begins with a speaker's name, as a transcript's does: the model has gone on with somebody else's turn.
SPEAKERS = ("user", "human", "person", "assistant", "system", "bot", "AI")
_SPEAKER = re.compile(rf"^\s*(?:[#*_<|\[]+\s*)?(?:{'|'.join(SPEAKERS)})\b[\s*_|>\]]*:", re.I | re.M)
_WORD = re.compile(r"\w+(?:['’]\w+)*")


@dataclass(frozen=True)
class Answer:
    """What a metric sees of an answer. `finished` is False where it was cut off before its end-of-sequence token."""

    text: str
    finished: bool
    tokens: int


def words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def distinct_n(answers: Sequence[str], n: int) -> float:
    """Different word n-grams over all n-grams, counted over all answers together (Li et al. 2016).

    Falls as the set grows: compare sets of the same size only. NaN where no answer has n words.
    """
    found = [gram for answer in answers for gram in _ngrams(answer, n)]
    return len(set(found)) / len(found) if found else math.nan


def repeated_ngram_share(answers: Sequence[str], n: int = 4, times: int = 3) -> float:
    """Share of answers in which some word n-gram occurs at least `times` times."""
    return _mean([max(Counter(_ngrams(answer, n)).values(), default=0) >= times for answer in answers])


def unique_first_tokens(answers: Sequence[str], n: int = 8) -> float:
    """Different openings (first n words) over all answers: near 0 when the policy says one thing to everybody."""
    return len({tuple(words(answer)[:n]) for answer in answers}) / len(answers) if answers else math.nan


def speaker_share(answers: Sequence[str]) -> float:
    """Share of answers with a line that begins with one of SPEAKERS and a colon, "User:" for one: a turn played for somebody else.

    English names alone: "Nutzer:" is not seen, and a heading "AI: what it is" is counted though nobody speaks.
    """
    return _mean([_SPEAKER.search(answer) is not None for answer in answers])


def eos_rate(finished: Sequence[bool]) -> float:
    """Share of answers that ended with an end-of-sequence token instead of being cut off."""
    return _mean(finished)


def mean_tokens(tokens: Sequence[int]) -> float:
    """Mean length in tokens of the policy's tokenizer."""
    return _mean(tokens)


def mean_words(answers: Sequence[str]) -> float:
    """Mean length in words."""
    return _mean([len(words(answer)) for answer in answers])


def _texts(answers: Sequence[Answer]) -> list[str]:
    return [answer.text for answer in answers]


Measure = Callable[[Sequence[Answer]], float]

METRICS: dict[str, Measure | type[evaluate.Metric]] = {
    "eos_rate": lambda answers: eos_rate([answer.finished for answer in answers]),
    "answer_tokens": lambda answers: mean_tokens([answer.tokens for answer in answers]),
    "answer_words": lambda answers: mean_words(_texts(answers)),
    "distinct_1": lambda answers: distinct_n(_texts(answers), 1),
    "distinct_2": lambda answers: distinct_n(_texts(answers), 2),
    "repeated_4gram_share": lambda answers: repeated_ngram_share(_texts(answers)),
    "speaker_share": lambda answers: speaker_share(_texts(answers)),
    "unique_first_8_share": lambda answers: unique_first_tokens(_texts(answers)),
}


# What a reader must know to read the number; stands beside it on the card and in the report.
NOTES = {
    "speaker_share": f"a line begins with {', '.join(SPEAKERS)} and a colon; names in other languages are not seen, a heading “AI: …” is counted",
}


def measure(answers: Sequence[Answer], names: Sequence[str] | None = None) -> dict[str, float]:
    """The metrics `names` (all of METRICS by default) of `answers`, by name."""
    inputs = {
        "predictions": _texts(answers),
        "finished": [answer.finished for answer in answers],
        "tokens": [answer.tokens for answer in answers],
    }
    if not answers:
        return dict.fromkeys(METRICS if names is None else names, math.nan)
    return {name: float(load(name).compute(**inputs)[name]) for name in (METRICS if names is None else names)}


def load(name: str) -> evaluate.Metric:
    """The registered metric as an `evaluate.Metric`, ready for `.compute(predictions=…, finished=…, tokens=…)`."""
    if name not in METRICS:
        raise ValueError(f"no metric '{name}'; there are: {', '.join(METRICS)}")
    found = METRICS[name]
    return (found if isinstance(found, type) else _metric_class(name, found))(keep_in_memory=True)


@cache
def _metric_class(name: str, function: Measure) -> type[evaluate.Metric]:
    import datasets
    import evaluate

    class OfAnswers(evaluate.Metric):
        def _info(self) -> evaluate.MetricInfo:
            inputs = {"predictions": "string", "finished": "bool", "tokens": "int32"}
            return evaluate.MetricInfo(
                description=function.__doc__ or name,
                citation="",
                inputs_description="predictions: texts; finished: bool; tokens: int",
                features=datasets.Features({key: datasets.Value(kind) for key, kind in inputs.items()}),
            )

        def _compute(self, predictions: list[str], finished: list[bool], tokens: list[int]) -> dict[str, float]:
            answers = [Answer(*row) for row in zip(predictions, finished, tokens, strict=True)]
            return {name: function(answers)}

    # `evaluate` names a module after its class.
    return type(name, (OfAnswers,), {})


def _ngrams(text: str, n: int) -> Iterator[tuple[str, ...]]:
    found = words(text)
    return zip(*(found[start:] for start in range(n)), strict=False)


def _mean(numbers: Sequence[float]) -> float:
    return sum(numbers) / len(numbers) if numbers else math.nan
