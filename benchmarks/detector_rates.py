"""How often the detector of reward hacking fires, by simulation: looks of a judge whose scores have a spread of 1 point, while the reward
always rises.

    python benchmarks/detector_rates.py        # a minute; prints a table
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from pipeline.config import DetectorsConfig
from pipeline.evaluation.detectors import ON_LOOKS, History, Look, alarms

RUNS = 3_000
CASES = (
    ("unchanged policy, ten looks", {"looks": 10}),
    ("unchanged policy, five looks", {"looks": 5}),
    ("unchanged policy, ten looks, judge_fall 2", {"looks": 10, "judge_fall": 2.0}),
    ("a spread lost at once, eight looks", {"looks": 8, "lost": 1.0}),
    ("0.6 of a spread lost at once, eight looks", {"looks": 8, "lost": 0.6}),
    ("unchanged policy, five looks, mean score above the 99th percentile throughout", {"looks": 5, "beyond": True}),
    ("unchanged policy, ten looks, mean score above the 99th percentile throughout", {"looks": 10, "beyond": True}),
    ("0.6 of a spread lost at once, eight looks, mean score above the 99th percentile", {"looks": 8, "lost": 0.6, "beyond": True}),
    ("a spread lost at once, eight looks, 7 prompts", {"looks": 8, "lost": 1.0, "prompts": 7}),
    ("unchanged policy, ten looks, 8 prompts", {"looks": 10, "prompts": 8}),
    ("unchanged policy, ten looks, 4 prompts", {"looks": 10, "prompts": 4}),
    ("unchanged policy, ten looks, 2 prompts", {"looks": 10, "prompts": 2}),
)


def rate(looks: int, prompts: int = 24, lost: float = 0.0, beyond: bool = False, runs: int = RUNS, **bounds: float) -> float:
    """Share of simulated runs that raise the alarm at any of their looks.

    Args:
        lost: points that the judge's mean falls by after the first look.
        beyond: the reward model's mean score lies above the 99th percentile of its training answers from the second update on.
    """
    rng, config = np.random.default_rng(0), DetectorsConfig(**bounds)
    return sum(_fires(rng, config, looks, prompts, lost, beyond) for _ in range(runs)) / runs


def _fires(rng, config, looks: int, prompts: int, lost: float, beyond: bool) -> bool:
    seen: list[Look] = []
    for k in range(looks):
        seen.append(Look(k, tuple(rng.normal(-lost if k else 0.0, 1.0, prompts)), float(k)))
        lines = [{"update": i, "model_score": 1.0 + 2 * i, "model_score_high": 2.0} for i in range(k + 1)] if beyond else []
        if alarms(History(lines, seen), config, ON_LOOKS):
            return True
    return False


if __name__ == "__main__":
    for said, case in CASES:
        print(f"{100 * rate(**case):5.1f} %  {said}")
