"""What needs no language model, on the very pairs that the reward model is judged by: rules of length, and a bag of words."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from data.quality import questions_of
from data.records import Ranking
from pipeline.evaluation.cards import Entry
from pipeline.evaluation.metrics import words
from pipeline.evaluation.statistics import cluster_share, share_difference
from reward.bag_of_words import BagOfWords
from reward.metrics import pair_outcomes

BAG = "bag of words"


def word_counts(rankings: Sequence[Ranking]) -> list[list[float]]:
    """Words of every answer, what stands between spaces without a letter or digit not being one: the length of every rule of length."""
    return [[float(len(words(a))) for a in r.responses] for r in rankings]


def floor_entries(
    label: str,
    rankings: Sequence[Ranking],
    scores: Sequence[Sequence[float]],
    pairs: Sequence[Sequence[tuple[int, int]]],
    bag: BagOfWords,
    learnt_from: str,
) -> list[Entry]:
    """How right the bag of words is, and how far the reward model is above the best floor.

    The best of {shorter, longer, bag of words} is chosen by its accuracy on these very pairs, which favours the floor: the model has to
    beat whichever of the three happens to be right most often here.

    Args:
        label: "clean" or "observed", as in the name of the accuracy.
        scores: the reward model's, of every answer.
        pairs: (better, worse) indices of every ranking.
        learnt_from: what the bag of words was fitted on, for the note.
    """
    prefix = "" if label == "clean" else f"{label}_"
    named = (f"{prefix}bag_of_words_accuracy", f"{label}_accuracy_minus_best_floor")
    clusters = questions_of(rankings, pairs)
    if not clusters:
        return [Entry(name, math.nan, 0, unit="share", note="no pair to compare") for name in named]
    lengths = word_counts(rankings)
    model, shorter, longer, bagged = (
        [outcome for s, own in zip(by, pairs, strict=True) for outcome in pair_outcomes(s, own)]
        for by in (scores, [[-n for n in row] for row in lengths], lengths, [bag.scores(r.responses) for r in rankings])
    )
    floors = {"shorter": shorter, "longer": longer, BAG: bagged}
    level = {name: float(np.mean(outcomes)) for name, outcomes in floors.items()}
    best = max(level, key=level.__getitem__)
    said = ", ".join(f"{name} {100 * share:.1f} %" for name, share in level.items())
    n = len(set(clusters))
    value, low, high = cluster_share(bagged, clusters)
    above, above_low, above_high = share_difference(model, floors[best], clusters)
    return [
        Entry(named[0], value, n, low, high, "share", f"words alone, fitted on {learnt_from}"),
        Entry(
            named[1], above, n, above_low, above_high, "share", f"above “{best}”, the best floor on these pairs: {said}"
        ),
    ]
