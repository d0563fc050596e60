"""The reward model that needs no language model: preferences from single words alone. What a real one has to beat."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.optimize import minimize
from scipy.special import expit

from data.quality import questions_of
from data.records import Ranking

Floats = NDArray[np.float64]
# Answers of a pair: (better, worse).
Pair = tuple[str, str]


# Of λ, from what common libraries start from up to where hardly anything is learnt.
PENALTIES = (1.0, 10.0, 100.0, 1000.0)
FOLDS = 5


def terms(text: str) -> set[str]:
    """The words of a text, and each two that stand side by side."""
    words = re.findall(r"\w+", text.casefold())
    return {*words, *(f"{one} {two}" for one, two in pairwise(words))}


class BagOfWords:
    """Bradley–Terry over the words that occur, by penalised maximum likelihood.

        P(a beats b) = σ(w · (t_a − t_b)),    min_w Σ_pairs weight · −ln σ(w · d) + λ/2 ‖w‖²

    t is 1 for each word and each two neighbouring words that an answer holds, else 0: whether a word is there says more about
    preferences than how often (Wang & Manning 2012 found the same of sentiment). There is no intercept, since swapping the answers must swap the
    outcome. λ is the one of `PENALTIES` with the smallest loss when each fifth of the questions is left out in turn.
    """

    def __init__(self, penalty: float | None = None, fewest: int = 2):
        """
        Args:
            penalty: λ; None is chosen.
            fewest: sides of pairs that a term must occur in to count.
        """
        self.penalty, self.fewest = penalty, fewest

    @staticmethod
    def of_rankings(rankings: Sequence[Ranking]) -> BagOfWords:
        """Fitted on all pairs of `rankings`, each ranking with the weight 1 in all, as in the reward model's loss."""
        lists = [(r, pairs) for r in rankings if (pairs := r.pairs())]
        pairs = [(r.responses[b], r.responses[w]) for r, own in lists for b, w in own]
        weights = [1 / len(own) for _, own in lists for _ in own]
        return BagOfWords().fit(pairs, weights, questions_of([r for r, _ in lists], [own for _, own in lists]))

    def fit(
        self, pairs: Sequence[Pair], weights: Sequence[float] | None = None, questions: Sequence[Hashable] | None = None
    ) -> BagOfWords:
        """
        Args:
            weights: of each pair; None is 1.
            questions: of each pair, never parted when λ is chosen; None is one for each pair.
        """
        seen = Counter(term for pair in pairs for text in pair for term in terms(text))
        self.vocabulary = {term: i for i, term in enumerate(sorted(t for t, n in seen.items() if n >= self.fewest))}
        differences = self._differences(pairs)
        weight = np.ones(len(pairs)) if weights is None else np.asarray(weights, dtype=np.float64)
        if self.penalty is None:
            self.penalty = _choose(differences, weight, range(len(pairs)) if questions is None else questions)
        self.weights = _minimum(differences, weight, self.penalty)
        return self

    def margins(self, pairs: Sequence[Pair]) -> Floats:
        """(n,) w · (c_better − c_worse): positive where the bag of words is right."""
        return self._differences(pairs) @ self.weights

    def scores(self, texts: Sequence[str]) -> list[float]:
        """w · t of each text. In one order, so that texts of the same terms have the same score to the last bit."""
        known = [sorted(self.vocabulary[t] for t in terms(text) if t in self.vocabulary) for text in texts]
        return [float(self.weights[places].sum()) if places else 0.0 for places in known]

    def _differences(self, pairs: Sequence[Pair]) -> sparse.csr_matrix:
        rows, columns, values = [], [], []
        for i, (better, worse) in enumerate(pairs):
            for sign, text in ((1, better), (-1, worse)):
                for term in terms(text):
                    if (j := self.vocabulary.get(term)) is not None:
                        rows.append(i)
                        columns.append(j)
                        values.append(sign)
        # Entries at one place are summed: what both answers hold is 0.
        return sparse.csr_matrix((values, (rows, columns)), shape=(len(pairs), len(self.vocabulary)), dtype=np.float64)


def _minimum(differences: sparse.csr_matrix, weight: Floats, penalty: float) -> Floats:
    def loss(w: Floats) -> tuple[float, Floats]:
        margin = differences @ w
        value = weight @ np.logaddexp(0.0, -margin) + penalty / 2 * w @ w
        return value, penalty * w - differences.T @ (weight * expit(-margin))

    start = np.zeros(differences.shape[1])
    # Without a term to count there is nothing to fit.
    return minimize(loss, start, jac=True, method="L-BFGS-B").x if len(start) else start


def _choose(differences: sparse.csr_matrix, weight: Floats, questions: Sequence[Hashable]) -> float:
    """λ with the smallest loss on questions left out; the largest where there are too few to leave any out."""
    number = {question: i for i, question in enumerate(dict.fromkeys(questions))}
    fold = np.array([number[question] % FOLDS for question in questions], dtype=int)
    if len(number) < FOLDS:
        return PENALTIES[-1]
    losses = dict.fromkeys(PENALTIES, 0.0)
    for out in range(FOLDS):
        inside = fold != out
        for penalty in PENALTIES:
            margin = differences[~inside] @ _minimum(differences[inside], weight[inside], penalty)
            losses[penalty] += float(weight[~inside] @ np.logaddexp(0.0, -margin))
    return min(losses, key=losses.__getitem__)
