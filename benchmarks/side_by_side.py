"""Thumbloop's PPO beside TRL's last PPO trainer: time an update, peak memory, reward after equal updates.

    python -m venv /tmp/peer
    /tmp/peer/bin/pip install torch==2.13.0 transformers==5.23.0 trl==1.12.0 peft==0.21.2 datasets==5.2.0 accelerate==1.15.0
    python benchmarks/side_by_side.py --peer-python /tmp/peer/bin/python --shape 16x16 --updates 12 --seeds 1 2 3 --core 1
    python benchmarks/side_by_side.py --peer-python /tmp/peer/bin/python --shape 32x48 --updates 12 --seeds 1 2 3 --core 1

Both sides get the same model, prompts, batch, response length, epochs, minibatch, learning rates, KL coefficient and score
(`benchmarks/peer/task.py`), run by turns, each in a process of its own, and their order changes from seed to seed. Whatever was
measured is kept in `benchmarks/results/`; `benchmarks/performance.py` writes docs/performance.md from it.
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
RESULTS = HERE / "results"
# Adam's epsilon is what the other side uses. With a third of the layers adapted, alpha is three times as large, so that a step
# at the same learning rate moves the policy about as far.
# It clips no gradient, so neither do we.
EQUAL = ["--set", "adam_eps=1e-8", "max_grad_norm=1e9"]
UPPER = ["--last-layers", "10", "--alpha", "96", *EQUAL]
# What is varied on our side, and how: name → further arguments of peer/ours.py.
SIDES = {
    "TRL 1.12.0": [],
    "TRL 1.12.0, bfloat16": ["--dtype", "bfloat16"],
    "all layers, float32": ["--dtype", "float32", *EQUAL],
    "all layers, bfloat16 base": ["--dtype", "bfloat16", *EQUAL],
    "last 10 layers, float32": ["--dtype", "float32", *UPPER],
    "last 10 layers, bfloat16 base": ["--dtype", "bfloat16", *UPPER],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--peer-python", type=Path, required=True, help="Python of the environment that holds TRL 1.12.0"
    )
    parser.add_argument("--model", help="directory of the base model; the embedded one when not given")
    parser.add_argument("--shape", default="16x16", help="answers an update x tokens an answer")
    parser.add_argument("--updates", type=int, default=8)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--core", type=int, help="pin everything to this core; two threads on shared cores wait for each other"
    )
    parser.add_argument("--sides", nargs="+", default=list(SIDES), choices=list(SIDES))
    arguments = parser.parse_args()
    if arguments.core is not None:
        os.sched_setaffinity(0, {arguments.core})
    batch, response = map(int, arguments.shape.split("x"))
    model = arguments.model or embedded()
    shared = ["--model", model, "--batch", batch, "--minibatch", batch // 2, "--response", response]
    shared += ["--updates", arguments.updates, "--threads", arguments.threads]
    environment = {**os.environ, "OMP_NUM_THREADS": str(arguments.threads)}
    found: list[dict] = []
    with tempfile.TemporaryDirectory() as folder:
        for turn, seed in enumerate(arguments.seeds):
            order = arguments.sides if turn % 2 == 0 else arguments.sides[::-1]
            for side in order:
                out = Path(folder) / f"{seed}-{list(SIDES).index(side)}.json"
                ours = not side.startswith("TRL")
                command = [
                    sys.executable if ours else arguments.peer_python,
                    HERE / "peer" / ("ours.py" if ours else "theirs.py"),
                ]
                command += [*shared, "--seed", seed, "--json", out, *SIDES[side]]
                print(f"-- {side}, seed {seed}", flush=True)
                done = subprocess.run(list(map(str, command)), env=environment, cwd=folder, check=False)
                if done.returncode:
                    sys.exit(
                        f"{side} ended with status {done.returncode}; the command was: {' '.join(map(str, command))}"
                    )
                found.append({"side": side, "seed": seed, "updates": json.loads(out.read_text(encoding="utf-8"))})
                save(arguments, found)


def save(arguments: argparse.Namespace, found: list[dict]) -> None:
    """Keeps this call's runs, and those of earlier calls of the same shape and length that it did not repeat, each with its command."""
    RESULTS.mkdir(exist_ok=True)
    command = f"python benchmarks/side_by_side.py --peer-python PYTHON --shape {arguments.shape} --updates {arguments.updates}"
    command += f" --seeds {' '.join(map(str, arguments.seeds))} --threads {arguments.threads}"
    command += f" --core {arguments.core}" if arguments.core is not None else ""
    if set(arguments.sides) != set(SIDES):
        command += " --sides " + " ".join(f"'{side}'" for side in arguments.sides)
    file = RESULTS / f"side_by_side_{arguments.shape}.json"
    before = json.loads(file.read_text(encoding="utf-8"))["runs"] if file.exists() else []
    again = {(run["side"], run["seed"]) for run in found}
    before = [r for r in before if len(r["updates"]) == arguments.updates]
    runs = [r for r in before if (r["side"], r["seed"]) not in again] + [{**r, "command": command} for r in found]
    file.write_text(json.dumps({"runs": runs}, indent=1) + "\n", encoding="utf-8")


def embedded() -> str:
    """The embedded model, converted once."""
    sys.path.insert(0, str(HERE.parent))
    from pipeline.config import ModelConfig
    from pipeline.weights import locate

    return str(locate(ModelConfig()))


if __name__ == "__main__":
    main()
