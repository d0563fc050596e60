"""The part of docs/overoptimisation.md on PPO: what benchmarks/overoptimise_ppo.py has measured. It measures nothing itself."""

from __future__ import annotations

import json
from statistics import fmean

import numpy as np

from benchmarks.best_of_n import Floats
from benchmarks.overoptimise_ppo import RESULTS, ROOT
from pipeline.evaluation.statistics import Estimate, cluster_bootstrap, paired_difference

FOLDER = ROOT / "docs" / "overoptimisation"


def section() -> list[str]:
    """Markdown lines; where nothing is measured yet, they say so."""
    title = ["## PPO", "", "    python benchmarks/overoptimise_ppo.py --run runs/seed-0", ""]
    if not RESULTS.exists():
        return [*title, "Not measured yet.", ""]
    runs = json.loads(RESULTS.read_text(encoding="utf-8"))
    draw({name: run["curve"]["looks"] for name, run in runs.items()})
    return [*title, *table(runs), "![PPO](overoptimisation/ppo.svg)", ""]


def table(runs: dict) -> list[str]:
    first = next(iter(runs.values()))["curve"]["looks"][0]["gold"]
    lines = [
        f"Gold is the rubric's score of answers to {len(first)} prompts that PPO does not ask; intervals are over these prompts.",
        "",
        "| run | SFT | best look | last look | last − best | reward, SFT to last | α | β | stopped |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---|",
    ]
    for name, run in runs.items():
        looks, said = run["curve"]["looks"], run["curve"]["said"]
        start, last = looks[0], looks[-1]
        best = max(looks, key=lambda look: fmean(look["gold"]))
        prompts = range(len(first))
        alpha, beta = fit(*distances_and_gains(looks))
        cells = [
            show(cluster_bootstrap(start["gold"], prompts)),
            *(f"{show(cluster_bootstrap(k['gold'], prompts))} after {k['update']}{at_kl(k)}" for k in (best, last)),
            show(paired_difference(last["gold"], best["gold"], prompts)) if last is not best else "–",
            f"{start['proxy']:.2f} to {last['proxy']:.2f}".replace("-", "−"),
            *(f"{x:.2f}".replace("-", "−") if x == x else "–" for x in (alpha, beta)),
            said or f"no; {alarms(run['curve']['alarms'])}",
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return [
        *lines,
        "",
        "α and β fit gold gained = d (α − β ln d), d = √KL, by least squares over the looks (Gao et al. 2022, the form for RL). The best look is "
        "chosen with sight of the scores, so “last − best” is below 0 by chance too.",
        "",
    ]


def alarms(raised: list[dict]) -> str:
    """Each detector with the first update at which it would have stopped the run or did warn."""
    first: dict[str, int] = {}
    for alarm in raised:
        first.setdefault(alarm["detector"], alarm["update"])
    return ", ".join(f"{name} at {update}" for name, update in first.items()) or "no alarm"


def at_kl(look: dict) -> str:
    return "" if look["kl"] is None else f", {look['kl']:.1f} nats"


def distances_and_gains(looks: list[dict]) -> tuple[Floats, Floats]:
    """d = √KL and the gold above SFT's of every look after the start whose KL is known and above 0."""
    start = fmean(looks[0]["gold"])
    known = [look for look in looks[1:] if look["kl"] is not None and look["kl"] > 0]
    return np.sqrt([look["kl"] for look in known]), np.array([fmean(look["gold"]) - start for look in known])


def fit(d: Floats, gain: Floats) -> tuple[float, float]:
    """(α, β) of gain = d (α − β ln d) by least squares (Gao et al. 2022, the form for RL). For β > 0 it peaks at d = exp(α/β − 1)."""
    if len(d) < 2:
        return float("nan"), float("nan")
    (alpha, minus_beta), *_ = np.linalg.lstsq(np.stack([d, d * np.log(d)], axis=1), gain, rcond=None)
    return float(alpha), float(-minus_beta)


def show(e: Estimate) -> str:
    return f"{e.value:.2f} ({e.low:.2f} to {e.high:.2f})".replace("-", "−")


def draw(curves: dict[str, list[dict]]) -> None:
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams |= {"svg.hashsalt": "thumbloop", "font.size": 9}
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(11, 3.6))
    for (name, looks), colour in zip(curves.items(), plt.cm.tab10.colors, strict=False):
        known = [look for look in looks if look["kl"] is not None]
        d = np.sqrt([max(0.0, look["kl"]) for look in known])
        for axis, values in zip(axes, ([fmean(k["gold"]) for k in known], [k["proxy"] for k in known]), strict=True):
            axis.plot(d, values, "-o", ms=3, color=colour, label=name)
    for axis, title in zip(axes, ("gold, points", "reward model's score"), strict=True):
        axis.set(xlabel="√KL to SFT, √nats", title=title)
    axes[1].legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    FOLDER.mkdir(exist_ok=True)
    figure.savefig(FOLDER / "ppo.svg", bbox_inches="tight", metadata={"Date": None}, facecolor="white")
    plt.close(figure)
