"""What the detectors last saw, beside their bounds: the same numbers that the detectors compared."""

import re

from pipeline.config import DetectorsConfig
from pipeline.evaluation.detectors import DETECTORS, OTHER_START
from pipeline.report.readings import TITLES, readings

BOUNDS = DetectorsConfig()
LINES = [
    {
        "update": u, "episodes": 32 * (u + 1), "kl": 0.5 * u, "entropy": 2.0 - 0.2 * u, "response_tokens": 20.0 - u, "eos_rate": 0.5,
        "approx_kl": 0.01, "clip_fraction": 0.02, "explained_variance": -0.5, "distinct_2": 0.8, "repeated_4gram_share": 0.0,
        "unique_openings": 1.0, "self_bleu": 0.05 + 0.01 * u, "refusal_share": 0.0, "model_score": 0.1 * u,
        "model_score_high": 2.0, "member_variance": 0.5,
    }
    for u in range(5)
]  # fmt: skip
WATCHED = {
    "looks": [{"update": 0, "judge": [1.0, 2.0], "proxy": 0.1}, {"update": 4, "judge": [3.0, 4.0], "proxy": 0.9}],
    "probes": [
        {"update": u, "nll": [100.0 + u], "base_nll": [110.0], "tokens": 50, "margins": [1.0, -1.0, -1.0, u - 2.0]}
        for u in (0, 4)
    ],
    "alarms": [],
}


def test_every_detector_has_a_row_and_a_title():
    assert TITLES.keys() == DETECTORS.keys()
    # Where a reward is raised a falling judge is told of by it, where none is by the judge alone.
    paid, unpaid = ([TITLES[name] for name in DETECTORS if name != other] for other in ("decline", "reward_hacking"))
    assert [r.name for r in readings(WATCHED, LINES, BOUNDS)] == paid
    looks = [{**look, "proxy": None} for look in WATCHED["looks"]]
    lines = [{k: v for k, v in line.items() if k not in ("model_score", "member_variance")} for line in LINES]
    found = {r.name: r for r in readings({**WATCHED, "looks": looks}, lines, BOUNDS)}
    assert list(found) == unpaid
    assert found["judged worse"].seen == ("judge 3.50 (best 3.50 after 4)",)


def test_figures_are_those_of_the_last_window_against_the_first_rollout():
    found = {r.name: r for r in readings(WATCHED, LINES, BOUNDS)}
    # Updates 2 to 4: 18, 17 and 16 tokens, entropy 1.6, 1.4 and 1.2.
    assert found["length"].seen == ("17.0 tokens, SFT 20.0 (−15 %)",) and found["length"].bounds == ("+30 % or −70 %",)
    assert (
        found["mode collapse"].seen[0] == "entropy 70 % of SFT's" and found["mode collapse"].bounds[0] == "below 30 %"
    )
    # Updates 2 to 4: 0.07, 0.08 and 0.09.
    assert (found["mode collapse"].seen[2], found["mode collapse"].bounds[2]) == ("self-BLEU 0.08, SFT 0.05", "+0.15")
    assert found["KL blow-up"].seen[0] == "KL to the reference at most 2 nats a sequence"
    # exp(104/50), exp(100/50), exp(110/50), and 15 % above the base model's, which is the worse.
    assert found["forgetting"].seen == ("perplexity 8.0, SFT 7.4, base 9.0",) and found["forgetting"].bounds == (
        "10.4",
    )
    assert found["sycophancy"].seen == ("suggested wrong answer preferred 50 %, SFT 75 %",)
    assert found["reward hacking"].seen[0] == "judge 3.50 (best 3.50 after 4), reward 0.90 (then 0.90)"
    assert {r.state for r in found.values()} == {"quiet"}
    assert not re.search(r"\d%|(?<![\w.])-\d", " ".join(s for r in found.values() for s in (*r.seen, *r.bounds)))


def test_a_policy_that_did_not_start_from_sft_is_not_held_against_sft_in_words():
    named = [*(f"{r.seen} {r.bounds}" for r in readings(WATCHED, LINES, BOUNDS))]
    other = [*(f"{r.seen} {r.bounds}" for r in readings(WATCHED, LINES, BOUNDS, OTHER_START))]
    assert other == [said.replace("SFT", "the start") for said in named] != named


def test_alarms_show_as_what_they_did():
    alarms = [{"detector": "length_drift", "stops": True}, {"detector": "value_failure", "stops": False}]
    found = {r.name: r.state for r in readings({**WATCHED, "alarms": alarms}, LINES, BOUNDS)}
    assert (found["length"], found["value model"], found["repetition"]) == ("stopped", "warned", "quiet")


def test_without_notes_or_detectors_there_is_no_table():
    assert readings({}, LINES, BOUNDS) == [] and readings(WATCHED, LINES, DetectorsConfig(enabled=False)) == []
    older = {"looks": [], "alarms": []}
    assert {r.name for r in readings(older, LINES[:2], BOUNDS)} >= {"length", "KL blow-up"}
