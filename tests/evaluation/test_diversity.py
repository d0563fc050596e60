"""Self-BLEU against hand counts and a slow loop written from the definition; the entries on the cards against both."""

import math
import random
import re
from collections import Counter

import pytest

from pipeline.evaluation.answers import AnswerRow
from pipeline.evaluation.diversity import MOST, self_bleu, self_bleu_change, self_bleu_entry
from pipeline.ppo.figures import text_figures


def slow(texts):
    """One BLEU a text, reference by reference and n-gram by n-gram."""
    tokens = [re.findall(r"\w+", t.lower()) for t in texts]
    out = []
    for i, own in enumerate(tokens):
        others = [t for j, t in enumerate(tokens) if j != i]
        product = 1.0
        for n in (1, 2, 3, 4):
            grams = [tuple(own[k : k + n]) for k in range(len(own) - n + 1)]
            matched = 0
            for gram, count in Counter(grams).items():
                best = max(sum(tuple(o[k : k + n]) == gram for k in range(len(o) - n + 1)) for o in others)
                matched += min(count, best)
            if not matched and n == 1:
                product = 0.0
            product *= (matched or 0.1) / max(1, len(grams))
        near = sorted((abs(len(o) - len(own)), len(o)) for o in others)[0][1]
        brevity = 0.0 if not own else 1.0 if len(own) > near else math.exp(1 - near / len(own))
        out.append(brevity * product**0.25)
    return out


def test_counted_by_hand():
    # The first: 4 of 5 words, 3 of 4 pairs, 2 of 3, 1 of 2, as long as its reference.
    first, second = self_bleu(["a b c d e", "a b c d f"])
    assert first == second == pytest.approx((4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25)
    # A word said twice counts as often as a single other says it; the nearest length is 4, not 9.
    found = self_bleu(["x x y z", "x y z w", "x q r s t u v w k"])[0]
    assert found == pytest.approx((3 / 4 * 2 / 3 * 1 / 2 * 0.1 / 1) ** 0.25)
    # Shorter than the only other: e^(1 − 6/4).
    assert self_bleu(["a b c d", "a b c d e f"])[0] == pytest.approx(math.exp(1 - 6 / 4))


def test_the_ends_of_the_scale():
    assert self_bleu(["the same five words here"] * 3) == [1.0] * 3
    assert self_bleu(["one two", "three four", "!"]) == [0.0] * 3
    # Too short for four words in a row: the orders that it has count whole, the two others ε.
    assert self_bleu(["yes please", "Yes, please!"]) == pytest.approx([(0.1 * 0.1) ** 0.25] * 2)
    with pytest.raises(ValueError, match="at least 2"):
        self_bleu(["alone"])


def test_the_fast_way_is_the_slow_loop():
    rng = random.Random(5)
    for _ in range(60):
        texts = [" ".join(rng.choice("abcd") for _ in range(rng.randrange(9))) for _ in range(rng.randrange(2, 7))]
        assert self_bleu(texts) == pytest.approx(slow(texts), abs=1e-12)


def rows(answers, sample=0):
    return [AnswerRow(f"p{k}", None, "q", sample, text, True, 1, (1,)) for k, text in enumerate(answers)]


@pytest.mark.usefixtures("few_prompts")
def test_a_card_compares_one_answer_a_prompt_and_says_how_many():
    answers = ["a b c d e", "a b c d f", "u v w x y"]
    # The second samples, in place of the first or beside them, would make the policy look collapsed.
    entry = self_bleu_entry([*rows(answers), *rows(["the same every time"] * 3, sample=1)])
    assert entry.value == pytest.approx(sum(slow(answers)) / 3) and entry.n == 3 and "3 answers" in entry.note
    assert entry.ci_low == 0.0 and entry.ci_high == pytest.approx(slow(answers)[0])


def test_the_change_is_paired_by_prompt():
    ours, theirs = ["a b c d e", "a b c d f", "u v w x y"], ["k l m n", "o p q r", "u v w x"]
    shuffled = [rows(theirs)[k] for k in (2, 0, 1)]
    found = self_bleu_change(rows(ours), [*shuffled, *rows(["a", "b", "c", "k l m n"])[3:]], "sft")
    assert found.metric == "self_bleu_minus_sft" and found.n == 3
    assert found.value == pytest.approx((sum(slow(ours)) - sum(slow(theirs))) / 3)
    assert self_bleu_change(rows(ours), rows(ours), "sft").value == 0.0


def test_of_many_answers_a_fixed_number_is_compared():
    many = [f"answer {k} of very many" for k in range(3 * MOST)]
    entry = self_bleu_entry(rows(many))
    assert entry.n == MOST and entry.value == pytest.approx(sum(self_bleu(many[::3])) / MOST)


def test_two_prompts_are_enough_for_a_number():
    ours, theirs = ["a b c d e", "a b c d f"], ["k l m n", "o p q r"]
    assert self_bleu_entry(rows(ours)).value == pytest.approx(sum(slow(ours)) / 2)
    assert self_bleu_change(rows(ours), rows(theirs), "sft").value == pytest.approx((sum(slow(ours)) - sum(slow(theirs))) / 2)


def test_of_one_prompt_nothing_can_be_said():
    assert math.isnan(self_bleu_entry(rows(["a"])).value) and math.isnan(
        self_bleu_change(rows(["a"]), rows(["a"]), "sft").value
    )
    assert text_figures(["alone"])["self_bleu"] is None


def test_answers_that_fill_one_form_are_alike_though_they_open_differently():
    """What neither different openings nor different word pairs would have shown: only the first word differs."""
    topics = [f"word{k}" for k in range(32)]
    form = "is a topic that many people find interesting because it is useful and easy to learn about"
    figures = text_figures([f"{topic} {form}" for topic in topics])
    assert figures["unique_openings"] == 1.0 and figures["self_bleu"] > 0.9
