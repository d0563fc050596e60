"""The quickstart on several seeds, each a run of its own, and the table of what came out.

    python benchmarks/seeds.py --seeds 0 1 2            # runs what is not done yet, then writes docs/results.md
    python benchmarks/seeds.py --seeds 0 1 2 --table    # only writes the table from finished runs

The seeds are named before the runs, and every one of them is in the table, whatever it shows.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONFIG = "configs/quickstart.yaml"
STEPS = (
    "stages/prepare",
    "evaluation/base",
    "stages/sft",
    "evaluation/sft",
    "stages/reward",
    "evaluation/reward",
    "stages/ppo",
    "evaluation/ppo",
)
PARTS = ("finished", "concise", "relevant", "direct", "varied", "plain")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--table", action="store_true", help="only write the table")
    arguments = parser.parse_args()
    if not arguments.table:
        for seed in arguments.seeds:
            # A missed gate (status 3) is a result too, and stands in the table.
            subprocess.run(
                [sys.executable, "run_pipeline.py", "run", "--config", CONFIG, "--run", f"seed-{seed}", f"seed={seed}"],
                cwd=ROOT,
                check=False,
            )
    text = table(arguments.seeds)
    (ROOT / "docs" / "results.md").write_text(text, encoding="utf-8")
    print(text)


def table(seeds: list[int]) -> str:
    runs = {seed: ROOT / "runs" / f"seed-{seed}" for seed in seeds}
    cards = {seed: {s: card(path, s) for s in ("base", "sft", "reward", "ppo")} for seed, path in runs.items()}
    rows = [
        ("gold score of base", "base", "gold"),
        ("gold score of SFT", "sft", "gold"),
        ("gold score of PPO", "ppo", "gold"),
        ("**PPO minus SFT**", "ppo", "gold_minus_sft"),
        ("best of 2 SFT answers, same reward model", "ppo", "best_of_2_gold"),
        ("**PPO minus best of 2**", "ppo", "gold_minus_best_of_2"),
        ("win rate against SFT, by the rubric", "ppo", "win_rate_vs_sft"),
        ("KL to the reference, nats a sequence", "ppo", "kl_to_reference"),
        ("KL before the first step", "ppo", "kl_at_start"),
        ("distinct-2, PPO over SFT", "ppo", "distinct_2_ratio"),
        ("answers that end, base", "base", "eos_rate"),
        ("answers that end, SFT", "sft", "eos_rate"),
        ("answers that end, PPO", "ppo", "eos_rate"),
        ("tokens an answer, SFT", "sft", "answer_tokens"),
        ("tokens an answer, PPO", "ppo", "answer_tokens"),
        ("reward model: clean pairs, unseen topics", "reward", "clean_accuracy"),
        ("reward model: noisy pairs, unseen questions", "reward", "observed_accuracy"),
        ("rule “the shorter answer”, same clean pairs", "reward", "length_rule_accuracy"),
        ("reward model: own against another prompt's best answer", "reward", "wrong_prompt_accuracy"),
        ("loss on unseen demonstrations, SFT minus base", "sft", "heldout_nll_change"),
    ]
    head = "| | " + " | ".join(f"seed {s}" for s in seeds) + " |\n|---|" + "---:|" * len(seeds)
    lines = [
        f"| {label} | " + " | ".join(cell(cards[s][stage], metric) for s in seeds) + " |"
        for label, stage, metric in rows
    ]
    parts = [
        f"| {p} | " + " | ".join(cell(cards[s]["ppo"], f"gold_{p}_minus_sft") for s in seeds) + " |" for p in PARTS
    ]
    reward_parts = [
        f"| {p} | " + " | ".join(cell(cards[s]["reward"], f"clean_accuracy_{p}") for s in seeds) + " |" for p in PARTS
    ]
    costs = []
    for step in STEPS:
        found = [manifest(runs[s], step) for s in seeds]
        costs.append(
            f"| {step.split('/')[1] if step.startswith('stages') else 'evaluate ' + step.split('/')[1]} | "
            + " | ".join(f"{m['seconds']:.0f}" if m else "–" for m in found)
            + " |"
        )
    totals = []
    for s in seeds:
        found = [m for m in (manifest(runs[s], step) for step in STEPS) if m]
        totals.append((sum(m["seconds"] for m in found), max((m["peak_memory_bytes"] for m in found), default=0) / 1e9))
    costs.append("| **together** | " + " | ".join(f"**{t:.0f}**" for t, _ in totals) + " |")
    costs.append("| peak memory, GB | " + " | ".join(f"{g:.2f}" for _, g in totals) + " |")
    commits = sorted(
        {m["commit"][:12] for s in seeds for step in STEPS if (m := manifest(runs[s], step)) and m.get("commit")}
    )
    return "\n".join(
        [
            "# Results",
            "",
            "What was measured, with the command that repeats it. Intervals are 95 %, resampling prompts; the gold score is the rubric of",
            "`reward/rubric.py`, from 0 to 6, on held-out topics.",
            "",
            "## The quickstart on named seeds",
            "",
            f"    python benchmarks/seeds.py --seeds {' '.join(map(str, seeds))}",
            "",
            f"Code: {', '.join(commits) or 'not known'}. The table is written by that command from the cards of the runs.",
            "",
            head,
            *lines,
            "",
            "PPO minus SFT, part by part (each part from 0 to 1):",
            "",
            head,
            *parts,
            "",
            "Clean pair accuracy of the reward model by part, on pairs that differ by more than 0.2 in it:",
            "",
            head,
            *reward_parts,
            "",
            "Seconds by step, on a shared machine with 2 cores:",
            "",
            head,
            *costs,
            "",
            notes(),
        ]
    )


def notes() -> str:
    """What a reader must know beside the numbers; kept in a file of its own, so that writing the table does not lose it."""
    file = ROOT / "docs" / "results-notes.md"
    return file.read_text(encoding="utf-8") if file.exists() else ""


def card(run: Path, stage: str) -> dict[str, dict]:
    file = run / "evaluation" / stage / "card.json"
    return {e["metric"]: e for e in json.loads(file.read_text(encoding="utf-8"))["entries"]} if file.exists() else {}


def manifest(run: Path, step: str) -> dict | None:
    file = run / step / "manifest.json"
    return json.loads(file.read_text(encoding="utf-8"))["environment"] if file.exists() else None


def cell(entries: dict[str, dict], metric: str) -> str:
    entry = entries.get(metric)
    if entry is None or entry["value"] is None:
        return "not measured"
    interval = f" ({entry['ci_low']:.2f} to {entry['ci_high']:.2f})" if entry["ci_low"] is not None else ""
    return f"{entry['value']:.2f}{interval}"


if __name__ == "__main__":
    main()
