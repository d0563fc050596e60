"""The simulated people of benchmarks/loop.py vote as they say they do, and its page shows what came out."""

import json
import random
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from scipy.special import expit
from scipy.stats import binomtest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
import loop
from simulated import page
from simulated.raters import Lazy, Rater, choose, thumb
from simulated.voting import Crowd

N = 4000


def rate(draws, expected):
    """That the share of successes is what it should be, at a level of one in a million."""
    return binomtest(sum(draws), len(draws), expected).pvalue > 1e-6


@pytest.mark.parametrize(("left", "right"), [(5.0, 5.0), (4.2, 4.0), (3.0, 4.5), (6.0, 0.0)])
def test_a_reader_draws_by_bradley_terry_and_slips(left, right):
    rater, rng = Rater(spread=0.5, flips=0.1), random.Random(0)
    # Meant right and not slipped, or meant wrong and slipped.
    meant = expit((left - right) / 0.5)
    expected = meant * 0.9 + (1 - meant) * 0.1
    assert rater.chance_left(left, right) == pytest.approx(expected)
    assert rate([choose(rater, left, right, rng) == "left" for _ in range(N)], expected)


def test_however_clear_the_difference_a_reader_slips_at_the_stated_rate():
    rng = random.Random(1)
    assert rate([choose(Rater(flips=0.1), 6.0, 0.0, rng) == "right" for _ in range(N)], 0.1)
    assert Rater(flips=0.0).chance_left(1000.0, 0.0) == 1.0 and Rater(flips=0.0).chance_left(0.0, 1000.0) == 0.0


def test_a_readers_thumb_turns_at_the_threshold():
    rng, rater = random.Random(2), Rater(threshold=4.0)
    assert rater.chance_up(4.0) == 0.5
    assert rate([thumb(rater, 4.5, rng) == 1 for _ in range(N)], 0.1 + 0.8 * expit(1.0))


def test_the_lazy_one_presses_up_nine_times_in_ten_whatever_is_said():
    for points in (0.0, 6.0):
        rng = random.Random(3)
        assert rate([thumb(Lazy(), points, rng) == 1 for _ in range(N)], 0.9)
        assert rate([choose(Lazy(), points, 3.0, rng) == "left" for _ in range(N)], 0.5)


def test_people_take_turns_and_the_lazy_one_has_every_second_vote():
    names = [Crowd("pairs", seed=0, people=4).who(k)[0] for k in range(8)]
    assert names == [f"reader-{k % 4}" for k in range(8)]
    mixed = [Crowd("pairs", seed=0, people=4, lazy=True).who(k) for k in range(16)]
    assert [name for name, _ in mixed[1::2]] == ["lazy"] * 8 and all(isinstance(r, Lazy) for _, r in mixed[1::2])
    assert [name for name, _ in mixed[::2]] == [f"reader-{k % 4}" for k in range(8)]


def result(votes, gain, arm="offline", number=1, promoted=True):
    entry = lambda v, w=0.1: {"value": v, "ci_low": v - w, "ci_high": v + w}  # noqa: E731
    return {
        "name": f"{arm}-{votes}", "run": arm, "number": number, "votes": votes, "promoted": promoted, "settings": ["ppo.updates=20"],
        "counts": {"new_pairs": votes - 3, "new_lone_thumbs": 0}, "before": {**entry(0.71), "n": 9},
        "over_service": {"value": gain, "low": gain - 0.1, "high": gain + 0.1},
        "candidate": {"reward": {"clean_accuracy": entry(0.8)}, "ppo": {"gold": entry(5.0), "kl_to_reference": entry(2.0)}},
        "candidate_minus_start": entry(gain), "service_minus_start": entry(gain), "minutes_voting": 1.0, "minutes_round": 2.0,
        "variances": {"within": 1.0, "between": 0.5, "prompts": 9}, "minus_the_round": entry(0.1), "minus_service": entry(0.1),
    }  # fmt: skip


def test_the_page_shows_every_result_where_it_belongs():
    card = {"gold": {"value": 4.5, "ci_low": 4.4, "ci_high": 4.6}}
    results = {
        "start": {"cards": {"base": card, "sft": card, "ppo": card}, "config": "kto: {epochs: 2, learning_rate: 3e-4}"},
        "online-1": result(500, 0.02, "online"),
        "online-2": result(1000, 0.03, "online", 2, promoted=False),
        "online-3": result(1500, 0.4, "online", 3),
        "again-0-20-updates": result(0, 0.1),
        "again-1-20-updates": result(500, 0.2),
        "again-2-20-updates": result(1000, 0.3),
        "again-2-from-service": result(1000, 0.15),
        "offline-125": result(125, -0.05),
        "thumbs-500-offset": result(500, 0.11, "thumbs"),
        "thumbs-500-kto": result(500, 0.07, "thumbs"),
        "lazy-open": result(500, 0.01, "lazy"),
    }
    assert {name: [(x, y) for x, y, *_ in rows] for name, rows in page.points(results).items()} == {
        "short": [(500, 0.02), (1000, 0.03)],
        "online": [(1000, 0.3), (1500, 0.4)],
        # The first round's votes are votes on the first assistant.
        "offline": [(0, 0.1), (125, -0.05), (500, 0.2)],
        "thumbs-offset": [(500, 0.11)],
        "thumbs-kto": [(500, 0.07)],
    }
    lines = page.section(results).splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("|")]
    second = next(row for row in rows if row[0] == "2")
    assert second[:7] == ["2", "20", "1000", "997", "71% (61% to 81%)", "80% (70% to 90%)", "+0.03 (-0.07 to +0.13)"]
    assert second[8] == "no"
    firsts = [row[0] for row in rows]
    for words in ("start, `ppo.updates: 20`", "lone thumbs: KTO", "choices, half of them lazy, no cap"):
        assert any(words in first for first in firsts), words
    # Every row has as many cells as its table's head.
    for row, before in zip(rows[1:], rows, strict=False):
        assert len(row) == len(before) or set(rows[rows.index(row) + 1][0]) <= set("-:"), row
    # 1.96 √((0.5 + 2 · 1 / 2) / 60), by hand.
    assert "| 60 | 0.31 |" in page.section(results)
    drawn = ElementTree.fromstring(page.plot(results))
    marks = [e for e in drawn.iter() if e.tag.endswith(("circle", "polygon"))]
    # One a result and one a series in the legend.
    assert len(marks) == 9 + 5


def test_jobs_are_named_once_and_every_count_is_a_milestone_of_its_crowd():
    everything = loop.jobs()
    jobs = [j for j in everything if isinstance(j, loop.Job)]
    assert len({j.name for j in everything}) == len(everything)
    assert [(j.number, j.votes) for j in jobs if j.run == "online"] == [(n, 500 * n) for n in range(1, 6)]
    assert sorted(j.votes for j in jobs if j.name.startswith("offline")) == [n for n in loop.OFFLINE if n != loop.VOTES]
    assert all(j.crowd in loop.CROWDS for j in jobs)
    asked = set(loop.questions(1))
    rows = (loop.ROOT / "data" / "seed" / "heldout_prompts.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(asked) > 700 and not asked & {json.loads(row)["prompt"] for row in rows}
