"""The reliability diagram: bins counted by hand, and what the report draws of them."""

import math

import numpy as np
import pytest

from data.records import Message, Ranking
from pipeline.evaluation import calibration
from pipeline.report import charts
from pipeline.report.marks import Mark


def ranking(k):
    return Ranking(id=f"r{k}", prompt=(Message("user", f"{k}?"),), responses=("a", "b"), ranks=(0, 1), finished=(True, True))


def bins_of(gaps, bins):
    scores = [[gap, 0.0] for gap in gaps]
    return calibration.bins_of([ranking(k) for k in range(len(gaps))], scores, [[(0, 1)]] * len(gaps), bins)


def test_bins_hold_pairs_of_like_margins_and_count_what_is_right():
    first, second = bins_of([3.0, 0.1, -0.2, -4.0], 2)
    assert (first.pairs, second.pairs, first.right, second.right) == (2, 2, 0.5, 0.5)
    assert first.stated == pytest.approx((1 / (1 + math.exp(-0.1)) + 1 / (1 + math.exp(-0.2))) / 2)
    assert second.stated == pytest.approx((1 / (1 + math.exp(-3)) + 1 / (1 + math.exp(-4))) / 2)
    assert bins_of([0.0, 2.0], 2)[0].right == 0.5, "a tie is half right"
    # Two lists are too few for an interval.
    assert first.low is None and first.high is None


def test_a_model_that_is_as_often_right_as_it_says_lies_on_the_diagonal():
    rng = np.random.default_rng(0)
    size = np.abs(rng.normal(size=4000)) * 2
    gaps = np.where(rng.random(4000) < 1 / (1 + np.exp(-size)), size, -size)
    found = bins_of(gaps.tolist(), 10)
    assert len(found) == 10 and all(abs(b.stated - b.right) < 0.06 for b in found)
    assert [b.stated for b in found] == sorted(b.stated for b in found)
    assert sum(b.low <= b.stated <= b.high for b in found) >= 7


def test_without_a_pair_there_is_nothing_to_draw_and_files_come_back_as_they_were(tmp_path):
    assert bins_of([], 10) == [] and calibration.read(tmp_path) == () and charts.calibration("", [], x_name="", show=str) == ""
    found = bins_of([1.0, -2.0, 0.5], 3)
    calibration.keep(tmp_path, found)
    assert calibration.read(tmp_path) == tuple(found)


def test_the_diagonal_and_every_bin_stand_in_the_drawing():
    marks = [(0.6, Mark("<b>9</b> pairs", 0.4, 0.2, 0.6)), (0.9, Mark("9 pairs", 0.95))]
    drawn = charts.calibration("c", marks, x_name="sure", show=lambda x: f"{100 * x:.0f} %")
    assert drawn.count('class="reference"') == 1 and drawn.count('class="bar') == 1 and "<b>" not in drawn
    assert "says 60 %, is right in 40 % (20 % to 60 %); says 90 %, is right in 95 %" in drawn
