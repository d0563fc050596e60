"""The part of docs/gpu.md that `benchmarks/bits.py` fills. It measures nothing itself."""

from __future__ import annotations

from statistics import fmean, median

from counted_page import BITS
from seeds import cell

HEAD = """## What a 4-bit base learns, on a CPU

The weights of NF4 with double quantization, unpacked to bfloat16 before each product as on a card; sides take turns. The scores are what this is
about. The seconds are a CPU's, for whoever wants to repeat it, and say nothing of a card's. Expected before the runs: the same reward, within what
seeds differ by."""
TASK = """The task of "Beside TRL's last PPO trainer": 20 updates of 16 answers of 16 tokens, ten of thirty layers adapted, a programmatic score
that can be found (0 to 10)."""
RECIPE = """The quickstart from the base to the last card, everything else as it is shipped. Gold is the rubric's score (0 to 6) on held-out
questions, with 95 % intervals over them."""
LAST = 5


def bits_tables(found: dict) -> str:
    if not found:
        return f"{HEAD}\n\nNot measured."
    parts = [HEAD]
    for part, said, table in (("task", TASK, task), ("recipe", RECIPE, recipe)):
        if rows := found.get(part):
            seeds = sorted({row["seed"] for row in rows})
            parts += [f"    python benchmarks/bits.py --parts {part} --seeds {' '.join(map(str, seeds))}", said, table(rows)]
    return "\n\n".join(parts)


def task(rows: list[dict]) -> str:
    lines = [f"| base | first update | last {LAST} updates (by seed) | KL, last {LAST}, nats | seconds an update |", "|---|---:|---:|---:|---:|"]
    for bits, label in BITS.items():
        runs = [r["updates"] for r in rows if r["bits"] == bits]
        if not runs:
            continue
        last = [fmean(u["score"] for u in updates[-LAST:]) for updates in runs]
        by_seed = ", ".join(f"{value:.2f}" for value in last)
        kl = fmean(u["kl"] for updates in runs for u in updates[-LAST:])
        seconds = median(u["wall_s"] for updates in runs for u in updates[1:])
        first = fmean(updates[0]["score"] for updates in runs)
        lines.append(f"| {label} | {first:.2f} | {fmean(last):.2f} ({by_seed}) | {kl:.1f} | {seconds:.1f} |")
    return "\n".join(lines)


def recipe(rows: list[dict]) -> str:
    head = ["seed", "base", "gold, before anything", "gold, SFT", "right on clean pairs", "gold, PPO minus SFT", "KL, nats", "minutes, three stages"]
    lines = ["| " + " | ".join(head) + " |", "|---:|---" + "|---:" * (len(head) - 2) + "|"]
    for row in rows:
        f = row["figures"]
        cells = [
            str(row["seed"]), BITS[row["bits"]], cell(f["base"], "gold"), cell(f["sft"], "gold"), cell(f["reward"], "clean_accuracy"),
            f"**{cell(f['ppo'], 'gold_minus_sft')}**", cell(f["ppo"], "kl_to_reference"), f"{sum(row['seconds'].values()) / 60:.0f}",
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    gains = {bits: [row["figures"]["ppo"]["gold_minus_sft"]["value"] for row in rows if row["bits"] == bits] for bits in BITS}
    said = "; ".join(
        f"{label} {fmean(found):.2f} ({min(found):.2f} to {max(found):.2f})" for bits, label in BITS.items() if (found := gains[bits])
    )
    lines += ["", f"PPO minus SFT, mean over seeds (lowest to highest): {said}."]
    return "\n".join(lines)
