"""What the failure detectors read of a set of answers: of a rollout's texts, or of all that was drawn for a look."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pipeline.adapters import SharedBase
from pipeline.evaluation.diversity import self_bleu
from pipeline.evaluation.likelihood import token_logprobs_of
from pipeline.evaluation.metrics import distinct_n, repeated_ngram_share, unique_first_tokens
from pipeline.evaluation.refusals import refusal_share
from pipeline.generation import Sample
from reward.sources import Answered


def answer_figures(
    base: SharedBase,
    role: str,
    reference: str,
    samples: Sequence[Sample],
    answers: Sequence[Answered],
    temperature: float,
) -> dict[str, float | None]:
    """What the detectors read of a rollout, of answers that were drawn for a look.

    KL(π ‖ π_ref) ≈ mean Σ_t (log π − log π_ref), nats a sequence; the entropy a token ≈ −mean log π, nats: both from the tokens
    drawn, at the temperature that they were drawn at.
    """
    asked = [a.ids[: len(a.ids) - len(s.ids)] for a, s in zip(answers, samples, strict=True)]
    own, theirs = (
        token_logprobs_of(base, reader, asked, [s.ids for s in samples], temperature) for reader in (role, reference)
    )
    tokens, nats = sum(len(s.ids) for s in samples), sum(map(sum, own))
    return {
        "episodes": len(samples),
        "kl": (nats - sum(map(sum, theirs))) / len(samples),
        "entropy": -nats / tokens,
        "response_tokens": tokens / len(samples),
        "eos_rate": sum(s.finished for s in samples) / len(samples),
        **text_figures([a.response for a in answers]),
    }


def text_figures(answers: Sequence[str]) -> dict[str, float | None]:
    """What the detectors read of a rollout's texts; None where the answers hold too few words to say."""
    figures = {
        "distinct_2": distinct_n(answers, 2),
        "repeated_4gram_share": repeated_ngram_share(answers),
        "unique_openings": unique_first_tokens(answers),
        "self_bleu": sum(self_bleu(answers)) / len(answers) if len(answers) > 1 else math.nan,
        "refusal_share": refusal_share(answers),
    }
    return {name: value if math.isfinite(value) else None for name, value in figures.items()}
