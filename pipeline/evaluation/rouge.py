"""ROUGE-L: how much of a demonstration an answer to the same prompt says in the same order (Lin 2004, section 3)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from data.numbers import many
from data.quality import question_of
from data.records import Demonstration, Prompt
from pipeline.evaluation.answers import answer_prompts
from pipeline.evaluation.cards import Entry, estimated
from pipeline.evaluation.metrics import words
from pipeline.evaluation.statistics import cluster_share, share_difference
from pipeline.template import prompt_lengths


def rouge_l(answer: str, reference: str) -> float:
    """F₁ of the longest common subsequence of words, in 0 to 1.

        P = LCS(a, r) / |a|      R = LCS(a, r) / |r|      F₁ = 2PR / (P + R) = 2 LCS(a, r) / (|a| + |r|)

    0 where neither has a word. Words are those of `metrics.words`; nothing is stemmed.
    """
    one, other = words(answer), words(reference)
    return 2 * common_subsequence(one, other) / (len(one) + len(other)) if one or other else 0.0


def common_subsequence(one: Sequence[str], other: Sequence[str]) -> int:
    """Length of the longest sequence that both contain in order, not necessarily side by side; O(|one| · |other|)."""
    row = [0] * (len(other) + 1)
    for word in one:
        corner = 0
        for j, said in enumerate(other, 1):
            corner, row[j] = row[j], corner + 1 if word == said else max(row[j], row[j - 1])
    return row[-1]


def reference_entries(
    base, roles: dict[str, str], demonstrations: Sequence[Demonstration], config, progress
) -> list[Entry]:
    """`rouge_l` of the first of `roles` against demonstrations kept out of training, and the difference to the second.

    Only demonstrations whose whole prompt fits into `data.max_prompt_tokens`: an answer to a shortened one is an answer to another question.

    Args:
        roles: name of each policy as it stands on cards → its role; the trained one first.
    """
    count = config.evaluation.reference_answers
    if not count:
        return []
    fitting = _fitting(base.tokenizer, demonstrations, config)
    shown = fitting[:count]
    of = f"of {many(len(fitting), 'demonstration')} kept out of training"
    if left := len(demonstrations) - len(fitting):
        of += f"; of {left} more the prompt is longer than data.max_prompt_tokens"
    names = ("rouge_l", f"rouge_l_minus_{list(roles)[1]}")
    if not shown:
        return [Entry(name, math.nan, 0, note=of) for name in names]
    asked = [Prompt(d.id, d.prompt, d.topic) for d in shown]
    clusters, scores = [question_of(d) for d in shown], []
    n = len(set(clusters))
    for name, role in roles.items():
        rows = answer_prompts(base, role, asked, config, samples=1, progress=progress, label=f"{name} beside references")
        scores.append([rouge_l(row.answer, d.response) for row, d in zip(rows, shown, strict=True)])
    own, theirs = scores
    note = f"words in common, in order, with the first {len(shown)} {of}, one answer each"
    return [
        estimated(names[0], cluster_share(own, clusters), n, "share", note),
        estimated(names[1], share_difference(own, theirs, clusters), n, "share"),
    ]


def _fitting(tokenizer, demonstrations: Sequence[Demonstration], config) -> list[Demonstration]:
    lengths = prompt_lengths(tokenizer, [d.prompt for d in demonstrations], system_prompt=config.model.system_prompt)
    return [d for d, n in zip(demonstrations, lengths, strict=True) if n <= config.data.max_prompt_tokens]
