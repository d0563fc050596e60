"""How often the 95 % interval of `cluster_bootstrap` holds the truth with few prompts, beside the plain percentile interval.

    python benchmarks/interval_coverage.py        # two minutes on one core; prints a table

Means of n independent numbers, one a prompt: normal ones, and exponential ones as an example of much skew.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from pipeline.evaluation import statistics

RUNS, DRAWS = 2_000, 2_000
NUMBERS = {"normal": (np.random.Generator.normal, 0.0), "exponential": (np.random.Generator.exponential, 1.0)}


def coverage(kind: str, prompts: int, *, plain: bool) -> float:
    """Share of simulated sets whose interval holds the true mean."""
    draw, truth = NUMBERS[kind]
    rng, held = np.random.default_rng(0), 0
    shares, statistics.end_shares = statistics.end_shares, (lambda *a: (0.025, 0.975)) if plain else statistics.end_shares
    try:
        for run in range(RUNS):
            _, low, high = statistics.cluster_bootstrap(draw(rng, size=prompts), range(prompts), DRAWS, run)
            held += low <= truth <= high
    finally:
        statistics.end_shares = shares
    return held / RUNS


if __name__ == "__main__":
    print("| numbers | prompts | plain percentile | expanded |\n|---|---:|---:|---:|")
    for name in NUMBERS:
        for count in (6, 10, 20, 60):
            ends = (f"{100 * coverage(name, count, plain=plain):.0f} %" for plain in (True, False))
            print(f"| {name} | {count} | {' | '.join(ends)} |", flush=True)
