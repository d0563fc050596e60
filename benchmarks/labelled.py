"""Public sets of people's judgements as labelled lists of answers, read through the formats of `data/formats.py`.

Rows that no format can take (an empty answer, turns out of order) are set apart and counted by reason. Where a set has a form of
its own, its row becomes one of ours first: the fields are renamed, nothing else.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from data.errors import UserError
from data.formats import FORMATS
from data.loading import attempt
from data.records import Message, Ranking
from data.sources import read_rows
from data.splits import is_test
from pipeline.template import prompt_ids, response_ids
from reward.train import EncodedRanking

MAX_TOKENS, ANSWER_TOKENS, TEST_SHARE = 384, 256, 0.2


@dataclass(frozen=True)
class Labelled:
    """Answers to one prompt, and which of them people thought better.

    Attributes:
        question: what makes two prompts one, across the sets: the letters and digits of the first user turn.
        pairs: (better, worse) indices; none where all tie.
        votes: for two answers with several annotators, one number each: 1 first, −1 second, 0 a tie.
    """

    id: str
    subset: str
    question: str
    prompt: tuple[Message, ...]
    answers: tuple[str, ...]
    pairs: tuple[tuple[int, int], ...]
    votes: tuple[int, ...] = ()


@dataclass
class LabelledSet:
    lists: list[Labelled]
    left_out: Counter = field(default_factory=Counter)


def question_key(messages: Sequence[Message]) -> str:
    first = next(m.content for m in messages if m.role == "user")
    return re.sub(r"[\W_]+", "", first.casefold())


def tests_on(question: str) -> bool:
    """Whether a question is kept for testing: a fifth, by the hash of the question."""
    return is_test((Message("user", question),), TEST_SHARE, salt="people")


def label(votes: Sequence[int]) -> int:
    """What several annotators say together: 1 first, −1 second, by more votes; 0 where the two have equally many."""
    return (sum(votes) > 0) - (sum(votes) < 0)


def read_all(folder: Path) -> dict[str, LabelledSet]:
    """The sets by name.

    Raises:
        UserError: a file is missing; the message says which of all.
    """
    missing = [f"{folder / file}: no such file; docs/people.md says where it comes from" for file, _ in SETS.values()]
    missing = [line for line, (file, _) in zip(missing, SETS.values(), strict=True) if not (folder / file).exists()]
    if missing:
        raise UserError(missing)
    return {name: read(folder / file) for name, (file, read) in SETS.items()}


def by_format(format_name: str) -> Callable[[Path], LabelledSet]:
    def read(file: Path) -> LabelledSet:
        loaded, problems = attempt(file, format_name)
        found = LabelledSet([_of(record) for record in loaded.records])
        for line in problems:
            found.left_out[_reason(line)] += 1
        return found

    return read


def votes_of_tulu(file: Path) -> LabelledSet:
    """{prompt, completion_a, completion_b, preference, evaluator}: the votes on one pair of answers, in whichever order, are joined."""
    signs = {"a-is-better": 1, "a-is-slightly-better": 1, "tie": 0, "b-is-slightly-better": -1, "b-is-better": -1}
    groups: dict[tuple[str, frozenset], list[dict]] = {}
    for _, row in read_rows(file):
        groups.setdefault((row["prompt"], frozenset((row["completion_a"], row["completion_b"]))), []).append(row)
    found = LabelledSet([])
    for number, rows in enumerate(groups.values(), start=1):
        first = rows[0]["completion_a"]
        votes: dict[str, int] = {}
        for row in rows:
            if row["evaluator"] in votes:
                found.left_out["second vote of one person on one pair"] += 1
                continue
            votes[row["evaluator"]] = signs[row["preference"]] * (1 if row["completion_a"] == first else -1)
        _take(found, f"votes-{number}", "", rows[0]["prompt"], (first, rows[0]["completion_b"]), tuple(votes.values()))
    return found


def pandalm(file: Path) -> LabelledSet:
    """{instruction, input, response1, response2, annotator1…3}: 0 a tie, 1 the first, 2 the second."""
    found = LabelledSet([])
    for number, row in read_rows(file):
        votes = tuple((0, 1, -1)[row[f"annotator{k}"]] for k in (1, 2, 3))
        question = f"{row['instruction']}\n\n{row['input']}" if row["input"] else row["instruction"]
        _take(found, f"pandalm-{number}", "", question, (row["response1"], row["response2"]), votes)
    return found


def llmbar(file: Path) -> LabelledSet:
    """{input, output_1, output_2, label, subset}: label 1 or 2."""
    found = LabelledSet([])
    for number, row in read_rows(file):
        subset = row["subset"].rpartition("/")[2]
        sign = 1 if row["label"] == 1 else -1
        _take(found, f"llmbar-{number}", subset, row["input"], (row["output_1"], row["output_2"]), (sign,))
    return replace(found, lists=[replace(item, votes=()) for item in found.lists])


def _take(found: LabelledSet, row_id: str, subset: str, prompt: Any, answers: Sequence[Any], votes: tuple[int, ...]):
    said = label(votes) if answers[0] != answers[1] else 0
    try:
        kept = _ranked(row_id, prompt, list(answers), [int(said < 0), int(said > 0)])
    except ValueError as error:
        found.left_out[re.sub(r"response \d", "an answer", str(error))] += 1
        return
    found.lists.append(replace(_of(kept), subset=subset, votes=votes))


def _ranked(row_id: str, prompt: Any, answers: list[Any], ranks: list[int]) -> Ranking:
    return FORMATS["ranked"]({"prompt": prompt, "responses": answers, "ranks": ranks}, row_id)


def _of(record: Ranking) -> Labelled:
    key = question_key(record.prompt)
    return Labelled(record.id, "", key, record.prompt, record.responses, tuple(record.pairs()))


def _reason(line: str) -> str:
    said = re.sub(r"^.*? row \d+: ", "", line)
    said = re.sub(r"^(chosen|rejected)[: ]*", "", said)
    return re.sub(r"turn \d+:? ?", "a turn ", said).split(". ")[0]


def encode(tokenizer, item: Labelled) -> tuple[EncodedRanking, int, int]:
    """Token ids, and how many prompt tokens and answers had to be cut.

    An answer keeps its first `ANSWER_TOKENS` tokens, without an end where it was cut; a prompt keeps its newest tokens, so many that the
    longest answer fits into `MAX_TOKENS` with it.
    """
    answers = [response_ids(tokenizer, text) for text in item.answers]
    kept = tuple(tuple(ids[:ANSWER_TOKENS]) for ids in answers)
    prompt = prompt_ids(tokenizer, item.prompt)
    room = MAX_TOKENS - max(map(len, kept))
    cut = max(0, len(prompt) - room)
    cut_answers = sum(len(ids) > ANSWER_TOKENS for ids in answers)
    best = item.pairs[0][0] if item.pairs else 0
    return EncodedRanking(tuple(prompt[cut:]), kept, item.pairs, best), cut, cut_answers


# Name → file in the folder of rows, and how it is read. Trained on: the first four, as far as the split says; the others only tested on.
SETS: dict[str, tuple[str, Callable[[Path], LabelledSet]]] = {
    "HH harmless": ("hh_pairs.jsonl", by_format("hh")),
    "Open-Assistant": ("oasst_trees.jsonl", by_format("oasst_rankings")),
    "Tulu votes": ("human_ab_votes.jsonl", votes_of_tulu),
    "UltraFeedback": ("ultrafeedback_pairs.jsonl", by_format("ultrafeedback")),
    "PandaLM": ("pandalm_3judges.jsonl", pandalm),
    "LLMBar": ("llmbar_pairs.jsonl", llmbar),
}
TRAINED_ON = ("HH harmless", "Open-Assistant", "Tulu votes", "UltraFeedback")
