"""The bag of words against its own equation, found by slow means; and on sets where the answer is known."""

import math
import random
import re
from collections import Counter

import pytest

from data.records import Message, Ranking
from reward.bag_of_words import PENALTIES, BagOfWords, terms

PAIRS = [
    ("Yes, the sky is blue.", "No, the sky is green green."),
    ("The sky is blue", "is is the the sky sky"),
    ("no no no", "yes, blue"),
    ("It is blue; blue it is", "Green is it"),
    ("grass", "green grass is blue"),
]
WEIGHTS = [1.0, 0.5, 2.0, 1.0, 0.25]


def slow_terms(text):
    found = re.findall(r"\w+", text.lower())
    return set(found) | {f"{found[k]} {found[k + 1]}" for k in range(len(found) - 1)}


def slow_gradient(bag, pairs, weights):
    """λw − Σ weight · σ(−w·d) · d, term by term."""
    gradient = {term: bag.penalty * bag.weights[i] for term, i in bag.vocabulary.items()}
    for (better, worse), weight in zip(pairs, weights, strict=True):
        there = Counter(slow_terms(better))
        there.subtract(slow_terms(worse))
        margin = sum(n * bag.weights[bag.vocabulary[t]] for t, n in there.items() if t in bag.vocabulary)
        for term, n in there.items():
            if term in gradient:
                gradient[term] -= weight * n / (1 + math.exp(margin))
    return gradient


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_the_bag_of_words_stands_where_a_slow_loop_finds_no_slope(weights):
    bag = BagOfWords(penalty=1.0).fit(PAIRS, weights)
    words_ = {"the", "sky", "is", "blue", "green", "no", "yes", "it", "grass"}
    assert set(bag.vocabulary) == words_ | {"the sky", "sky is", "is blue"}
    assert max(map(abs, slow_gradient(bag, PAIRS, weights or [1.0] * 5).values())) < 1e-4
    assert max(map(abs, bag.weights)) > 0.1


def test_a_word_alone_has_the_weight_of_its_equation():
    # One word, one pair, once against never: w = σ(−w), by bisection.
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if middle < 1 / (1 + math.exp(middle)) else (low, middle)
    bag = BagOfWords(penalty=1.0, fewest=1).fit([("hi", "?")])
    assert bag.weights[bag.vocabulary["hi"]] == pytest.approx(low, abs=1e-5)


def test_swapped_answers_have_the_opposite_margin():
    bag = BagOfWords().fit(PAIRS)
    assert bag.margins([(b, a) for a, b in PAIRS]) == pytest.approx(-bag.margins(PAIRS))
    assert bag.margins([("unseen", "words")])[0] == 0
    assert terms("Don't STOP, don't") == {"don", "t", "stop", "don t", "t stop", "stop don"}


def ranking(name, *answers, ranks=None, question="q"):
    """Answers from best to worst."""
    ranks = ranks or tuple(range(len(answers)))
    return Ranking(name, (Message("user", question),), answers, ranks, (True,) * len(answers))


def test_every_ranking_weighs_the_same_whatever_its_number_of_answers():
    # Three answers are three pairs of a third each.
    lists = [
        ranking("a", "yes the sky", "the grass", "no no"),
        ranking("b", "no the", "yes"),
        ranking("c", "x", "x", ranks=(0, 0)),
    ]
    bag = BagOfWords.of_rankings(lists)
    # Three questions are too few to leave any out: hardly anything is learnt.
    assert bag.penalty == PENALTIES[-1]
    pairs = [("yes the sky", "the grass"), ("yes the sky", "no no"), ("the grass", "no no"), ("no the", "yes")]
    assert set(bag.vocabulary) == {"yes", "the", "sky", "grass", "no", "yes the", "the sky", "the grass", "no no"}
    assert max(map(abs, slow_gradient(bag, pairs, [1 / 3, 1 / 3, 1 / 3, 1.0]).values())) < 1e-4


def test_where_one_word_decides_everything_it_is_found():
    fillers = [f"{a} {b}" for a in ("red", "round", "old") for b in ("house", "hill", "road", "boat")]
    lists = [
        ranking(str(k), f"{mine} indeed", theirs, question=f"question {k}")
        for k, (mine, theirs) in enumerate(zip(fillers, fillers[1:], strict=False))
    ]
    bag = BagOfWords.of_rankings(lists)
    heaviest = max(bag.vocabulary, key=lambda w: abs(bag.weights[bag.vocabulary[w]]))
    assert heaviest == "indeed" and bag.penalty == PENALTIES[0] and bag.weights[bag.vocabulary["indeed"]] > 0
    better, worse = bag.scores(["a tall tree indeed", "a tall tree"])
    assert better > worse == 0.0


def test_a_score_is_the_sum_of_the_weights_of_the_terms_that_are_there():
    bag = BagOfWords(penalty=1.0).fit(PAIRS)
    text = "the sky is the grass, unseen"
    by_hand = sum(bag.weights[bag.vocabulary[t]] for t in ("the", "sky", "is", "grass", "the sky", "sky is"))
    one, other = bag.scores([text, "The sky is -- THE grass unheard"])
    assert one == pytest.approx(by_hand) and one == other
    assert bag.margins([PAIRS[0]])[0] == pytest.approx(bag.scores([PAIRS[0][0]])[0] - bag.scores([PAIRS[0][1]])[0])


def test_without_a_word_seen_twice_every_answer_ties():
    bag = BagOfWords.of_rankings([ranking("a", "one", "two")])
    assert bag.vocabulary == {} and bag.scores(["one", "two"]) == [0.0, 0.0] and bag.margins([("one", "two")])[0] == 0.0


def test_where_words_say_nothing_the_largest_penalty_is_chosen():
    chance = random.Random(0)
    said = [" ".join(chance.choices("abcdefghij", k=6)) for _ in range(400)]
    lists = [ranking(str(k), one, other, question=f"question {k}") for k, (one, other) in enumerate(zip(said[::2], said[1::2], strict=True))]
    bag = BagOfWords.of_rankings(lists)
    assert bag.penalty == PENALTIES[-1]


def slow_choice(pairs, weights, questions):
    """Five folds by the order in which the questions come, each learnt without and held against; words seen once count too."""
    order = list(dict.fromkeys(questions))
    losses = {}
    for penalty in PENALTIES:
        total = 0.0
        for fold in range(5):
            out = [order.index(q) % 5 == fold for q in questions]
            inside = [k for k, o in enumerate(out) if not o]
            bag = BagOfWords(penalty, fewest=1).fit([pairs[k] for k in inside], [weights[k] for k in inside])
            for k, margin in enumerate(bag.margins(pairs)):
                total += out[k] * weights[k] * math.log1p(math.exp(-margin))
        losses[penalty] = total
    return losses


def test_the_penalty_is_the_one_with_the_smallest_loss_on_questions_left_out():
    chance, chosen = random.Random(3), set()
    for noise in (0.0, 0.25, 0.4):
        pairs, questions = [], []
        for k in range(90):
            one, other = (" ".join(chance.choices("abcdefghijklmnop", k=4)) for _ in range(2))
            better, worse = (one, other) if ("a" in one) - ("a" in other) + chance.gauss(0, 4 * noise) > 0 else (other, one)
            pairs.append((better, worse))
            questions.append(k // 3)
        weights = [1 + k % 3 for k in range(90)]
        losses = slow_choice(pairs, weights, questions)
        found = BagOfWords(fewest=1).fit(pairs, weights, questions).penalty
        assert losses[found] <= min(losses.values()) * (1 + 1e-4)
        chosen.add(found)
    assert len(chosen) > 1


def test_a_question_is_left_out_whole():
    # The same two answers under one question again and again: whoever parts them learns them by heart.
    chance = random.Random(1)
    pairs, questions = [], []
    for k in range(40):
        one, other = (" ".join(chance.choices("abcdefghij", k=6)) for _ in range(2))
        pairs += [(f"{one} {k}x", f"{other} {k}y")] * 5
        questions += [k] * 5
    assert BagOfWords().fit(pairs, questions=questions).penalty > BagOfWords().fit(pairs).penalty
