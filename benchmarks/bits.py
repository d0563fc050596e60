"""What a 4-bit base learns beside a bfloat16 one, on a CPU: the peer's task, and the whole quickstart.

    python benchmarks/bits.py --parts task recipe --seeds 0 1 2

The arithmetic is that of a card: NF4 weights are unpacked to bfloat16 before each product (`model.allow_cpu_quantization`). So the scores answer
what is lost by quantizing; the seconds are a CPU's and say nothing of a card's, for which `benchmarks/gpu.py` has the part `bits`.
Sides take turns within a seed. What was measured is kept in `benchmarks/results/bits.json`; `benchmarks/gpu_report.py` writes docs/gpu.md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path[:0] = [str(ROOT), str(HERE)]
from gpu import BITS, PEER_SIDES  # noqa: E402
from seeds import card, manifest  # noqa: E402

RESULTS = HERE / "results" / "bits.json"
CONFIG = "configs/quickstart.yaml"
TASK = {"batch": 16, "minibatch": 8, "response": 16, "updates": 20}
# Of the recipe's cards: what a reader compares, and what explains it.
FIGURES = {
    "base": ("gold",),
    "sft": ("gold", "heldout_nll_change"),
    "reward": ("clean_accuracy", "observed_accuracy"),
    "ppo": ("gold", "gold_minus_sft", "kl_at_start", "kl_to_reference"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=["task", "recipe"], choices=("task", "recipe"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--bits", nargs="+", default=list(BITS), choices=BITS)
    arguments = parser.parse_args()
    for part in arguments.parts:
        for turn, seed in enumerate(arguments.seeds):
            for bits in arguments.bits if turn % 2 == 0 else arguments.bits[::-1]:
                print(f"-- {part}, seed {seed}, {bits}", flush=True)
                measured = {"task": task, "recipe": recipe}[part](bits, seed, arguments.threads)
                command = f"python benchmarks/bits.py --parts {part} --bits {bits} --seeds {seed} --threads {arguments.threads}"
                keep(part, {"bits": bits, "seed": seed, "command": command, **measured})


def task(bits: str, seed: int, threads: int) -> dict:
    """Updates of our side of the peer's task, the last ten layers adapted."""
    from side_by_side import embedded

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.json"
        command = [sys.executable, HERE / "peer" / "ours.py", "--model", embedded(), "--json", out, "--quantization", bits]
        command += [word for name, value in TASK.items() for word in (f"--{name}", value)]
        command += ["--seed", seed, "--threads", threads, *PEER_SIDES["last 10 layers, bfloat16"]]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        subprocess.run(list(map(str, command)), env=environment, cwd=folder, check=True)
        return {"updates": json.loads(out.read_text(encoding="utf-8"))}


def recipe(bits: str, seed: int, threads: int) -> dict:
    """The quickstart in a run of its own; one that is finished is read, not run again."""
    name = f"bits-{bits}-{seed}"
    command = [sys.executable, "run_pipeline.py", "run", "--config", CONFIG, "--run", name, f"seed={seed}", f"threads={threads}"]
    command += ["model.dtype=bfloat16", f"model.quantization={bits}", "model.allow_cpu_quantization=true"]
    # A missed gate (status 3) is a result too: what was measured by then is kept.
    status = subprocess.run(command, cwd=ROOT, check=False).returncode
    if status not in (0, 3):
        sys.exit(f"{name} ended with status {status}; the command was: {' '.join(command)}")
    run = ROOT / "runs" / name
    figures = {stage: {name: card(run, stage).get(name) for name in names} for stage, names in FIGURES.items()}
    steps = {step: manifest(run, f"stages/{step}") for step in ("sft", "reward", "ppo")}
    return {"status": status, "figures": figures, "seconds": {step: m["seconds"] for step, m in steps.items() if m}}


def keep(part: str, row: dict) -> None:
    """Written after every run, in the place of an earlier one of the same side and seed."""
    found = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    rows = [r for r in found.get(part, []) if (r["bits"], r["seed"]) != (row["bits"], row["seed"])]
    found[part] = sorted([*rows, row], key=lambda r: (r["seed"], r["bits"]))
    RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
