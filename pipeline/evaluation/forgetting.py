"""What training cost in plain language: how well a policy still predicts ordinary text that has nothing to do with its task.

    nll = −Σ log π(token | text so far)       perplexity = exp(nll / tokens)       bits a byte = nll / (ln 2 · bytes)

Small models are the ones that lose by alignment (Bai et al. 2022, section 4.6). Perplexity is per token of this tokenizer;
bits a byte also compare models with different ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from data.numbers import many
from data.yardsticks import Paragraph
from pipeline.adapters import SharedBase
from pipeline.context import context_of
from pipeline.evaluation.cards import Entry
from pipeline.evaluation.likelihood import Texts
from pipeline.evaluation.statistics import Estimate, cluster_bootstrap, paired_difference
from pipeline.template import plain_ids

# A user's own texts may be of any length; this much of each says enough.
MAX_TOKENS = 512


@dataclass(frozen=True)
class Reading:
    """One paragraph as a policy reads it.

    Attributes:
        nll: −log π of every token, nats, the first one given the tokenizer's beginning of a text.
        bytes: length in UTF-8.
    """

    id: str
    nll: tuple[float, ...]
    bytes: int

    @property
    def total(self) -> float:
        return sum(self.nll)


class Paragraphs:
    """Ordinary text outside any conversation, encoded once.

    The first token is predicted from the beginning-of-text token, or from the end-of-sequence token where the tokenizer
    has no other, as lm-evaluation-harness does; so every byte of the text is paid for.

    Attributes:
        shortened: how many are longer than `MAX_TOKENS` and are read up to there; their bytes are those read.
    """

    def __init__(self, base: SharedBase, paragraphs: Sequence[Paragraph], *, keep_trunk: bool = False):
        tokenizer = base.tokenizer
        context = context_of(base.causal_lm.config)
        most = MAX_TOKENS if context is None else min(MAX_TOKENS, context - 1)
        start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
        whole = [plain_ids(tokenizer, p.text) for p in paragraphs]
        ids = [row[:most] for row in whole]
        self.names = [p.id for p in paragraphs]
        self.shortened = sum(len(row) > most for row in whole)
        self.bytes = [
            len(p.text.encode() if len(row) <= most else tokenizer.decode(row[:most]).encode())
            for p, row in zip(paragraphs, whole, strict=True)
        ]
        self._texts = Texts(base, [[start]] * len(ids), ids, keep_trunk=keep_trunk)

    def read(self, role: str) -> list[Reading]:
        """Every paragraph as `role` reads it."""
        found = self._texts.logprobs(role)
        return [
            Reading(name, tuple(-x for x in row), size)
            for name, row, size in zip(self.names, found, self.bytes, strict=True)
        ]


def perplexity(readings: Sequence[Reading]) -> Estimate:
    """exp of the mean nll a token, with an interval over paragraphs."""
    values, clusters = _by_token(readings)
    return _exp(cluster_bootstrap(values, clusters))


def bits_per_byte(readings: Sequence[Reading]) -> Estimate:
    """Σ nll / (ln 2 · Σ bytes), with an interval over paragraphs."""
    # A byte's share of its paragraph's nll, once a byte: the mean over bytes with whole paragraphs drawn.
    values = [r.total / math.log(2) / r.bytes for r in readings for _ in range(r.bytes)]
    return cluster_bootstrap(values, [r.id for r in readings for _ in range(r.bytes)])


def perplexity_ratio(after: Sequence[Reading], before: Sequence[Reading]) -> Estimate:
    """perplexity(after) / perplexity(before) on the same tokens, paired: exp of the mean difference in nll a token."""
    a, clusters = _by_token(after)
    b, _ = _by_token(before)
    return _exp(paired_difference(a, b, clusters))


def entries(readings: Sequence[Reading], before: Sequence[Reading] | None = None, shortened: int = 0) -> list[Entry]:
    """What stands on a card: perplexity, bits a byte and, where there is something to hold it against, the ratio."""
    n, tokens = len(readings), sum(len(r.nll) for r in readings)
    said = f"of {tokens} tokens of ordinary text"
    if shortened:
        said += f"; {many(shortened, 'piece is', 'pieces are')} longer than {MAX_TOKENS} tokens and read up to there"
    out = [
        Entry("general_perplexity", *_spread(perplexity(readings), n), note=said),
        Entry("general_bits_per_byte", *_spread(bits_per_byte(readings), n), unit="bits/byte"),
    ]
    if before is not None:
        ratio = perplexity_ratio(readings, before)
        note = "over the base model's on the same text; above 1 is forgetting"
        out.append(Entry("general_perplexity_ratio", *_spread(ratio, n), note=note))
    return out


def _by_token(readings: Sequence[Reading]) -> tuple[list[float], list[str]]:
    return [x for r in readings for x in r.nll], [r.id for r in readings for _ in r.nll]


def _exp(estimate: Estimate) -> Estimate:
    return Estimate(*(math.exp(x) for x in estimate))


def _spread(estimate: Estimate, n: int) -> tuple[float, int, float, float]:
    return estimate.value, n, estimate.low, estimate.high
