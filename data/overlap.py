"""Is a held-out text also in the training data, whole or in part, however it is spelt?

Texts are compared as words: case, punctuation, spacing, how accents are composed, look-alike forms that Unicode holds
equivalent (full-width letters, ligatures) and characters that nobody sees make no difference. Two texts overlap where they
share 13 words in a row, the length that Brown et al. (2020, appendix C) compare; questions, many of them shorter, are also
compared whole. Letters of other alphabets that merely look alike are other letters here.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from data.records import Demonstration, Message, Prompt, Record, Thumb

GRAM = 13
# A run of words in more training texts than this is a template or a common phrase, no copy (Brown et al. 2020, appendix C).
COMMON = 10
# Scripts that put no space between words: there each character counts as one.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+")
_APOSTROPHES = "'’‘`´ʼ＇"
# What Unicode lets a renderer ignore and does not put into the category of format characters.
_IGNORED = "\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u3164\uffa0"
_SELECTORS = (range(0xFE00, 0xFE10), range(0xE0100, 0xE01F0))


class _Invisible(dict):
    """For `str.translate`: drops what nobody sees, keeps the rest; decided once a character."""

    def __missing__(self, code: int) -> int | None:
        letter = chr(code)
        gone = unicodedata.category(letter) == "Cf" or letter in _IGNORED or any(code in s for s in _SELECTORS)
        self[code] = None if gone else code
        return self[code]


_INVISIBLE = _Invisible()
_WITHOUT_APOSTROPHES = str.maketrans("", "", _APOSTROPHES)


def seen(text: str) -> str:
    """The text as a reader sees it: without invisible characters, in one Unicode form (NFKC), in lower case."""
    if text.isascii():
        return text.lower()
    # Twice: what stands between a letter and its accent keeps them apart until it is gone.
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).translate(_INVISIBLE)).casefold()


def prompt_of(record: Record) -> tuple[Message, ...]:
    return record.messages if isinstance(record, Prompt) else record.prompt


def words(text: str) -> list[str]:
    """The words of a text, without punctuation; "can't" is one word, a hyphen parts two."""
    return _WORD.findall(seen(text).translate(_WITHOUT_APOSTROPHES))


def grams(text: str, n: int = GRAM) -> Iterator[tuple[str, ...]]:
    """Every run of `n` words."""
    said = words(text)
    return (tuple(said[k : k + n]) for k in range(len(said) - n + 1))


def whole(text: str) -> str:
    """What two texts of the same words share; of a text without any word, what a reader sees of it."""
    return " ".join(words(text)) or " ".join(seen(text).split())


@dataclass(frozen=True)
class Said:
    """What a record says, as far as it can be a copy of another.

    Attributes:
        question: its first user turn, which is compared whole; None where it asks nothing.
        texts: its turns and answers, which are compared by runs of words. A system prompt is the same everywhere by design.
    """

    id: str
    question: str | None
    texts: tuple[str, ...]

    @staticmethod
    def of(record: Record) -> Said:
        turns = [m for m in prompt_of(record) if m.role != "system"]
        question = next((m.content for m in turns if m.role == "user"), None)
        answers = [record.response] if isinstance(record, Demonstration | Thumb) else getattr(record, "responses", ())
        return Said(record.id, question, (*(m.content for m in turns), *answers))


@dataclass(frozen=True)
class Overlap:
    """What held-out records share with one training set.

    Attributes:
        asked: ids whose question is asked in training too.
        found: for each other id that shares `GRAM` words in a row with training, those words.
        common: runs of words that are shared but stand in more than `COMMON` training records, and so count for nothing.
    """

    asked: tuple[str, ...] = ()
    found: Mapping[str, str] = field(default_factory=dict)
    common: int = 0

    @property
    def count(self) -> int:
        return len(self.asked) + len(self.found)


class HeldOut:
    """Held-out records by set, ready to be looked for in training data."""

    def __init__(self, sets: Mapping[str, Iterable[Said]]):
        self._runs: dict[tuple[str, ...], list[tuple[str, str]]] = {}
        self._questions: dict[str, list[tuple[str, str]]] = {}
        self.names = list(sets)
        for name, records in sets.items():
            for record in records:
                owner = (name, record.id)
                if record.question:
                    self._questions.setdefault(whole(record.question), []).append(owner)
                # Not a set: its order, and with it the example that a message shows, would change from run to run.
                for gram in dict.fromkeys(gram for text in record.texts for gram in grams(text)):
                    self._runs.setdefault(gram, []).append(owner)
        # A run that is shared begins as some held-out run begins: at most places nothing else is looked at.
        self._starts = {gram[:2] for gram in self._runs}

    def overlap(self, training: Iterable[Said]) -> dict[str, Overlap]:
        """What each set shares with a training set."""
        asked: dict[str, dict[str, None]] = {name: {} for name in self.names}
        hits: Counter[tuple[str, ...]] = Counter()
        for record in training:
            for name, key in self._questions.get(whole(record.question), ()) if record.question else ():
                asked[name][key] = None
            hits.update(dict.fromkeys(gram for text in record.texts for gram in self._in(words(text))).keys())
        found: dict[str, dict[str, str]] = {name: {} for name in self.names}
        common: Counter[str] = Counter()
        for gram, count in hits.items():
            for name, key in self._runs[gram]:
                if count > COMMON:
                    common[name] += 1
                elif key not in asked[name]:
                    found[name].setdefault(key, " ".join(gram))
        return {name: Overlap(tuple(asked[name]), found[name], common[name]) for name in self.names}

    def touches(self, record: Said) -> bool:
        """Whether a record asks a held-out question or shares a run of words with a held-out text."""
        if record.question and whole(record.question) in self._questions:
            return True
        return any(True for text in record.texts for _ in self._in(words(text)))

    def _in(self, said: list[str]) -> Iterator[tuple[str, ...]]:
        for k in range(len(said) - GRAM + 1):
            if (said[k], said[k + 1]) in self._starts and (gram := tuple(said[k : k + GRAM])) in self._runs:
                yield gram
