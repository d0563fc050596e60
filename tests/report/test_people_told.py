"""What people prefer, in both reports."""

import math

from made_up_run import ATTACK, Document, read

from pipeline.evaluation.standings import Pair, Standings
from pipeline.evaluation.standings_file import keep
from pipeline.evaluation.statistics import Estimate


def people_said(first="ppo", **changes):
    """30 votes in round figures; the second pair has too few conversations for an interval."""
    pairs = (
        Pair(first, "sft", 12, 6, 4, 2, Estimate(0.625, 0.45, 0.75), 0.2, 0.4, 5, 20, "conversations"),
        Pair(first, "base", 5, 1, 0, 0, Estimate(5 / 6, math.nan, math.nan), 0.2, 0.4, 3, 6, "conversations"),
    )
    places = (
        (
            (first, Estimate(80.0, 20.0, 140.0)),
            ("sft", Estimate(-10.0, -60.0, 40.0)),
            ("base", Estimate(-70.0, -130.0, -10.0)),
        ),
    )
    known = {
        "votes": 30, "people": 5, "conversations": 26, "pairs": pairs, "places": places, "unplaced": (),
        "first_side": Estimate(0.5, 0.32, 0.68), "decisive": 24, "agreement": None, "judged_twice": 0, "agreement_of": {},
        "left_out": {"taken back": 2, "skipped": 1},
    }  # fmt: skip
    return Standings(**{**known, **changes})


def test_what_people_prefer_is_there_once_it_was_counted(run):
    assert all("What people prefer" not in text for text in read(run))
    keep(run, people_said())
    markdown, html = read(run)
    part = markdown.split("## What people prefer")[1].split("\n## ")[0]
    assert "30 blind votes between 3 checkpoints, of 5 people in 26 conversations" in part
    assert "| ppo over sft | 62.5 % (45.0 % to 75.0 %) | 12 | 6 | 4 | 2 | 5 | p = 0.400 |" in part
    assert "| ppo over base | 83.3 % | 5 | 1 | 0 | 0 | 3 | p = 0.400 |" in part
    assert "| ppo | 80.0 (20.0 to 140) |" in part and "| base | −70.0 (−130 to −10.0) |" in part
    assert "50.0 % (32.0 % to 68.0 %) of 24 choices of a side" in part and "3 more choices are no such votes" in part
    said = Document(html).text
    assert "What people prefer" in said and "12 won, 6 lost" in said and "no interval" in said
    for title in ("Preferred", "Places"):
        assert html.count(f"<figcaption><b>{title}</b>") == 1
    assert read(run) == (markdown, html)
    keep(run, people_said(agreement=Estimate(0.75, 0.5, 0.9), judged_twice=8))
    assert all("Two people agreed in 75.0 % (50.0 % to 90.0 %) of 8 verdicts" in text for text in read(run))


def test_who_has_no_place_is_named_and_a_checkpoint_s_name_is_only_text(run):
    keep(run, people_said(ATTACK, places=(), unplaced=(f"between {ATTACK} and the others one side never lost",)))
    markdown, html = read(run)
    assert "No places: between" in markdown and "Places by Bradley-Terry" not in markdown
    assert "<script>alert" not in html and "<img" not in html and "<img" not in markdown
