"""Numbers as the report writes them, and what its charts are drawn from."""

import itertools
import re

import pytest

from pipeline.evaluation.cards import Entry
from pipeline.report import axes, charts, curves, marks, wording


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0.0, "0.00"),
        (0.00123, "0.0012"),
        (0.0996, "0.100"),
        (0.123456, "0.123"),
        (0.996, "1.00"),
        (1.234, "1.23"),
        (-12.34, "−12.3"),
        (123.4, "123"),
        (1234.5, "1,234"),
    ],
)
def test_numbers_are_written_with_three_digits(value, said):
    assert wording.number(value) == said


def test_a_share_is_per_cent_and_a_difference_of_shares_percentage_points():
    assert wording.figure(Entry("eos_rate", 0.971, 1, unit="share")) == "97.1 %"
    assert wording.figure(Entry("eos_rate_minus_sft", 0.25, 1, unit="share")) == "+25.0 pp"
    assert wording.figure(Entry("eos_rate_minus_sft", -0.25, 1, unit="share")) == "−25.0 pp"


@pytest.mark.parametrize(
    ("seconds", "said"), [(None, "–"), (3.21, "3.2 s"), (59.4, "59 s"), (125, "2 min 05 s"), (3725, "1 h 02 min")]
)
def test_durations_are_written_in_the_unit_that_fits(seconds, said):
    assert wording.duration(seconds) == said


def test_the_rolling_mean_looks_back_only_and_skips_holes():
    nan = float("nan")
    assert curves.rolling_mean([1, 3, nan, 5], 2) == [1, 2, 3, 5]


def test_ticks_are_round_and_inside():
    assert axes.nice_ticks(0, 1) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    assert axes.nice_ticks(-0.31, 0.92) == [-0.25, 0, 0.25, 0.5, 0.75]
    assert axes.nice_ticks(3, 3) == [3]


@pytest.mark.parametrize("label_width", [84, 112, 138, 200])
@pytest.mark.parametrize("ends", [(0.08, 1.0), (0.4, 0.95), (-0.1, 0.02)])
def test_the_labels_of_an_axis_leave_room_between_each_other(label_width, ends):
    def show(x):
        return f"{100 * x:.0f} %"

    mark = marks.Mark("a", sum(ends) / 2, *ends)
    drawn = charts.interval_rows("t", [("a", [mark])], show=show, label_width=label_width)
    ticks = [(float(x), said) for x, said in re.findall(r'class="tick" x="([\d.]+)"[^>]*>([^<]+)<', drawn)]
    assert len(ticks) >= 2
    # Eleven pixels of type: a digit is about six wide. Half of either label lies between the two middles.
    for (left, first), (right, second) in itertools.pairwise(ticks):
        assert right - left - 6 * (len(first) + len(second)) / 2 >= 8, ticks


def test_labels_are_moved_apart_and_no_further():
    assert axes.spread([10, 50], 13) == [10, 50]
    close = axes.spread([10, 12], 13)
    assert close[1] - close[0] == 13


def test_a_hole_in_a_curve_is_a_hole():
    drawn = charts.line_chart("t", [marks.Line("a", [0, 1, 2, 3], [1, 2, float("nan"), 4])], x_name="x", show=str)
    assert drawn.count("<polyline") == 2
    assert charts.line_chart("t", [marks.Line("a", [0], [float("nan")])], x_name="x", show=str) == ""


def test_bars_stand_at_their_points_and_widen_the_axis():
    line = marks.Line("a", [0, 10], [1.0, 2.0], ends=[(0.0, 2.0), (-8.0, 12.0)])
    drawn = charts.line_chart("t", [line], x_name="x", show=str)
    bars = [dict(re.findall(r'([xy][12])="([^"]+)"', bar)) for bar in re.findall(r'<line class="bar[^>]+>', drawn)]
    assert len(bars) == 2 and bars[0]["x1"] == bars[0]["x2"] != bars[1]["x1"]
    lengths = [float(bar["y1"]) - float(bar["y2"]) for bar in bars]
    # Twenty units of the axis against two, read off the drawing.
    assert lengths[1] / lengths[0] == pytest.approx(10, rel=0.02)
