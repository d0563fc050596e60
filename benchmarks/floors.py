"""What a reward model has to beat beside a bag of words: the rule of length, on folds of questions. And what it cannot be asked to beat: another
person."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np

from reward.bag_of_words import Pair


def longer(pair: Pair) -> float:
    """1 where the better answer has more characters, 0 where it has fewer, 1/2 where both have as many."""
    better, worse = map(len, pair)
    return (better > worse) + 0.5 * (better == worse)


def folds(groups: Sequence[Hashable], count: int, seed: int) -> list[int]:
    """The fold (0 … count − 1) of each row. A group is never parted; folds differ by one group's size at most.

    Groups in random order, the largest first, each to the fold that holds the fewest rows so far.
    """
    sizes = Counter(groups)
    names = list(sizes)
    np.random.default_rng(seed).shuffle(names)
    held, place = [0] * count, {}
    for name in sorted(names, key=lambda n: -sizes[n]):
        place[name] = held.index(min(held))
        held[place[name]] += sizes[name]
    return [place[group] for group in groups]


def others_agree(votes: Sequence[int]) -> list[tuple[int, float]]:
    """For each vote that is no tie: (its index, how right the other annotators are about it).

    The others say what more of them voted for. 1 where that is the vote, 0 where it is the opposite, 1/2 where they are even: the rule
    by which a model is counted too, so that its accuracy on the same votes stands beside the mean of these.
    """
    found = []
    for i, vote in enumerate(votes):
        if vote and len(votes) > 1:
            said = np.sign(sum(votes) - vote)
            found.append((i, float((said == vote) + 0.5 * (said == 0))))
    return found
