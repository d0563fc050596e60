"""The reward model that needs no language model: preferences from word counts alone. What a real one has to beat."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.optimize import minimize
from scipy.special import expit

from data.records import Ranking

Floats = NDArray[np.float64]
# Answers of a pair: (better, worse).
Pair = tuple[str, str]


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


class BagOfWords:
    """Bradley–Terry over word counts, by penalised maximum likelihood.

        P(a beats b) = σ(w · (c_a − c_b)),    min_w Σ_pairs weight · −ln σ(w · d) + λ/2 ‖w‖²

    c is the vector of an answer's word counts; there is no intercept, since swapping the answers must swap the outcome. λ = 1 is what
    common libraries start from, and is not tuned here.
    """

    def __init__(self, penalty: float = 1.0, fewest: int = 2):
        """`fewest`: sides of pairs that a word must occur in to count."""
        self.penalty, self.fewest = penalty, fewest

    @staticmethod
    def of_rankings(rankings: Sequence[Ranking]) -> BagOfWords:
        """Fitted on all pairs of `rankings`, each ranking with the weight 1 in all, as in the reward model's loss."""
        lists = [(r.responses, pairs) for r in rankings if (pairs := r.pairs())]
        pairs = [(answers[b], answers[w]) for answers, own in lists for b, w in own]
        return BagOfWords().fit(pairs, [1 / len(own) for _, own in lists for _ in own])

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
        # Without a word to count there is nothing to fit.
        self.weights = (
            minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 1000}).x if len(start) else start
        )
        return self

    def margins(self, pairs: Sequence[Pair]) -> Floats:
        """(n,) w · (c_better − c_worse): positive where the bag of words is right."""
        return self._differences(pairs) @ self.weights

    def scores(self, texts: Sequence[str]) -> list[float]:
        """w · c of each text. Word by word, so that texts of the same words have the same score to the last bit."""
        known = [sorted(self.vocabulary[w] for w in words(text) if w in self.vocabulary) for text in texts]
        return [float(self.weights[places].sum()) if places else 0.0 for places in known]

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
