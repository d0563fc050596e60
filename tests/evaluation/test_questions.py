"""What is asked more than once says little more than what is asked once: intervals of the cards draw whole questions."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data.records import Demonstration, Message, Prompt, Ranking
from pipeline.adapters import BASE, POLICY, REFERENCE
from pipeline.config import load_config
from pipeline.evaluation import calibration, judges, test_model
from pipeline.evaluation.answers import AnswerRow, answer_prompts, read_answers, write_answers
from pipeline.evaluation.diversity import self_bleu_change, self_bleu_entry
from pipeline.evaluation.floors import floor_entries
from pipeline.evaluation.judges import FIRST, SECOND
from pipeline.evaluation.policy_card import (
    answer_entries,
    best_of_entries,
    compare_entries,
    judge_entries,
    length_gain_entries,
    limit_entry,
)
from pipeline.evaluation.reward_card import (
    accuracy_entries,
    calibration_entries,
    length_entries,
    mismatch_entry,
    turn_entries,
)
from pipeline.evaluation.reward_probes import probe_answers
from pipeline.evaluation.rivals import gain
from pipeline.evaluation.scoring import kl_to_reference, response_nll
from pipeline.evaluation.statistics import FEWEST, fit_temperature, pair_ece
from pipeline.progress import track
from reward.bag_of_words import BagOfWords
from reward.metrics import pairs_by

TIMES = 3
SMOKE = Path(__file__).parents[2] / "configs" / "smoke.yaml"


def asked_once():
    """40 rankings of 40 questions, with answers of words that a rule, a bag of words and a model see differently."""
    rng = np.random.default_rng(0)
    texts = [[" ".join(rng.choice(["good", "bad", "cat", "dog"], size=rng.integers(2, 12))) + "." for _ in range(3)] for _ in range(40)]
    lists = []
    for i, row in enumerate(texts):
        before = (Message("user", f"Question {i}?"),)
        if i % 2:
            before += (Message("assistant", "Well."), Message("user", "Go on."))
        lists.append(Ranking(f"r{i}", before, tuple(row), tuple(rng.permutation(3).tolist()), (True,) * 3))
    return lists, rng.normal(size=(40, 3)).tolist()


def again(rows):
    """Every row several times, side by side, each time under an id of its own where it has one."""
    return [replace(row, id=f"{row.id}-{k}") if isinstance(row, Ranking) else row for row in rows for k in range(TIMES)]


def card(lists, scores, base, namespace):
    golds = [[-float(r) for r in ranking.ranks] for ranking in lists]
    pairs = [pairs_by(g) for g in golds]
    bag = BagOfWords.of_rankings(asked_once()[0])
    yield from accuracy_entries("observed", lists, scores, pairs)
    yield from turn_entries(lists, scores, pairs)
    yield from length_entries(lists, scores, golds, pairs)
    yield from floor_entries("observed", lists, scores, pairs, bag, "these")
    yield from calibration_entries("", lists, scores, pairs)[:1]
    yield from probe_answers(lists, [int(np.argmax(g)) for g in golds], lambda rows: [float(len(r.answer) % 7) for r in rows])
    config = namespace(model=namespace(system_prompt=None), data=namespace(max_prompt_tokens=200))
    reads = namespace(base=base, score_all=lambda texts: [float(len(ids) % 3) - 1.0 for ids in texts])
    yield mismatch_entry(reads, lists, golds, scores, config)


# Spoilt by chance, anew each time: another draw, no other interval.
BY_CHANCE = ("probe_gibberish", "probe_shuffled")


def test_three_times_the_same_is_no_narrower(make_base, namespace):
    """Exactly: as many clusters, of the same means, drawn by the same generator."""
    base = make_base()
    lists, scores = asked_once()
    once = {e.metric: e for e in card(lists, scores, base, namespace)}
    often = {e.metric: e for e in card(again(lists), again(scores), base, namespace)}
    assert once.keys() == often.keys() and len(once) >= 18
    with_interval = 0
    for name, entry in once.items():
        if name in BY_CHANCE:
            assert often[name].n == entry.n
        elif name != "observed_pairs":
            found = often[name]
            assert (found.value, found.n, found.ci_low, found.ci_high) == pytest.approx(
                (entry.value, entry.n, entry.ci_low, entry.ci_high), nan_ok=True, abs=1e-6
            ), name
            with_interval += entry.ci_low is not None
    assert with_interval >= 12


def test_a_temperature_is_fitted_on_other_questions_than_it_is_judged_by():
    """Three times one list, three times another whose margins are three times as wide; with lists for halves, each would be fitted on its own
    copies, and both would come out calibrated alike."""
    one, other = (replace(ranking, ranks=(0, 2, 1)) for ranking in asked_once()[0][:2])
    own = [(0, 1), (0, 2), (2, 1)]
    (_, ece) = calibration_entries("", [one] * 3 + [other] * 3, [[2.0, 1.0, 0.0]] * 3 + [[6.0, 3.0, 0.0]] * 3, [own] * 6)
    narrow, wide = [1.0, 2.0, -1.0], [3.0, 6.0, -3.0]
    scaled = [m / fit_temperature(wide) for m in narrow * 3] + [m / fit_temperature(narrow) for m in wide * 3]
    assert fit_temperature(wide) == pytest.approx(3 * fit_temperature(narrow), rel=1e-3) and ece.n == 2
    assert ece.value == pytest.approx(pair_ece(scaled), abs=1e-3)


def test_each_bin_of_the_reliability_diagram_draws_questions():
    lists, scores = asked_once()
    scores, pairs = [row[:2] for row in scores], [[(0, 1)]] * len(lists)
    once, often = calibration.bins_of(lists, scores, pairs), calibration.bins_of(again(lists), again(scores), again(pairs))
    for a, b in zip(once, often, strict=True):
        assert (a.right, a.low, a.high, a.pairs * TIMES) == pytest.approx((b.right, b.low, b.high, b.pairs), nan_ok=True)


def test_demonstrations_of_one_question_are_one_draw(make_base, namespace):
    said = [Demonstration(f"d{i}", (Message("user", q),), "Yes.") for i, q in enumerate(["Why?", " why? ", "How?"])]
    losses, clusters = response_nll(make_base(POLICY), POLICY, said, namespace(model=namespace(system_prompt=None)))
    assert len(losses) == len(clusters) and len(set(clusters)) == 2


def policies_answers():
    """Two policies' answers to 40 prompts of 40 questions, two each, with scores; one question is asked within a conversation."""
    rng = np.random.default_rng(1)

    def row(k, sample, lift):
        tokens = int(rng.integers(5, 40))
        proxy = float(rng.normal() + lift + tokens / 40)
        parts = {"polite": float(rng.random() < 0.5 + lift / 4)}
        return AnswerRow(
            f"p{k}", None, f"question {k}", sample, " ".join(rng.choice(["a", "b", "c"], tokens)), bool(rng.random() < 0.9), tokens,
            (1,) * tokens, gold=proxy + float(rng.normal()), parts=parts, proxy=proxy, question=f"question {k}",
        )  # fmt: skip

    return [[row(k, sample, lift) for k in range(40) for sample in range(2)] for lift in (1.0, 0.0)]


def asked_again(rows):
    """The same answers to prompts of other ids which begin with the same questions."""
    return [replace(row, prompt_id=f"{row.prompt_id}-{k}") for k in range(TIMES) for row in rows]


def policy_entries(rows, other, namespace):
    config = namespace(evaluation=namespace(best_of=[2]))
    yield from answer_entries(rows, config)
    yield from (compared := compare_entries(rows, other, "sft"))
    yield from length_gain_entries(rows, other, compared)
    yield from best_of_entries(rows, other, config)
    yield limit_entry(rows, other, 2.0)

    def ask(prompt, first, second):
        """The later in the alphabet, but for a quarter of the questions, where it is the place that wins."""
        return FIRST if int(prompt.split()[1]) % 4 == 0 or first >= second else SECOND

    yield from judge_entries(rows, other, namespace(prompts=1000), ask, track)


def test_a_policys_card_draws_questions(namespace):
    once, often = (
        {e.metric: e for e in policy_entries(*map(of, policies_answers()), namespace)} for of in (list, asked_again)
    )
    drawn = [name for name, entry in once.items() if entry.ci_low is not None]
    assert once.keys() == often.keys() and len(drawn) >= 15
    for name in drawn:
        a, b = once[name], often[name]
        assert a.n == b.n and (a.n == 40 or "judge" in name), name
        # The prior on the effect of length weighs less beside more comparisons. More text of the same is more alike: another value.
        near = 0.02 if "lc_win" in name else 1e-9
        if not name.startswith("self_bleu"):
            assert (a.value, a.ci_low, a.ci_high) == pytest.approx((b.value, b.ci_low, b.ci_high), abs=near), name


def of_five(rows):
    """The same answers to the same forty prompts, which begin with five questions alone."""
    return [replace(row, question=f"question {int(row.prompt_id[1:]) % 5}") for row in rows]


def test_forty_prompts_of_five_questions_are_five_draws(namespace, monkeypatch):
    """One fewer than an interval needs: whatever draws prompts has an interval here, and whatever counts them another n."""
    assert FEWEST == 6
    own, other = map(of_five, policies_answers())
    entries = [*policy_entries(own, other, namespace), self_bleu_entry(own), self_bleu_change(own, other, "sft")]
    monkeypatch.setattr(test_model, "score_answers", lambda model, rows, *rest: [r.proxy for r in rows])
    config = namespace(learner="ppo", evaluation=namespace(gold="rubric"))
    entries += test_model.judged(None, other, other, own, [], namespace(config=config, progress=None))[2]
    none = [e for e in entries if e.ci_low is not None]
    assert all(math.isnan(e.ci_low) and math.isnan(e.ci_high) for e in none), [e.metric for e in none]
    assert len(none) >= 20 and {e.n for e in none} == {5}
    assert {"self_bleu", "self_bleu_minus_sft", "test_model_minus_sft", "judge_win_rate_vs_sft"} <= {e.metric for e in none}


def test_the_distance_from_sft_draws_questions(make_base):
    asked = [Prompt(f"p{k}", (Message("user", f"question {k}"),)) for k in range(4)]
    rows = [replace(row, ids=row.ids[:2]) for row in policies_answers()[0] if row.prompt_id in {p.id for p in asked}]
    rows = [replace(row, question=f"question {int(row.prompt_id[1:]) % 2}") for row in rows]
    base = make_base(POLICY, REFERENCE)
    config = load_config(SMOKE, [])
    kl, clusters = kl_to_reference(base, POLICY, rows, asked, config)
    assert len(kl) == 4 and clusters == ["question 0", "question 1"] * 2


@pytest.mark.parametrize("by", ["rubric", None])
def test_a_round_is_judged_by_questions(tmp_path, namespace, monkeypatch, by):
    """Prompts of five questions show no gain, however many they are; of forty questions the same answers do."""
    monkeypatch.setattr(judges, "of_config", lambda settings: lambda prompt, first, second: FIRST if first >= second else SECOND)
    config = namespace(judged_by=by, judge=namespace(url="http://127.0.0.1:1/v1", prompts=40, model="m"))
    found = []
    for name, of in (("forty", list), ("five", of_five)):
        for side, rows in zip(("new", "old"), policies_answers(), strict=True):
            folder = tmp_path / name / side / "evaluation" / "ppo"
            folder.mkdir(parents=True)
            write_answers(folder / "answers.jsonl", of(rows))
        found.append(gain(tmp_path / name / "new", "ppo", tmp_path / name / "old", "ppo", config, track))
    forty, five = found
    assert (forty.questions, five.questions) == (40, 5) and forty.value == pytest.approx(five.value)
    assert math.isfinite(forty.low) and math.isnan(five.low) and math.isnan(five.high)


def test_an_answer_keeps_the_question_and_the_whole_conversation(make_base):
    """A rubric reads the last turn; a judge that does not know what was said before cannot tell which answer fits."""
    system, first, reply, last = (Message(*m) for m in [("system", "Be brief."), ("user", " q 1"), ("assistant", "So."), ("user", "q 2")])
    asked = [Prompt("one", (Message("user", "Q  1"),)), Prompt("two", (first, reply, last)), Prompt("own", (system, first))]
    config = load_config(SMOKE, ["evaluation.max_new_tokens=2"])

    def rows(config):
        return answer_prompts(make_base(), BASE, asked, config, samples=1, progress=track, label="")

    plain = rows(config)
    assert [r.cluster for r in plain] == ["q 1"] * 3 and [r.prompt_id for r in plain] == ["one", "two", "own"]
    assert [r.prompt for r in plain] == ["Q  1", "User:  q 1\n\nAssistant: So.\n\nUser: q 2", "System: Be brief.\n\nUser:  q 1"]
    told = rows(config.model_copy(update={"model": config.model.model_copy(update={"system_prompt": "Rhyme."})}))
    assert [r.prompt.split("\n")[0] for r in told] == ["System: Rhyme.", "System: Rhyme.", "System: Be brief."]


def test_answers_of_earlier_code_are_drawn_by_prompt(tmp_path):
    (row, *_), _ = policies_answers()
    write_answers(tmp_path / "now.jsonl", [row])
    assert read_answers(tmp_path / "now.jsonl") == [row] and row.cluster == "question 0"
    old = {k: v for k, v in json.loads((tmp_path / "now.jsonl").read_text()).items() if k != "question"}
    (tmp_path / "old.jsonl").write_text(json.dumps(old) + "\n")
    assert read_answers(tmp_path / "old.jsonl")[0].cluster == "p0"
