"""What a reward model has to beat: rules of length and a bag of words. And what it cannot be asked to beat: another person."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.optimize import minimize
from scipy.special import expit

Floats = NDArray[np.float64]
# Answers of a pair: (better, worse).
Pair = tuple[str, str]


def longer(pair: Pair) -> float:
    """1 where the better answer has more characters, 0 where it has fewer, 1/2 where both have as many."""
    better, worse = map(len, pair)
    return (better > worse) + 0.5 * (better == worse)


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


class BagOfWords:
    """Bradley–Terry over word counts, by penalised maximum likelihood.

        P(a beats b) = σ(w · (c_a − c_b)),    min_w Σ_pairs weight · −ln σ(w · d) + λ/2 ‖w‖²

    c is the vector of an answer's word counts; there is no intercept, since swapping the answers must swap the outcome. λ = 1 is what
    common libraries start from, and is not tuned here.
    """

    def __init__(self, penalty: float = 1.0, fewest: int = 2):
        """`fewest`: answers that a word must occur in to count."""
        self.penalty, self.fewest = penalty, fewest

    def fit(self, pairs: Sequence[Pair], weights: Sequence[float] | None = None) -> BagOfWords:
        seen = Counter(word for pair in pairs for text in pair for word in set(words(text)))
        self.vocabulary = {word: i for i, word in enumerate(sorted(w for w, n in seen.items() if n >= self.fewest))}
        differences = self._differences(pairs)
        weight = np.ones(len(pairs)) if weights is None else np.asarray(weights, dtype=np.float64)

        def loss(w: Floats) -> tuple[float, Floats]:
            margin = differences @ w
            value = weight @ np.logaddexp(0.0, -margin) + self.penalty / 2 * w @ w
            return value, self.penalty * w - differences.T @ (weight * expit(-margin))

        start = np.zeros(len(self.vocabulary))
        self.weights = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 1000}).x
        return self

    def margins(self, pairs: Sequence[Pair]) -> Floats:
        """(n,) w · (c_better − c_worse): positive where the bag of words is right."""
        return self._differences(pairs) @ self.weights

    def _differences(self, pairs: Sequence[Pair]) -> sparse.csr_matrix:
        rows, columns, values = [], [], []
        for i, (better, worse) in enumerate(pairs):
            for sign, text in ((1, better), (-1, worse)):
                for word in words(text):
                    if (j := self.vocabulary.get(word)) is not None:
                        rows.append(i)
                        columns.append(j)
                        values.append(sign)
        # Entries at one place are summed, which makes them differences of counts.
        return sparse.csr_matrix((values, (rows, columns)), shape=(len(pairs), len(self.vocabulary)), dtype=np.float64)


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
