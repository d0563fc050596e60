"""What else stands on the reward model's card: calibration after a temperature, length, turns, and a rule that needs no model."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import numpy as np

from data.numbers import many
from data.quality import question_of, questions_of
from data.records import Ranking
from pipeline.evaluation.cards import Entry, estimated
from pipeline.evaluation.length import accuracy_by_length, within_prompt_correlation
from pipeline.evaluation.metrics import words
from pipeline.evaluation.scoring import conversation
from pipeline.evaluation.statistics import (
    cluster_bootstrap,
    cluster_share,
    fit_temperature,
    pair_ece,
    share_difference,
)
from pipeline.roles import RewardEnsemble
from reward.metrics import margins, pair_outcomes

Pairs = Sequence[Sequence[tuple[int, int]]]
FOLDS = 2
# Turns of the person in the prompt, first and last of each group.
TURNS = {"1": (1, 1), "2_3": (2, 3), "4_on": (4, math.inf)}


def calibration_entries(prefix: str, rankings: Sequence[Ranking], scores, pairs: Pairs) -> list[Entry]:
    """Loss a pair, and the calibration error that is left when margins are divided by a temperature fitted elsewhere.

    The temperature for one half of the questions is fitted on the other, so that it cannot fit what it is judged by.
    """
    groups = [margins(s, p) for s, p in zip(scores, pairs, strict=True)]
    asked = [question_of(r) for r in rankings]
    names = [question for question, group in zip(asked, groups, strict=True) for _ in group]
    gaps = [m for group in groups for m in group]
    if not gaps:
        return []
    losses = np.logaddexp(0.0, -np.asarray(gaps))
    value, low, high = cluster_bootstrap(losses, names)
    n = len(set(names))
    note = "−ln σ(margin); a model that knows nothing has 0.693"
    return [
        Entry(f"{prefix}pair_loss", value, n, low, high, "nats", note),
        Entry(
            f"{prefix}ece_after_temperature",
            _cross_fitted_ece(groups, asked),
            n,
            unit="share",
            note="fitted on the other half of the questions",
        ),
    ]


def _cross_fitted_ece(groups: Sequence[Sequence[float]], asked: Sequence[str]) -> float:
    places: dict[str, int] = {}
    folds = [places.setdefault(question, len(places)) % FOLDS for question in asked]
    scaled: list[float] = []
    for fold in range(FOLDS):
        elsewhere = [m for of, group in zip(folds, groups, strict=True) if of != fold for m in group]
        temperature = fit_temperature(elsewhere) if elsewhere else math.nan
        # 0 and infinity are what a half without a wrong pair, or without any sense, asks for: no calibration to speak of.
        if not (math.isfinite(temperature) and temperature > 0):
            return math.nan
        scaled += [m / temperature for of, group in zip(folds, groups, strict=True) if of == fold for m in group]
    return pair_ece(scaled)


def turn_entries(rankings: Sequence[Ranking], scores, pairs: Pairs) -> list[Entry]:
    """Accuracy by how far the conversation has come, counted in the person's turns; nothing where all lists are at one stage of it."""
    of = [sum(message.role == "user" for message in r.prompt) for r in rankings]
    buckets = {
        name: [k for k, turns in enumerate(of) if low <= turns <= high and pairs[k]]
        for name, (low, high) in TURNS.items()
    }
    if sum(map(bool, buckets.values())) < 2:
        return []
    out = []
    for name, chosen in buckets.items():
        values = [x for k in chosen for x in pair_outcomes(scores[k], pairs[k])]
        clusters = questions_of([rankings[k] for k in chosen], [pairs[k] for k in chosen])
        if not values:
            out.append(Entry(f"accuracy_turn_{name}", math.nan, 0, unit="share", note="no pair of so many turns"))
            continue
        value, low, high = cluster_share(values, clusters)
        note = f"{many(len(values), 'pair')}, labels as given"
        out.append(Entry(f"accuracy_turn_{name}", value, len(set(clusters)), low, high, "share", note))
    return out


def length_entries(rankings: Sequence[Ranking], scores, golds, pairs: Pairs) -> list[Entry]:
    """Does the score follow length more than the raters do, and is it right where length says nothing?"""
    names = [question_of(r) for r in rankings]
    n = len(set(names))
    lengths = [[len(words(a)) for a in r.responses] for r in rankings]
    own = within_prompt_correlation(scores, lengths, names)
    theirs = within_prompt_correlation(golds, lengths, names)
    out = [
        Entry(
            "length_correlation", own.value, n, own.low, own.high, note="of score and words, within a prompt"
        ),
        Entry(
            "gold_length_correlation", theirs.value, n, theirs.low, theirs.high, note="the same of the rubric"
        ),
        Entry(
            "length_correlation_excess",
            abs(own.value) - abs(theirs.value),
            n,
            note="how much closer the score follows length than the rubric does",
        ),
    ]
    rows = [
        (outcome, sizes[better] - sizes[worse], name)
        for s, p, sizes, name in zip(scores, pairs, lengths, names, strict=True)
        for outcome, (better, worse) in zip(pair_outcomes(s, p), p, strict=True)
    ]
    if not rows:
        return out
    outcomes, longer, clusters = (list(column) for column in zip(*rows, strict=True))
    thirds = accuracy_by_length(outcomes, longer, clusters)
    for name, (estimate, n) in zip(("shorter", "middle", "longer"), thirds, strict=True):
        note = f"third of the pairs whose better answer is {name}" if name != "middle" else "third of like lengths"
        out.append(Entry(f"accuracy_{name}_third", estimate.value, n, estimate.low, estimate.high, "share", note))
    shorter = [(-gap > 0) + 0.5 * (gap == 0) for gap in longer]
    rule = shorter if np.mean(shorter) >= 0.5 else [1 - x for x in shorter]
    value, low, high = share_difference(outcomes, rule, clusters)
    said = "shorter" if rule is shorter else "longer"
    out.append(
        Entry(
            "clean_accuracy_minus_length_rule",
            value,
            len(set(clusters)),
            low,
            high,
            "share",
            f"above what “the {said} answer is better” reaches on the same pairs",
        )
    )
    return out


def accuracy_entries(label: str, rankings: Sequence[Ranking], scores, pairs, *, short: bool = False) -> list[Entry]:
    """Pair accuracy with an interval over questions; calibration and margin too unless `short`."""
    values = [o for s, p in zip(scores, pairs, strict=True) for o in pair_outcomes(s, p)]
    clusters = questions_of(rankings, pairs)
    name = label if short else f"{label}_accuracy"
    if not values:
        return [Entry(name, math.nan, 0, unit="share", note="no pair to compare")]
    entry = estimated(name, cluster_share(values, clusters), len(set(clusters)), "share", f"{many(len(values), 'pair')}")
    if short:
        return [entry]
    gaps = [m for s, p in zip(scores, pairs, strict=True) for m in margins(s, p)]
    prefix = "" if label == "clean" else f"{label}_"
    return [
        entry,
        Entry(f"{prefix}pairs", len(values), len(set(clusters))),
        Entry(f"{prefix}mean_margin", float(np.mean(gaps)), len(set(clusters)), unit="reward"),
        Entry(f"{prefix}ece", pair_ece(gaps), len(set(clusters)), unit="share", note="10 equal-mass bins of |margin|"),
        Entry(
            f"{prefix}temperature",
            fit_temperature(gaps),
            len(set(clusters)),
            note="margins divided by it are calibrated",
        ),
    ]


def others_in_turn(keys: Sequence[Hashable], shift: int) -> list[int] | None:
    """For each place another whose key is not the same: the one `shift` places on, or the next after that which is not, round and round.
    None where all keys are one."""
    n = len(keys)
    if len(set(keys)) < 2:
        return None
    # From behind, twice round: where a run of equal keys that begins here ends.
    end = [0] * n
    for place in range(2 * n - 1, -1, -1):
        here, after = place % n, (place + 1) % n
        end[here] = end[after] if keys[here] == keys[after] else after
    starts = ((place + shift) % n for place in range(n))
    return [start if keys[start] != keys[place] else end[start] for place, start in enumerate(starts)]


def mismatch_entry(model: RewardEnsemble, rankings: Sequence[Ranking], golds, scores, config) -> Entry:
    """How often the best answer to a prompt beats the best answer to another prompt: does the model read the question?

    A prompt may have several rankings: what is best in one of them is no wrong answer to another.
    """
    lenders = others_in_turn([r.prompt for r in rankings], shift=len(rankings) // 2)
    if lenders is None:
        return Entry("wrong_prompt_accuracy", math.nan, 0, unit="share", note="all lists are of one prompt; no answer is to another")
    best = [int(np.argmax(g)) for g in golds]
    answers = [(r.responses[i], r.finished[i]) for r, i in zip(rankings, best, strict=True)]
    other = model.score_all(
        [conversation(model.base, r.prompt, *answers[j], config) for r, j in zip(rankings, lenders, strict=True)]
    )
    values = [(s[i] > o) + 0.5 * (s[i] == o) for s, i, o in zip(scores, best, other, strict=True)]
    clusters = [question_of(r) for r in rankings]
    return estimated(
        "wrong_prompt_accuracy",
        cluster_share(values, clusters),
        len(set(clusters)),
        "share",
        "own best answer against another prompt's best",
    )
