"""How often a 95 % interval of `feedback standings` holds the truth, when votes of one person resemble each other.

    python benchmarks/standings_coverage.py           # writes benchmarks/results/standings_coverage.json
    python benchmarks/standings_coverage.py --table   # the table of docs/evaluation.md from it

A person's chance to prefer the one checkpoint is σ(θ + taste), taste ~ N(0, 0.8²) in nats, and each of their conversations has a leaning of
its own, N(0, 0.5²), with one to four votes in it. Of several people each has 1 to 2m − 1 conversations, m on average. θ is drawn anew each
time, N(0, 0.5²). The truth for people at large is the mean of that chance over tastes and leanings; for these people it is the mean over
leanings at their own tastes, each weighted by their votes.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "standings_coverage.json"
sys.path.insert(0, str(ROOT))

from pipeline.evaluation.statistics import cluster_bootstrap  # noqa: E402

TASTE, LEANING, SPREAD = 0.8, 0.5, 0.5
# People, and conversations of each (the mean of several).
CROWDS = ((1, 5), (1, 10), (1, 20), (2, 10), (5, 10), (10, 10), (20, 10), (40, 10))
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(40)
WEIGHTS = WEIGHTS / WEIGHTS.sum()


def mean_chance(centre: np.ndarray | float, sd: float) -> np.ndarray:
    """E σ(centre + sd z), z standard normal."""
    return (1 / (1 + np.exp(-(np.asarray(centre)[..., None] + sd * NODES)))) @ WEIGHTS


def vote(
    people: int, talks_each: int, rng: np.random.Generator
) -> tuple[list[float], list[int], list[tuple[int, int]], float, float]:
    """Outcomes with their people and conversations; the truth for people at large, and for these."""
    theta, taste = rng.normal(0, SPREAD), rng.normal(0, TASTE, people)
    outcomes, who, talks, own = [], [], [], []
    for person in range(people):
        truth = float(mean_chance(theta + taste[person], LEANING))
        for talk in range(talks_each if people == 1 else rng.integers(1, 2 * talks_each)):
            chance = 1 / (1 + math.exp(-(theta + taste[person] + rng.normal(0, LEANING))))
            for _ in range(rng.integers(1, 5)):
                outcomes.append(float(rng.random() < chance))
                who.append(person)
                talks.append((person, talk))
                own.append(truth)
    return outcomes, who, talks, float(mean_chance(theta, math.hypot(TASTE, LEANING))), float(np.mean(own))


def coverage(people: int, talks_each: int, repeats: int, draws: int, seed: int) -> dict:
    """Shares of intervals that hold the truth, by what they draw and whom they are to speak for."""
    rng = np.random.default_rng([seed, people, talks_each])
    held = {"people, people at large": 0, "conversations, people at large": 0, "conversations, these people": 0}
    for k in range(repeats):
        outcomes, who, talks, at_large, these = vote(people, talks_each, rng)
        found = {
            "people": cluster_bootstrap(outcomes, who, draws, seed=k),
            "conversations": cluster_bootstrap(outcomes, talks, draws, seed=k),
        }
        for name in held:
            unit, whom = name.split(", ")
            _, low, high = found[unit]
            held[name] += low <= (at_large if whom == "people at large" else these) <= high
    return {name: count / repeats for name, count in held.items()}


def table(results: dict) -> str:
    """The table of docs/evaluation.md."""
    columns = list(next(iter(results["coverage"].values())))
    lines = ["| people | conversations each | " + " | ".join(columns) + " |", "|---:|---:|" + "---:|" * len(columns)]
    for crowd, row in results["coverage"].items():
        people, talks = crowd.split(" x ")
        # One person alone gives no interval over people.
        cells = ["–" if people == "1" and name.startswith("people,") else f"{row[name]:.0%}" for name in columns]
        lines.append(f"| {people} | {talks} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="print the table from what was measured")
    parser.add_argument("--repeats", type=int, default=1000)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if given.table:
        print(table(json.loads(given.out.read_text(encoding="utf-8"))))
        return
    results = {"repeats": given.repeats, "draws": given.draws, "seed": given.seed, "coverage": {}}
    for people, talks in CROWDS:
        found = coverage(people, talks, given.repeats, given.draws, given.seed)
        results["coverage"][f"{people} x {talks}"] = found
        print(people, talks, found, flush=True)
    given.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(table(results))


if __name__ == "__main__":
    main()
