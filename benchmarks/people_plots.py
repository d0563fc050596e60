"""The plots of docs/people.md, as SVG with the same bytes from the same results."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np

from benchmarks import people_page as page
from pipeline.evaluation.statistics import wilson, wins

matplotlib.use("svg")
matplotlib.rcParams |= {
    "svg.hashsalt": "thumbloop",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
from matplotlib import pyplot as plt  # noqa: E402

MODEL, BAG, LENGTH, PEOPLE = "#1b6ca8", "#b5651d", "#6b7280", "#2e7d32"


def draw(hh: dict, kinds: dict, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    scored = [pair for pair in hh["pairs"] if "margin" in pair]
    if scored and len(hh["model"]["fits"]) > 1:
        _save(calibration(scored), folder / "calibration.svg")
    _save(lengths(scored or hh["pairs"]), folder / "length.svg")
    _save(sets(kinds, scored or hh["pairs"]), folder / "sets.svg")


def calibration(pairs: list[dict], bins: int = 10):
    figure, axes = plt.subplots(figsize=(4.6, 4.2))
    axes.plot([0.5, 1], [0.5, 1], color="#bbbbbb", lw=1, label="perfect")
    raw = np.array([pair["margin"] for pair in pairs])
    for margins, colour, name in ((raw, BAG, "as trained"), (page.calibrated(pairs)[0], MODEL, "after temperature")):
        stated = 1 / (1 + np.exp(-np.abs(margins)))
        outcome = wins(margins, np.zeros(len(margins)))
        order = np.argsort(stated, kind="stable")
        xs, ys, low, high = [], [], [], []
        for part in np.array_split(order, bins):
            e = wilson(outcome[part].sum(), len(part))
            xs.append(stated[part].mean())
            ys.append(e.value)
            low.append(e.value - e.low)
            high.append(e.high - e.value)
        axes.errorbar(xs, ys, yerr=[low, high], fmt="o-", ms=4, lw=1, capsize=2, color=colour, label=name)
    axes.set(xlabel="stated probability of being right", ylabel="share right", title="HH harmless, out of fold")
    axes.legend(frameon=False, loc="upper left")
    return figure


def lengths(pairs: list[dict]):
    figure, axes = plt.subplots(figsize=(5.6, 3.4))
    parts = page.by_length(pairs)
    xs = [np.mean([page.length_ratio(pair) for pair in part]) for part in parts]
    for field, colour, name in (("margin", MODEL, "reward model"), ("bag", BAG, "bag of words")):
        if field not in pairs[0]:
            continue
        found = [page.share(page.right(part, field), part) for part in parts]
        _line(axes, xs, found, colour, name)
    axes.axhline(0.5, color="#bbbbbb", lw=1)
    axes.axvline(0, color="#bbbbbb", lw=1)
    axes.set(xlabel="ln(characters of the better / of the worse answer), mean of the fifth", ylabel="share right")
    axes.set_title("HH harmless by length difference")
    axes.legend(frameon=False)
    return figure


def sets(kinds: dict, hh: list[dict]):
    found = {"HH harmless, cross-validated": hh} | page.groups(kinds)
    figure, axes = plt.subplots(figsize=(7, 0.42 * len(found) + 1.2))
    places = np.arange(len(found))[::-1]
    for place, pairs in zip(places, found.values(), strict=True):
        kept = page.labelled(pairs)
        shown = [(0, page.right(kept, "bag"), BAG, "s"), (-0.18, page.length_rule(kept)[1], LENGTH, "|")]
        if "margin" in kept[0]:
            shown.append((0.18, page.right(kept), MODEL, "o"))
        for shift, values, colour, mark in shown:
            e = page.share(values, kept)
            spread = [[e.value - e.low], [e.high - e.value]]
            axes.errorbar(e.value, place + shift, xerr=spread, fmt=mark, ms=5, lw=1.2, color=colour)
        if said := page.annotators(pairs):
            axes.plot(said["people"].value, place, "D", ms=6, mfc="none", color=PEOPLE)
    for colour, mark, name in (
        (MODEL, "o", "reward model"),
        (BAG, "s", "bag of words"),
        (LENGTH, "|", "better length rule"),
        (PEOPLE, "D", "other annotators"),
    ):
        axes.plot([], [], mark, color=colour, mfc="none" if mark == "D" else colour, label=name)
    axes.axvline(0.5, color="#bbbbbb", lw=1)
    axes.set_yticks(places, list(found))
    axes.set(xlabel="share of pairs right, 95 % intervals over questions")
    axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=4)
    return figure


def _line(axes, xs, estimates, colour: str, name: str) -> None:
    ys = np.array([e.value for e in estimates])
    spread = [ys - [e.low for e in estimates], [e.high for e in estimates] - ys]
    axes.errorbar(xs, ys, yerr=spread, fmt="o-", ms=4, lw=1, capsize=2, color=colour, label=name)


def _save(figure, file: Path) -> None:
    figure.savefig(file, bbox_inches="tight", metadata={"Date": None}, facecolor="white")
    plt.close(figure)
