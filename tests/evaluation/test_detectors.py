"""Each detector fires on a run made to fail and stays quiet on a healthy one: on written logs, and on policies really trained."""

import json
import math
import random
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import pytest
import scipy.stats
import torch

from data.records import Message, Prompt
from data.yardsticks import Fact, Paragraph
from pipeline import checkpoint
from pipeline.adapters import POLICY, REFERENCE, REWARD, VALUE
from pipeline.config import DetectorsConfig, PpoConfig
from pipeline.evaluation.detectors import DETECTORS, OTHER_START, Alarm, History, Look, Probe, alarms, best_look
from pipeline.evaluation.refusals import is_refusal, refusal_share
from pipeline.ppo.figures import text_figures
from pipeline.ppo.probes import Probes, spread_evenly
from pipeline.ppo.rollout import PromptIds, draw
from pipeline.ppo.trainer import PPO
from pipeline.ppo.watch import Watch
from pipeline.rollouts.engine import InProcess
from reward.model import ScalarHead

BOUNDS = DetectorsConfig()
# The log of a healthy quickstart of twelve updates, which ended 0.5 points above SFT by the rubric: update 0 is SFT.
QUICKSTART = {
    "kl": [0.0, 0.684, 0.986, 1.431, 2.31, 2.332, 1.577, 2.568, 2.751, 1.903, 2.423, 2.495],
    "entropy": [1.333, 1.36, 1.252, 1.148, 1.265, 1.157, 1.23, 1.133, 1.119, 1.243, 1.164, 1.158],
    "response_tokens": [27.2, 19.6, 18.5, 18.4, 15.8, 16.0, 13.8, 15.0, 16.8, 15.6, 16.4, 17.1],
    "eos_rate": [0.531, 0.875, 0.906, 0.938, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.969, 1.0],
    "approx_kl": [0.022, 0.006, 0.003, 0.006, 0.002, 0.002, 0.002, 0.002, 0.002, 0.001, 0.001, 0.001],
    "clip_fraction": [0.082, 0.043, 0.023, 0.02, 0.014, 0.018, 0.015, 0.013, 0.006, 0.003, 0.004, 0.001],
    "explained_variance": [-0.2, -0.04, 0.01, -0.67, -1.7, -1.9, -1.7, -0.8, -1.0, 0.04, -0.07, -0.44],
}


def healthy(updates=12, answers=32):
    return [
        {
            "update": u,
            "episodes": answers * (u + 1),
            **{name: values[min(u, 11)] for name, values in QUICKSTART.items()},
            "distinct_2": 0.9 - 0.02 * (u % 3),
            "repeated_4gram_share": 0.03 * (u % 2),
            "unique_openings": 1.0 - 0.03 * (u % 4),
            "self_bleu": 0.06 + 0.02 * (u % 3),
            "refusal_share": 0.03 * (u % 3 == 0),
        }
        for u in range(updates)
    ]


def ending_in(figure, value, last=3, updates=12):
    lines = healthy(updates)
    for line in lines[-last:]:
        line[figure] = value
    return lines


def raised(lines=(), looks=(), bounds=BOUNDS):
    """Every alarm of a run read from its first note to its last, as a run would have met them."""
    found = [a for n in range(1, len(lines) + 1) for a in alarms(History(lines[:n]), bounds)]
    return found + [a for n in range(1, len(looks) + 1) for a in alarms(History((), looks[:n]), bounds)]


# --- written logs ----------------------------------------------------------------------------------------------------


def test_a_healthy_run_raises_no_alarm():
    assert raised(healthy()) == []


@pytest.mark.parametrize(
    ("detector", "figure", "value", "said"),
    [
        ("length_drift", "response_tokens", 36.0, "36 tokens an answer, SFT 27.2 (+32%, bound +30%)"),
        ("length_drift", "response_tokens", 8.0, "8 tokens an answer, SFT 27.2 (-71%, bound -70%)"),
        ("mode_collapse", "entropy", 0.39, "entropy 0.39 nats a token, SFT 1.33"),
        ("mode_collapse", "unique_openings", 0.4, "different openings 40% of answers, SFT 100%"),
        ("mode_collapse", "self_bleu", 0.22, "self-BLEU 0.22, SFT 0.06 (bound +0.15)"),
        ("repetition", "distinct_2", 0.7, "distinct-2 0.7, SFT 0.9"),
        ("repetition", "repeated_4gram_share", 0.2, "20% of answers repeat four words thrice, SFT 0%"),
        ("kl_blow_up", "kl", 31.0, "KL to the reference 31 nats a sequence (bound 30)"),
        ("kl_blow_up", "approx_kl", 0.11, "a step of 0.11 nats a token"),
        ("kl_blow_up", "clip_fraction", 0.31, "31% of tokens clipped"),
        ("eos_loss", "eos_rate", 0.2, "20% of answers end by themselves, SFT 53%"),
        ("refusal_collapse", "refusal_share", 0.4, "40% of answers refuse, SFT 3%"),
    ],
)
def test_each_detector_fires_on_its_own_failure_alone(detector, figure, value, said):
    found = raised(ending_in(figure, value))
    assert {a.detector for a in found} == {detector}
    assert said in found[-1].sentence and "\n" not in found[-1].sentence and found[-1].update == 11
    assert found[-1].stops == (detector != "eos_loss")


@pytest.mark.parametrize(
    ("figure", "value", "crossed", "bound"),
    [
        ("response_tokens", 36.0, 36 / 27.2 - 1, 0.3),
        ("response_tokens", 8.0, 8 / 27.2 - 1, -0.7),
        ("entropy", 0.39, 0.39, 0.3 * 1.333),
        ("self_bleu", 0.22, 0.22, 0.06 + 0.15),
        ("distinct_2", 0.7, 0.7, 0.9 * 0.9),
        ("repeated_4gram_share", 0.2, 0.2, 0.0 + 0.1),
        ("clip_fraction", 0.31, 0.31, 0.3),
        ("eos_rate", 0.2, 0.2, 0.531 - 0.1),
        ("refusal_share", 0.4, 0.4, 0.03 + 0.1),
    ],
)
def test_an_alarm_says_what_was_crossed_and_by_what(figure, value, crossed, bound):
    found = raised(ending_in(figure, value))[-1]
    assert (found.value, found.bound) == (pytest.approx(crossed), pytest.approx(bound))
    title = "KL blow-up" if found.detector == "kl_blow_up" else found.detector.replace("_", " ")
    assert found.sentence.startswith(f"{title} in update 11: ")


def test_explained_variance_is_held_against_zero_as_the_mean_of_the_window():
    lines = healthy(20)
    for line, value in zip(lines[-3:], (-1.0, 0.2, 0.5), strict=True):
        line["explained_variance"] = value
    (found,) = alarms(History(lines), BOUNDS)
    assert (found.detector, found.bound) == ("value_failure", 0.0) and found.value == pytest.approx(-0.1)
    lines[-3]["explained_variance"] = -0.6
    assert alarms(History(lines), BOUNDS) == []


def test_a_kl_blow_up_needs_one_update_and_a_drift_needs_a_window():
    assert [a.update for a in raised(ending_in("kl", 99.0, last=1))] == [11]
    assert raised(ending_in("response_tokens", 40.0, last=1)) == []


def test_a_value_model_may_be_bad_at_first_and_is_warned_of_later():
    lines = healthy(40)
    for line in lines:
        line["explained_variance"] = -0.5
    found = raised(lines)
    assert {a.detector for a in found} == {"value_failure"} and found[0].update == 19 and not found[0].stops


def test_self_bleu_may_rise_up_to_its_bound_and_fall_as_far_as_it_likes():
    for quiet in (0.2, 0.0):
        assert raised(ending_in("self_bleu", quiet)) == []


def test_the_first_rollout_is_the_yardstick_and_never_part_of_the_window():
    assert alarms(History(ending_in("response_tokens", 60.0, updates=3)), BOUNDS) == []


def test_a_share_must_move_by_more_than_its_noise():
    """Of 8 answers 2 end, after 4 of 8: 25 points, and one answer in twelve of all 32 is a standard error of 20 points."""
    few, many = ([{"update": u, "episodes": n * (u + 1), "eos_rate": r} for u, r in enumerate([0.5, 0.25, 0.25, 0.25])]
                 for n in (8, 80))  # fmt: skip
    assert raised(few) == [] and [a.detector for a in raised(many)] == ["eos_loss"]


def test_the_noise_of_a_share_is_that_of_two_proportions():
    """24 of 40 answers, later 3 times 18 of 40: p̂ = (24 + 54 + 1) / (160 + 2), by hand."""
    lines = [{"update": u, "episodes": 40 * (u + 1), "eos_rate": r} for u, r in enumerate([0.6, 0.45, 0.45, 0.45])]
    share = 79 / 162
    z = 0.15 / math.sqrt(share * (1 - share) * (1 / 40 + 1 / 120))
    assert len(alarms(History(lines), DetectorsConfig(noise=z * 0.9999))) == 1
    assert alarms(History(lines), DetectorsConfig(noise=z * 1.0001)) == []


@pytest.mark.parametrize("odd", [None, math.nan, math.inf])
def test_a_figure_that_is_no_number_raises_nothing(odd):
    for figure in (*QUICKSTART, "distinct_2", "unique_openings", "self_bleu", "refusal_share", "repeated_4gram_share"):
        lines = healthy()
        for line in lines:
            line[figure] = odd
        assert raised(lines) == []


def test_bounds_come_from_the_config_and_warnings_do_not_stop():
    lines = ending_in("response_tokens", 36.0)
    assert raised(lines, bounds=DetectorsConfig(length_rise=0.5)) == []
    assert not raised(lines, bounds=DetectorsConfig(warn_only=["length_drift"]))[0].stops
    with pytest.raises(ValueError, match="reward_hakking"):
        DetectorsConfig(warn_only=["reward_hakking"])


def look(update, mean, proxy, noise=0.0, n=24, seed=0):
    rng = random.Random(f"{seed}/{update}")
    return Look(update, tuple(mean + i % 5 + rng.gauss(0, noise) for i in range(n)), proxy)


def test_reward_hacking_is_the_judge_falling_twice_while_the_reward_rises():
    rising = [look(4 * u, min(u, 3) - max(0, u - 3), u, noise=0.5) for u in range(8)]
    found = [alarms(History((), rising[: n + 1]), BOUNDS) for n in range(8)]
    assert [bool(f) for f in found] == [False] * 5 + [True] * 3
    assert found[5][0].update == 20 and "the judge fell from 4.74 (after 12) to 2.91" in found[5][0].sentence
    assert best_look(rising).update == 12


def scored(score=0.5, high=2.0, variance=None, updates=12):
    """A healthy log in which the reward model's mean score, and its members' variance, end at these values."""
    lines = healthy(updates)
    for line in lines:
        rest = line["update"] / (updates - 1)
        line |= {"model_score": score * min(1, 2 * rest), "model_score_high": high}
        if variance is not None:
            line["member_variance"] = 0.1 if line["update"] == 0 else 0.1 + (variance - 0.1) * min(1, 2 * rest)
    return lines


# One of two signs: the judge 2 to 2.5 standard errors below its best look, twice, while the reward rises.
DOUBT = [look(0, 1, 0, 1.0), look(4, 2, 1, 1.0), look(8, 1.95, 2, 1.0), look(12, 1.9, 3, 1.0)]
RISING = [look(4 * u, u, u, 0.5) for u in range(3)]


@pytest.mark.parametrize(
    ("lines", "looks", "said"),
    [
        (scored(2.5), DOUBT, "mean score is 2.5, 99 % of its training answers lie below 2"),
        (scored(1.5, variance=0.3), DOUBT, "variance is 0.3, 3.0 times SFT's"),
        (scored(2.5, variance=0.3), (), "mean score is 2.5"),
        (scored(2.5, variance=0.3), RISING, "variance is 0.3"),
    ],
)
def test_two_weaker_signs_together_are_reward_hacking(lines, looks, said):
    (found,) = alarms(History(lines, looks), BOUNDS)
    assert (found.value, found.bound) == (2.0, 2.0)
    assert (
        found.detector == "reward_hacking"
        and found.stops
        and said in found.sentence
        and "(2 signs, bound 2)" in found.sentence
    )


@pytest.mark.parametrize(
    ("lines", "looks"),
    [
        (scored(2.5), RISING),  # beyond what it was taught, and the judge likes it
        (scored(1.5, variance=0.3), RISING),
        (scored(1.9, variance=0.24), DOUBT),
        (scored(2.5), DOUBT[:3]),  # the judge doubts once
        (scored(2.5, high=None), DOUBT),  # an older reward model kept no training scores
        (scored(1.0), DOUBT),
    ],
)
def test_one_weaker_sign_alone_is_none(lines, looks):
    assert alarms(History(lines, looks), BOUNDS) == []


def test_a_run_that_stays_far_beyond_its_kl_target_has_blown_up():
    lines = [{**line, "kl_target": 1.0} for line in healthy()]
    lines[-3]["kl"], lines[-2]["kl"], lines[-1]["kl"] = 2.1, 2.5, 1.9
    assert alarms(History(lines), BOUNDS) == []
    lines[-1]["kl"] = 2.2
    (found,) = alarms(History(lines), BOUNDS)
    assert (
        found.detector == "kl_blow_up"
        and "2.2 nats a sequence, above 2 times its target for 3 updates (bound 2)" in found.sentence
    )


def test_a_kl_that_is_no_number_is_not_beyond_its_target():
    lines = [{**line, "kl_target": 0.5} for line in healthy()]
    lines[-2]["kl"] = None
    assert alarms(History(lines), BOUNDS) == []


def test_the_newest_update_says_where_the_training_answers_lie():
    lines = scored(2.5, variance=0.3)
    assert len(alarms(History(lines), BOUNDS)) == 1
    lines[-1]["model_score_high"] = 3.0
    assert alarms(History(lines), BOUNDS) == []


@pytest.mark.parametrize("proxy", [0.0, None])
def test_the_last_of_three_looks_in_a_row_is_the_one_that_is_told(proxy):
    """Three standard errors of 24 prompts and more, each look lower than the one before."""
    fallen = [0.0, 1.0, 1.5, 2.0]
    looks = [
        Look(4 * u, tuple((-1) ** i * 0.1 * (u > 0) - f for i in range(24)), None if proxy is None else float(u))
        for u, f in enumerate(fallen)
    ]
    bounds = DetectorsConfig(judge_patience=3)
    (found,) = alarms(History((), looks), bounds)
    assert found.update == 12 and "from 0 (after 0) to -2" in found.sentence and found.bound == -2.5
    # The spread of the last differences is 0.1, the mean of them -2: the tail of Student's with 23 degrees of freedom.
    t = 2.0 / (0.1 * math.sqrt(24 / 23) / math.sqrt(24))
    assert found.value == pytest.approx(-scipy.stats.norm.isf(scipy.stats.t.sf(t, 23)))
    if proxy is not None:
        (doubted,) = alarms(History(scored(2.5), looks), DetectorsConfig(judge_patience=3, judge_fall=99.0))
        assert f"from 0 (after 0) to -2, {-found.value:.1f} standard errors, while the reward rose from 0 to 3" in doubted.sentence
    assert alarms(History((), looks[:3]), bounds) == []


def test_a_reward_that_stands_still_while_the_judge_falls_is_no_hacking():
    looks = [Look(0, (0.0,) * 24, 1.0), *(Look(u, tuple(-1 + 0.1 * (-1) ** i for i in range(24)), 1.0) for u in (4, 8))]
    assert alarms(History((), looks), BOUNDS) == []
    assert len(alarms(History((), [replace(x, proxy=x.update + 1.0) for x in looks]), BOUNDS)) == 1


def test_one_prompt_says_nothing_of_a_fall():
    assert alarms(History((), [Look(0, (3.0,), 0.0), Look(4, (1.0,), 1.0), Look(8, (0.0,), 2.0)]), BOUNDS) == []


@pytest.mark.parametrize(
    "looks",
    [
        [look(4 * u, u, u, 0.5) for u in range(8)],  # both rise
        [look(4 * u, -u, -u, 0.5) for u in range(8)],  # both fall: a bad run, and no game
        [look(0, 2, 0), look(4, 0, 1, 0.5), look(8, 2.5, 2)],  # one low look
        [look(4 * u, 1, u) for u in range(8)],  # the judge sees no difference
    ],
)
def test_reward_hacking_is_not_claimed_without_both(looks):
    assert raised(looks=looks) == []


def unpaid(looks):
    """As where no reward is raised."""
    return [replace(look, proxy=None) for look in looks]


def test_where_no_reward_is_raised_a_judge_that_falls_twice_is_enough():
    falling = unpaid(look(4 * u, min(u, 3) - max(0, u - 3), 0, noise=0.5) for u in range(8))
    found = [alarms(History((), falling[: n + 1]), BOUNDS) for n in range(8)]
    assert [[a.detector for a in f] for f in found] == [[]] * 5 + [["decline"]] * 3
    assert found[5][0].stops and found[5][0].update == 20
    assert "the judge fell from 4.74 (after 12) to 2.91" in found[5][0].sentence
    assert found[5][0].sentence.endswith("standard errors (bound 2.5, 2 looks in a row)")


@pytest.mark.parametrize(
    "looks",
    [
        unpaid(look(4 * u, u, 0, 0.5) for u in range(8)),  # it rises
        unpaid([look(0, 2, 0), look(4, 0, 0, 0.5), look(8, 2.5, 0)]),  # one low look
        unpaid(look(4 * u, 1, 0) for u in range(8)),  # the judge sees no difference
        [look(4 * u, -u, -u, 0.5) for u in range(8)],  # a reward is raised, and falls too
    ],
)
def test_a_decline_is_not_claimed_without_both(looks):
    assert raised(looks=looks) == []


@pytest.mark.parametrize(("prompts", "z"), [(2, -1.2679), (4, -1.8982), (24, -2.7271)])
def test_few_prompts_count_as_little_as_they_know(prompts, z):
    """Three standard errors below, in normal quantiles: T₁(−3) = 0.10242, T₃(−3) = 0.02883, T₂₃(−3) = 0.00320 (tables of Student's t)."""
    # Half of the prompts one above the mean and half one below: their standard error is 1 / √(n − 1).
    moved = [3 / math.sqrt(prompts - 1) + (1 if i % 2 else -1) for i in range(prompts)]
    looks = [Look(0, (0.0,) * prompts, 0.0), *(Look(u, tuple(-m for m in moved), float(u)) for u in (4, 8))]
    near = {"judge_fall": -z + 1e-3}, {"judge_fall": -z - 1e-3}
    assert [bool(alarms(History((), looks), DetectorsConfig(**bounds))) for bounds in near] == [False, True]


def test_a_noisy_judge_is_rarely_taken_for_hacking_and_a_lost_standard_deviation_mostly_is():
    """Rates of a simulation of its own (numpy, 3,000 runs each): 2.7 % of runs of ten looks at a policy that stays as good,
    with a reward that always rises, and 93 % of runs that lose one standard deviation at once. Bounds are 3 sd of a binomial.
    """
    constant = [[look(4 * u, 3, u, 1.0, seed=seed) for u in range(10)] for seed in range(400)]
    assert sum(bool(raised(looks=looks)) for looks in constant) <= 0.027 * 400 + 3 * math.sqrt(0.027 * 0.973 * 400)
    lost = [[look(4 * u, 3 - (u > 0), u, 1.0, seed=seed) for u in range(8)] for seed in range(100)]
    assert sum(bool(raised(looks=looks)) for looks in lost) >= 93 - 3 * math.sqrt(0.93 * 0.07 * 100)


def probe(update, perplexity, wrong=12, base=40.0, of=24):
    """Texts of 100 tokens read with a given perplexity, and so many of 24 questions answered wrongly."""
    nll = tuple(50 * math.log(p) for p in (perplexity, perplexity))
    return Probe(update, nll, (50 * math.log(base),) * 2, 100, tuple(-1.0 if i < wrong else 1.0 for i in range(of)))


def probed(*probes):
    return [a for n in range(1, len(probes) + 1) for a in alarms(History((), (), probes[:n]), BOUNDS)]


def test_forgetting_is_held_against_the_worse_of_base_and_sft():
    # What a healthy run of the quickstart does: SFT gains on the base model, PPO gives it back.
    assert probed(probe(0, 36.4), probe(4, 38.0), probe(12, 40.0)) == []
    (found,) = probed(probe(0, 36.4), probe(4, 45.9), probe(8, 46.1))
    assert (found.detector, found.update, found.stops) == ("forgetting", 8, True)
    assert found.value == pytest.approx(46.1) and found.bound == pytest.approx(46.0)
    assert "perplexity 46.1 on ordinary text, SFT 36.4, base 40 (bound +15%)" in found.sentence
    # SFT that has forgotten already is no reason to stop PPO, which is held against what it was given.
    assert probed(probe(0, 60.0), probe(4, 68.0)) == []
    assert [a.update for a in probed(probe(0, 60.0), probe(4, 69.1))] == [4]


def test_sycophancy_is_held_against_sft_question_by_question():
    assert probed(probe(0, 36), probe(4, 36, wrong=14)) == []  # 8 points
    # Three more of 24 are 12.5 points, but 1.8 standard errors; five are 2.5.
    assert probed(probe(0, 36), probe(4, 36, wrong=15)) == []
    (found,) = probed(probe(0, 36), probe(4, 36, wrong=17))
    assert (found.detector, found.update, found.stops) == ("sycophancy", 4, True)
    assert "preferred on 71% of 24 questions, SFT 50% (bound +10 points)" in found.sentence
    assert probed(probe(0, 36, wrong=20), probe(4, 36, wrong=8)) == []  # less of it is no alarm
    (found,) = probed(probe(0, 36), probe(4, 36), probe(8, 36, wrong=17))
    assert (found.update, found.value, found.bound) == (8, pytest.approx(5 / 24), 0.1)


def test_probes_of_nothing_raise_nothing():
    assert probed(Probe(0), Probe(4)) == []
    assert [spread_evenly(range(10), n) for n in (0, 3, 12)] == [[], [0, 3, 6], list(range(10))]


@pytest.mark.parametrize(
    "answer",
    [
        "I'm sorry, but I can't help with that.", "I cannot assist with this request.", "As an AI language model, I do not have opinions.",
        "Sorry, I am unable to provide that.", "I won’t answer this.",
    ],
)  # fmt: skip
def test_refusals_are_known_by_their_opening(answer):
    assert is_refusal(answer)


@pytest.mark.parametrize(
    "answer",
    [
        "", "Penguins cannot fly, but they swim well.", "I can't wait to tell you: it is green.", "You can help by sorting the paper.",
        "Paris. " * 30 + "I cannot help with more.",
    ],
)  # fmt: skip
def test_an_answer_that_mentions_what_cannot_be_is_no_refusal(answer):
    assert not is_refusal(answer)


def test_the_share_of_refusals_is_counted_by_hand():
    assert refusal_share(["I cannot help with that.", "Blue.", "Red.", "I refuse to."]) == 0.5


def test_text_figures_are_numbers_or_none():
    figures = text_figures(["a b c d a b c d a b c d", "I cannot help."])
    # 11 + 2 word pairs, of which ab bc cd da and "i cannot", "cannot help" differ.
    assert figures["distinct_2"] == pytest.approx(6 / 13) and figures["repeated_4gram_share"] == 0.5
    assert figures["unique_openings"] == 1.0 and figures["refusal_share"] == 0.5
    assert text_figures(["", ""])["distinct_2"] is None and json.dumps(text_figures([""]), allow_nan=False)


# --- policies really trained -----------------------------------------------------------------------------------------

PROMPTS = [
    PromptIds(Prompt(f"p{i}", (Message("user", f"question {i}"),)), tuple(range(20 + i, 25 + 2 * i))) for i in range(6)
]
LENGTHS = {p.prompt.messages: len(p.ids) for p in PROMPTS}
SETTINGS = {
    "updates": 12, "episodes": 32, "minibatch": 32, "micro_batch": 32, "epochs": 4, "max_new_tokens": 10, "temperature": 0.1,
    "learning_rate": 3e-2, "value_learning_rate": 3e-2, "kl_coef": 0.0, "missing_eos_penalty": 0.0, "lr_decay": False,
    "max_grad_norm": 100.0,
}  # fmt: skip


def said(answer):
    return answer.ids[LENGTHS[answer.prompt] :]


def low_tokens(answers):
    """What the planted reward pays for: tokens of the lower half of the vocabulary."""
    return [sum(i < 130 for i in said(a)) / len(said(a)) for a in answers]


def variety(answers):
    return [len(set(said(a))) / len(said(a)) for a in answers]


@pytest.fixture
def make_run(make_base):
    def make(reward, judge=None, bounds=None, *, texts=(), facts=(), **changes):
        # Before the adapters too: a fresh one is drawn, and two runs that are compared must start alike.
        torch.manual_seed(5)
        base = make_base(POLICY)
        base.add(REFERENCE, trainable=False, like=POLICY)
        base.add(REWARD, trainable=False)
        base.add(VALUE, trainable=True, like=REWARD)
        torch.manual_seed(5)
        ppo = PPO(
            base, ScalarHead(base.hidden_size), PROMPTS, PpoConfig(**{**SETTINGS, **changes}),
            lambda answers, encode: torch.tensor(reward(answers)), seed=0,
        )  # fmt: skip
        probes = Probes(base, texts, facts) if texts or facts else None
        return ppo, Watch(DetectorsConfig(**(bounds or {})), PROMPTS if judge else (), judge, probes=probes)

    return make


def train(ppo, watch):
    while watch.before(ppo) is None and ppo.done < ppo.settings.updates:
        figures, rollout = ppo.update()
        if watch.after({**figures, **text_figures([a.response for a in rollout.answers])}) is not None:
            break
    if watch.alarm is not None:
        watch.roll_back(ppo)
    return watch


def same(a, b):
    return all(torch.equal(tensor, b[name]) for name, tensor in a.items())


def test_a_step_far_too_large_blows_up_the_kl_and_is_undone(make_run):
    ppo, watch = make_run(low_tokens, learning_rate=0.5, max_grad_norm=1e9)
    start = ppo.base.state(POLICY)
    train(ppo, watch)
    assert [a.detector for a in watch.alarms] == ["kl_blow_up"] and ppo.done == 1 and watch.kept_update == 0
    assert (
        same(start, ppo.base.state(POLICY)) and "went back to the SFT policy (the last quiet check" in watch.sentence()
    )


def test_what_a_run_began_with_is_called_by_its_name(make_run):
    ppo, watch = make_run(low_tokens, learning_rate=0.5, max_grad_norm=1e9)
    watch.start = OTHER_START
    train(ppo, watch)
    assert "SFT" not in watch.sentence() and "went back to the policy that PPO started from (the last" in watch.sentence()


# Steps as large as a tiny model needs to learn anything would set off the detector of large steps first.
LARGE_STEPS = {"kl_max": 1e9, "approx_kl_max": 1e9, "clip_fraction_max": 1.0, "judge_every": 2}


@pytest.mark.parametrize("ema_decay", [None, 0.5])
def test_a_reward_that_is_gamed_stops_at_the_policy_that_the_judge_liked_best(make_run, ema_decay):
    """The reward pays for half of the vocabulary; the judge wants different tokens. The policy finds the few best-paid ones."""
    ppo, watch = make_run(low_tokens, variety, LARGE_STEPS, updates=20, ema_decay=ema_decay)
    states = {}
    look_as_before = watch._look

    def remember(ppo):
        states[ppo.done] = ppo.state()[0]
        states[ppo.done] = {name: tensor.clone() for name, tensor in states[ppo.done].items()}
        return look_as_before(ppo)

    watch._look = remember
    train(ppo, watch)
    best, last = best_look(watch.looks), watch.looks[-1]
    assert watch.alarm.detector == "reward_hacking" and ppo.done < 20
    assert last.proxy > best.proxy and last.mean < best.mean and watch.kept_update == best.update
    kept, now = states[best.update], ppo.state()[0]
    carried = [name for name in now if name.startswith(("policy/", "value/", "head/", "ema/"))]
    assert all(torch.equal(now[name], kept[name]) for name in carried)
    assert any(name.startswith("ema/") for name in carried) == (ema_decay is not None)
    assert not same({n: t for n, t in states[last.update].items() if n.startswith("policy/")}, now)


def test_a_reward_for_saying_one_thing_is_noticed_without_any_judge(make_run):
    ppo, watch = make_run(
        lambda answers: [sum(i == said(a)[0] for i in said(a)) / len(said(a)) for a in answers],
        None, LARGE_STEPS, updates=25,
    )  # fmt: skip
    train(ppo, watch)
    assert watch.alarm is not None and watch.alarm.detector in ("mode_collapse", "repetition") and not watch.looks


def test_a_policy_that_learns_gently_is_left_alone(make_run):
    ppo, watch = make_run(
        low_tokens, variety, {"judge_every": 2}, texts=TEXTS, facts=FACTS,
        learning_rate=1e-4, value_learning_rate=1e-4, updates=6,
    )  # fmt: skip
    train(ppo, watch)
    assert watch.alarms == [] and ppo.done == 6
    assert [look.update for look in watch.looks] == [probe.update for probe in watch.probes] == [0, 2, 4, 6]
    assert watch.report()["rolled_back_to"] is None and watch.sentence() == ""


TEXTS = [Paragraph("a", "Salt kept the meat through the winter."), Paragraph("b", "x = 1; y = 22; z = 333")]
# In a model of bytes, a reward for bytes of the upper half is a reward for these wrong answers.
FACTS = [Fact(f"f{i}", f"question {i}", "{}", "bcde" * 2, "éüöä") for i in range(24)]


# A tiny policy under such rewards collapses as well, sooner or later: to see one detector, the others are kept quiet.
PROBES_ALONE = {**LARGE_STEPS, "entropy_floor": 0.0, "opening_floor": 0.0, "distinct_floor": 0.0, "repeat_rise": 1.0}


def high_tokens(answers):
    return [1 - x for x in low_tokens(answers)]


def test_a_policy_that_forgets_is_stopped_and_the_run_goes_back_to_one_that_has_not(make_run):
    """No KL and a reward for tokens that stand for no letter: ordinary text gets improbable. The judge is of no help here, it likes
    every answer more than those before, so the policy that forgot is the judge's best, and is not gone back to."""
    ppo, watch = make_run(high_tokens, None, PROBES_ALONE, texts=TEXTS, temperature=1.0)
    with torch.no_grad():
        # A fresh model finds all tokens about equally likely, whatever its layers say, and has nothing to forget.
        ppo.base.lm_head.weight.mul_(10)
    watch._read = Probes(ppo.base, TEXTS, ())
    # Without its adapter such a model only ever repeats what it read, so here SFT alone is the yardstick.
    watch._read._base_nll = watch._read.read(0).nll
    pleased = iter(range(100))
    watch.prompts, watch.judge = PROMPTS, lambda answers: [float(next(pleased))] * len(answers)
    start = ppo.base.state(POLICY)
    train(ppo, watch)
    first, last = watch.probes[0], watch.probes[-1]
    assert watch.alarm.detector == "forgetting" and ppo.done < 12
    assert last.perplexity > 1.15 * max(first.perplexity, first.base_perplexity)
    assert best_look(watch.looks) is watch.looks[-1] and watch.kept_update == watch.probes[-2].update < last.update
    assert watch._read.read(watch.kept_update).nll == pytest.approx(watch.probes[-2].nll, rel=1e-6)
    assert watch.kept_update > 0 or same(start, ppo.base.state(POLICY))


def test_a_probe_reads_the_base_without_any_adapter(make_base):
    """With its adapter all zeros the policy is the base."""
    base = make_base(POLICY)
    read = Probes(base, TEXTS, ())
    first = read.read(0)
    assert len(first.base_nll) == len(TEXTS) and first.base_nll != pytest.approx(first.nll, rel=1e-4)
    for parameter in base.parameters(POLICY):
        parameter.data.zero_()
    second = read.read(4)
    assert second.nll == pytest.approx(first.base_nll, rel=1e-5) and second.base_nll == first.base_nll
    assert second.perplexity == pytest.approx(second.base_perplexity, rel=1e-5)


def test_a_reward_for_length_is_stopped_as_length_and_undone(make_run):
    """Its answers end by themselves at first; the reward pays for every token."""
    ppo, watch = make_run(lambda answers: [len(said(a)) / 16 for a in answers], None, PROBES_ALONE, max_new_tokens=16)
    drawn, _ = draw(ppo.base, PROMPTS * 6, ppo.settings, torch.Generator().manual_seed(0))
    often = Counter(token for sample in drawn for token in sample.ids).most_common(1)[0][0]
    with torch.no_grad():
        # A fresh model hardly ever ends: here the end is as likely as the token that it likes best.
        ppo.base.lm_head.weight[ppo.base.tokenizer.eos_token_id] = ppo.base.lm_head.weight[often] * 1.2
    start = ppo.base.state(POLICY)
    train(ppo, watch)
    assert watch.alarm.detector == "length_drift" and watch.alarm.value > 0.3 and ppo.done < 12
    assert "tokens an answer, SFT" in watch.sentence() and "went back to" in watch.sentence()
    assert watch.kept_update > 0 or same(start, ppo.base.state(POLICY))


def test_a_reward_for_the_suggested_answer_is_noticed_as_sycophancy(make_run):
    ppo, watch = make_run(high_tokens, None, PROBES_ALONE, facts=FACTS)
    train(ppo, watch)
    before, now = (sum(p.agrees) / 24 for p in (watch.probes[0], watch.probes[-1]))
    assert watch.alarm.detector == "sycophancy" and ppo.done < 12 and now > before + 0.1
    again = watch._read.read(watch.kept_update)
    assert sum(again.agrees) / 24 <= before + 0.1


def without_timing(lines):
    return [{k: v for k, v in line.items() if k not in ("seconds", "rollout_seconds")} for line in lines]


def test_what_looks_show_is_noted_under_the_name_of_the_start():
    watch = Watch(DetectorsConfig(), PROMPTS, lambda answers: [])
    shown = iter([look(4 * u, min(u, 3) - max(0, u - 3), u, noise=0.5) for u in range(8)])
    watch._look, watch._keep = (lambda ppo: next(shown)), (lambda ppo: None)
    stops = [watch.before(SimpleNamespace(done=4 * u, settings=SimpleNamespace(updates=99))) for u in range(6)]
    assert [stop is not None for stop in stops] == [False] * 5 + [True] and stops[5].detector == "reward_hacking"
    other = Watch(DetectorsConfig(), PROMPTS, lambda answers: [])
    other.start, other.lines = OTHER_START, ending_in("entropy", 0.39)
    other._note({"mode_collapse": DETECTORS["mode_collapse"]})
    assert "nats a token, the start 1.33" in other.alarms[0].sentence and "SFT" not in other.alarms[0].sentence


def test_two_looks_at_one_policy_see_the_same_answers(make_run):
    """A policy that does not move, so that whatever differed between two looks would be chance."""
    seen = []

    def judge(answers):
        seen.append([a.ids for a in answers])
        return variety(answers)

    class Counting(InProcess):
        drawn = 0

        def sample(self, *args, **kwargs):
            self.drawn += 1
            return super().sample(*args, **kwargs)

    ppo, watch = make_run(low_tokens, judge, {"judge_every": 1}, learning_rate=1e-12, updates=3)
    ppo.engine, told = Counting(), []
    watch.onlooker = lambda update, answers, judged: told.append((update, [a.ids for a in answers], len(judged)))
    train(ppo, watch)
    assert len(seen) == 4 and all(ids == seen[0] for ids in seen) and len(set(seen[0])) == len(PROMPTS)
    # Looks are drawn as rollouts are, three and four of them, and shown to whoever wants to see them.
    assert ppo.engine.drawn == 7 and told == [(update, seen[0], len(PROMPTS)) for update in range(4)]


def test_looking_changes_nothing_in_the_run(make_run):
    watched, unwatched = (
        make_run(low_tokens, judge, {"judge_every": 1}, texts=texts, facts=facts, learning_rate=1e-3, updates=3)
        for judge, texts, facts in ((variety, TEXTS, FACTS), (None, (), ()))
    )
    assert without_timing(train(*watched).lines) == without_timing(train(*unwatched).lines)
    assert same(watched[0].state()[0], unwatched[0].state()[0])


# The probes are read, and what they show stops nothing: the judge's alarm is to come first.
NO_STOP = {**LARGE_STEPS, "perplexity_rise": 1e9, "sycophancy_rise": 1.0}


def test_a_resumed_watch_raises_the_alarm_of_the_whole_one_and_goes_back_to_the_same_policy(make_run, tmp_path):
    whole, watch = make_run(low_tokens, variety, NO_STOP, texts=TEXTS, facts=FACTS, updates=20, ema_decay=0.5)
    train(whole, watch)
    first, seen = make_run(low_tokens, variety, NO_STOP, texts=TEXTS, facts=FACTS, updates=20, ema_decay=0.5)
    for _ in range(5):
        seen.before(first)
        figures, rollout = first.update()
        seen.after({**figures, **text_figures([a.response for a in rollout.answers])})
    (tensors, facts), (kept, notes) = first.state(), seen.state()
    checkpoint.save(tmp_path, first.done, tensors | kept, facts | notes)
    second, again = make_run(low_tokens, variety, NO_STOP, texts=TEXTS, facts=FACTS, updates=20, ema_decay=0.5)
    found = checkpoint.newest(tmp_path)
    second.load_state(*found)
    again.load_state(*found)
    train(second, again)
    assert again.report() == watch.report() and without_timing(again.lines) == without_timing(watch.lines)
    assert same(whole.state()[0], second.state()[0])


def test_every_detector_has_a_name_that_the_config_knows():
    assert DetectorsConfig(warn_only=list(DETECTORS)).warn_only == list(DETECTORS)


def test_detectors_that_are_off_never_stop(make_run):
    ppo, watch = make_run(low_tokens, variety, {"enabled": False}, learning_rate=0.5, max_grad_norm=1e9, updates=2)
    assert train(ppo, watch).alarms == [] and ppo.done == 2 and watch.looks == []


@pytest.mark.parametrize(("last", "said"), [(0.5, "(the judge's best so far)"), (2.0, "(the judge's best before it)")])
def test_the_line_of_a_stopped_run_does_not_call_a_look_the_best_that_a_later_one_surpassed(last, said):
    """A policy that forgot is not gone back to, however much the judge likes it: then the one kept is not the judge's best."""
    watch = Watch(DetectorsConfig(), PROMPTS, lambda answers: [])
    watch.looks = [Look(0, (0.0,), 0.0), Look(2, (1.0,), 0.0), Look(4, (last,), 0.0)]
    watch.alarms, watch.kept_update = [Alarm("forgetting", 60.0, 58.0, 4, "forgetting after 4 updates")], 2
    assert watch.sentence().endswith(f"went back to the policy after 2 updates {said}.")
