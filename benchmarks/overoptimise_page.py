"""Writes docs/overoptimisation.md and its plots from what benchmarks/overoptimise.py and overoptimise_ppo.py have measured."""

from __future__ import annotations

import json

import numpy as np
import torch

from benchmarks import overoptimise_ppo_page as ppo
from benchmarks.best_of_n import SIZES, curve, distances, fit_with_intervals
from benchmarks.overoptimise import ENSEMBLE_AT, MEMBERS, PAIRS, RESULTS, ROOT
from pipeline.evaluation.statistics import Estimate, best_of_n_kl, cluster_bootstrap
from reward.ensemble import combine_ensemble
from reward.scale import Scale

DOCS = ROOT / "docs"


def main() -> None:
    notes = DOCS / "overoptimisation-notes.md"
    text = notes.read_text(encoding="utf-8") if notes.exists() else "# Overoptimisation in small"
    head, _, tail = text.partition("\n---\n")
    parts = [head.strip(), ""]
    parts += [
        "## Best of n",
        "",
        *(f"    python benchmarks/overoptimise.py {c}" for c in ("pool --run runs/seed-0", "proxies --cache DIR")),
        "",
    ]
    if RESULTS.exists():
        found = json.loads(RESULTS.read_text(encoding="utf-8"))
        gold = np.array(found["gold"])
        choosers = named_choosers(found["proxies"])
        parts += table(choosers, gold)
        draw(choosers, gold)
    else:
        parts += ["Not measured yet.", ""]
    parts += [*ppo.section(), tail.strip()]
    (DOCS / "overoptimisation.md").write_text("\n".join(parts).rstrip() + "\n", encoding="utf-8")


def named_choosers(proxies: list[dict]) -> dict[str, np.ndarray]:
    """(prompts, answers) scores by name: every proxy, and the ensembles of those that differ in their seed alone."""
    # Where the wrong labels' seed is not told, it is the proxy's own.
    scaled = {
        (p["pairs"], p["flips"], p["seed"], p.get("noise", p["seed"])): in_own_scale(p["scores"]) for p in proxies
    }
    found = {f"{n} pairs, {other(f, seed, noise)}{label(f)}": s for (n, f, seed, noise), s in sorted(scaled.items())}
    for flips in sorted({f for _, f, _, _ in scaled}):
        for kind, noise_of in (("own labels" if flips else "", lambda seed: seed), ("same labels", lambda seed: 0)):
            members = [
                s for (n, f, seed, noise), s in scaled.items() if (n, f, noise) == (ENSEMBLE_AT, flips, noise_of(seed))
            ]
            if len(members) != MEMBERS:
                continue
            for how in ("mean", "worst"):
                # Neither way of joining asks for `coef`.
                joined = combine_ensemble(torch.tensor(np.stack([m.ravel() for m in members])), how=how, coef=0.0)
                name = f"{how} of {MEMBERS} at {ENSEMBLE_AT}{kind and f' ({kind})'}, {label(flips)}"
                found[name] = joined.numpy().reshape(members[0].shape)
    return found


def other(flips: float, seed: int, noise: int) -> str:
    """What tells a proxy from the first one of its size."""
    if not seed:
        return ""
    return f"seed {seed}, " + ("" if not flips else "same labels, " if noise != seed else "own labels, ")


def in_own_scale(scores: list[list[float]]) -> np.ndarray:
    """Mean 0 and spread 1 over the whole pool, so that members can be averaged."""
    raw = torch.tensor(scores, dtype=torch.float64)
    return Scale.of(raw.flatten())(raw).numpy()


def label(flips: float) -> str:
    return "clean" if not flips else f"{flips:.0%} flipped"


def gains(chooser: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """(prompts, n) above an answer at random to the same prompt."""
    found = curve(chooser, counted)
    return found - found[:, :1]


def table(choosers: dict[str, np.ndarray], gold: np.ndarray) -> list[str]:
    d = distances()
    shown = (4, 16, 64)
    lines = [
        f"{gold.shape[0]} prompts, {gold.shape[1]} answers each; gold of one answer at random "
        f"{show(cluster_bootstrap(gold.mean(1), range(len(gold))))}. Gold gained by best of n, in points of the rubric:",
        "",
        f"| chosen by | {' | '.join(f'n = {n}' for n in shown)} | α | β | right about pairs of a prompt |",
        "|---|" + "---:|" * (len(shown) + 3),
    ]
    for name, chooser in ({"the rubric itself": gold} | choosers).items():
        g = gains(chooser, gold)
        cells = [show(cluster_bootstrap(g[:, SIZES.index(n)], range(len(g)))) for n in shown]
        ab = fit_with_intervals(g, d)
        right = cluster_bootstrap([agreement(c, k) for c, k in zip(chooser, gold, strict=True)], range(len(gold)))
        cells += [show(Estimate(*ab["alpha"])), show(Estimate(*ab["beta"])), f"{100 * right.value:.1f} %"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    kls = ", ".join(f"{best_of_n_kl(n):.2f} at n = {n}" for n in shown)
    return [
        *lines,
        "",
        f"KL to the SFT policy, ln n − (n−1)/n: {kls} nats.",
        "",
        "![best of n](overoptimisation/best_of_n.svg)",
        "",
    ]


def agreement(chooser: np.ndarray, gold: np.ndarray) -> float:
    """Share of pairs of one prompt's answers, those that the rubric tells apart, in the rubric's order; ties a half."""
    above = gold[:, None] - gold[None, :] > 1e-9
    if not above.any():
        return 0.5
    difference = (chooser[:, None] - chooser[None, :])[above]
    return float(((difference > 0) + 0.5 * (difference == 0)).mean())


def show(e: Estimate) -> str:
    return f"{e.value:.2f} ({e.low:.2f} to {e.high:.2f})".replace("-", "−")


def draw(choosers: dict[str, np.ndarray], gold: np.ndarray) -> None:
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams |= {"svg.hashsalt": "thumbloop", "font.size": 9}
    from matplotlib import pyplot as plt

    d = distances()
    families = ("clean", "25% flipped")
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.8), sharey=True)
    ensembles = {"mean": "#d95f02", "worst": "#b3261e"}
    for axis, family in zip(axes, families, strict=True):
        # The other seeds stand in the table.
        named = {n: c for n, c in choosers.items() if n.endswith(family) and ", seed " not in n}
        # Darker is more pairs.
        shades = iter(plt.cm.Blues(np.linspace(0.35, 1.0, len(PAIRS))))
        for name, chooser in named.items():
            several = " of " in name
            colour = ensembles[name.split()[0]] if several else next(shades)
            dashed = ":" if "same" in name else "--" if several else "-"
            axis.plot(d, gains(chooser, gold).mean(0), dashed, marker="o", ms=3, color=colour, label=name.split(",")[0])
        axis.plot(d, gains(gold, gold).mean(0), ":", color="#777777", label="the rubric itself")
        axis.set(xlabel="√KL of best-of-n, √nats", title=family)
    axes[0].set_ylabel("gold gained, points")
    axes[1].legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    folder = DOCS / "overoptimisation"
    folder.mkdir(exist_ok=True)
    figure.savefig(folder / "best_of_n.svg", bbox_inches="tight", metadata={"Date": None}, facecolor="white")
    plt.close(figure)
