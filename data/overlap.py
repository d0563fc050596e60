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
# Every run of 13 words holds seven words that begin at a multiple of seven.
_SEED = 7
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
_ASCII_WORDS = {
    code: None if chr(code) in _APOSTROPHES else chr(code).lower() if chr(code).isalnum() else " "
    for code in range(128)
}
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
    if text.isascii():
        # Most text is, and then one pass over the characters does all of it.
        return text.translate(_ASCII_WORDS).split()
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
    """Held-out records by set, ready to be looked for in training data.

    Runs of words are kept as 64-bit hashes, not as words, for the memory: among 10⁶ held-out runs and 10⁸ training runs the
    chance of a single false match is below 10⁻⁵.
    """

    def __init__(self, sets: Mapping[str, Iterable[Said]]):
        self.names = list(sets)
        self._owners: list[tuple[str, str]] = []
        self._questions: dict[str, list[tuple[str, str]]] = {}
        # Of each run, the records that hold it, as places in _owners.
        self._runs: dict[int, tuple[int, ...]] = {}
        self._seeds: set[int] = set()
        for name, records in sets.items():
            for record in records:
                place = len(self._owners)
                self._owners.append((name, record.id))
                if record.question:
                    self._questions.setdefault(whole(record.question), []).append((name, record.id))
                for text in record.texts:
                    self._add(words(text), place)

    def _add(self, said: list[str], place: int) -> None:
        if len(said) < GRAM:
            return
        for k in range(len(said) - GRAM + 1):
            run = hash(tuple(said[k : k + GRAM]))
            owners = self._runs.get(run, ())
            if place not in owners:
                self._runs[run] = (*owners, place)
        self._seeds.update(hash(tuple(said[k : k + _SEED])) for k in range(len(said) - _SEED + 1))

    def overlap(self, training: Iterable[Said]) -> dict[str, Overlap]:
        """What each set shares with a training set."""
        asked: dict[str, dict[str, None]] = {name: {} for name in self.names}
        hits: Counter[int] = Counter()
        said: dict[int, str] = {}
        for record in training:
            for name, key in self._questions.get(whole(record.question), ()) if record.question else ():
                asked[name][key] = None
            # A record counts once for a run. Not a set: its order, and with it the example shown, would change from run to run.
            shared = dict(run for text in record.texts for run in self._in(text))
            hits.update(shared.keys())
            said |= shared
        found: dict[str, dict[str, str]] = {name: {} for name in self.names}
        common: Counter[str] = Counter()
        for run, count in hits.items():
            for name, key in (self._owners[place] for place in self._runs[run]):
                if count > COMMON:
                    common[name] += 1
                elif key not in asked[name]:
                    found[name].setdefault(key, said[run])
        return {name: Overlap(tuple(asked[name]), found[name], common[name]) for name in self.names}

    def touches(self, record: Said) -> bool:
        """Whether a record asks a held-out question or shares a run of words with a held-out text."""
        if record.question and whole(record.question) in self._questions:
            return True
        return any(True for text in record.texts for _ in self._in(text))

    def _in(self, text: str) -> Iterator[tuple[int, str]]:
        """(hash, words) of every run of the text that is also held out.

        Wherever a run of 13 words begins, some place among its first seven is a multiple of seven, and the seven words from there
        lie within the run: so every seventh place is looked at, and its surroundings only where those words are known.
        """
        if not self._runs:
            return
        said = words(text)
        for seed in range(0, len(said) - _SEED + 1, _SEED):
            if hash(tuple(said[seed : seed + _SEED])) not in self._seeds:
                continue
            for k in range(max(0, seed - (GRAM - _SEED)), min(seed, len(said) - GRAM) + 1):
                if (run := hash(tuple(said[k : k + GRAM]))) in self._runs:
                    yield run, " ".join(said[k : k + GRAM])
