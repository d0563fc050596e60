"""Everything that is said about a GPU, measured on one: a part at a time, each variant in a process of its own, kept as it falls.

    python benchmarks/gpu.py --rows data/ultrafeedback --peer-python /tmp/peer/bin/python
    python benchmarks/gpu.py --parts ceilings speed --again
    python benchmarks/gpu.py --tiny --out /tmp/gpu.json        # a rehearsal without a GPU, in minutes; its figures mean nothing

Parts, in the order of what is missed most: `ceilings` (what the card multiplies and copies, to hold the rest against), `checks` (the tests of
quantized bases, on the card), `memory` (one base with four roles and a model for each), `plan` (the memory planner's figure for a stage
and what the stage took), `recipe` (the whole pipeline on the embedded model and real rows), `speed` (drawing and learning), `peer8b` and
`peer` (TRL's last PPO trainer on the same task, at 8B and on the embedded model; benchmarks/side_by_side.py says which and in what
environment), `bits` (the reward that a 4-bit and a bfloat16 base reach), `seeds` (the recipe's figures on two more seeds, side by side). Variants
that are in the results already are not measured again; what failed stands under `failed` there. `benchmarks/gpu_report.py` writes
docs/gpu.md from the results.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path[:0] = [str(ROOT), str(HERE)]
RESULTS = HERE / "results" / "gpu.json"
# Seconds that a variant may take.
LIMIT = 470
# With fewer left none is begun: the libraries alone take some.
LEAST = 20
BITS = ("none", "4bit")
PEER_SIDES = {
    "TRL 1.12.0, bfloat16": ["--dtype", "bfloat16"],
    "all layers, bfloat16": ["--dtype", "bfloat16", "--set", "adam_eps=1e-8", "max_grad_norm=1e9"],
    "last 10 layers, bfloat16": [
        "--dtype",
        "bfloat16",
        "--last-layers",
        "10",
        "--alpha",
        "96",
        "--set",
        "adam_eps=1e-8",
        "max_grad_norm=1e9",
    ],
}
# Llama 3.1 8B's shape with random weights; theirs trains its value model whole, as its documentation has it.
PEER_8B = {
    "TRL 1.12.0, bfloat16": ["--dtype", "bfloat16"],
    "one base, bfloat16": ["--dtype", "bfloat16"],
    "one base, 4-bit": ["--dtype", "bfloat16", "--quantization", "4bit"],
}


def variants(part: str, tiny: bool, seeds: list[int]) -> list[dict]:
    models = ["tiny"] if tiny else ["135m", "8b"]
    if part == "memory":
        return [{"model": m, "bits": b, "way": w} for m in models for b in BITS for w in ("shared", "separate")]
    if part == "speed":
        return [{"model": m, "bits": b} for m in models for b in BITS]
    if part == "peer":
        return [
            {"side": side, "seed": seed} for seed in seeds for side in (list(PEER_SIDES)[1:2] if tiny else PEER_SIDES)
        ]
    if part == "peer8b":
        return [{"side": side} for side in (list(PEER_8B)[1:] if tiny else PEER_8B)]
    if part == "bits":
        return [{"bits": b, "seed": seed} for seed in seeds for b in BITS]
    if part == "plan":
        return [{"stage": s, "model": m, "bits": b} for m, b in (("tiny", "4bit"),) for s in STAGES] if tiny else PLANNED
    return [{}]


STAGES = ("sft", "reward", "ppo")
PLANNED = [
    *({"stage": s, "model": "8b", "bits": "4bit"} for s in STAGES),
    *({"stage": s, "model": "135m", "bits": "none"} for s in STAGES),
    {"stage": "ppo", "model": "8b", "bits": "none"},
]
PARTS = ("ceilings", "checks", "memory", "plan", "recipe", "speed", "peer8b", "peer", "bits", "seeds")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument(
        "--rows", type=Path, help="folder that scripts/fetch_rows.py made; without it `recipe` takes the built-in rows"
    )
    parser.add_argument("--peer-python", default=sys.executable, help="Python that has TRL 1.12.0")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seconds", type=float, default=1e9, help="all of it ends after so many; a variant that is at work then is given up")
    parser.add_argument("--again", action="store_true", help="also what is in the results already")
    parser.add_argument("--tiny", action="store_true", help="the smallest sizes, for machines without a GPU")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--variant", help=argparse.SUPPRESS)
    parser.add_argument("--limit", type=float, default=LIMIT, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.variant is not None:
        from gpu_parts import measure

        found = measure(arguments.parts[0], json.loads(arguments.variant), arguments)
        # The card is asked here and never by the process that waits: that one would hold a part of it.
        print("FOUND " + json.dumps({**found, "machine": machine()}), flush=True)
        if threading.active_count() > 1:
            # One that hangs would hold back what was measured until the time is over.
            os._exit(0)
        return
    if arguments.tiny and arguments.out == RESULTS:
        parser.error("--tiny measures nothing that may stand in the results; give --out")
    # Ended from outside: what was begun is ended too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    started, failed = time.monotonic(), []
    for part in arguments.parts:
        for variant in variants(part, arguments.tiny, arguments.seeds):
            if known(arguments.out, part, variant) and not arguments.again:
                continue
            left = min(LIMIT, arguments.seconds - (time.monotonic() - started))
            if left < LEAST:
                print(f"-- {part} {variant}: no time left", flush=True)
                continue
            found = run(part, variant, arguments, left)
            print(f"-- {part} {variant}: {json.dumps(found)[:600]}", flush=True)
            keep(arguments.out, part, variant, found)
            if "failed" in found:
                failed.append(f"{part} {variant}")
    if failed:
        sys.exit("failed: " + "; ".join(failed))


def run(part: str, variant: dict, arguments, limit: float = LIMIT) -> dict:
    """One variant in a process of its own, for at most `limit` seconds: what it leaves on the card goes with it."""
    command = [
        sys.executable,
        __file__,
        "--parts",
        part,
        "--variant",
        json.dumps(variant),
        "--peer-python",
        str(arguments.peer_python),
        "--limit",
        str(limit),
    ]
    command += ["--tiny"] if arguments.tiny else []
    command += ["--rows", str(arguments.rows)] if arguments.rows else []
    began = time.monotonic()
    out, err = ended(command, limit)
    line = next((x for x in out.split("\n") if x.startswith("FOUND ")), None)
    if line is None:
        return {"failed": (err or out)[-1500:]}
    return {**json.loads(line.removeprefix("FOUND ")), "part_seconds": round(time.monotonic() - began, 1)}


def ended(command: list[str], limit: float) -> tuple[str, str]:
    """What a command said and complained of. After `limit` seconds it is ended with everything that it began: what goes on beside the next
    variant would take memory and time from it."""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0, errors="replace"
    )
    try:
        return process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        _kill(process)
        _out, err = process.communicate()
        return "", f"{err[-1000:]}\nmore than {limit:.0f} s"
    finally:
        _kill(process)


def _kill(process: subprocess.Popen) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def known(out: Path, part: str, variant: dict) -> bool:
    kept = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
    return any(all(row.get(k) == v for k, v in variant.items()) for row in kept.get(part, []))


def keep(out: Path, part: str, variant: dict, found: dict) -> None:
    kept = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
    name = " ".join([part, *(f"{k}={v}" for k, v in variant.items())])
    failures = {k: v for k, v in kept.pop("failed", {}).items() if k != name}
    if "failed" in found:
        _write(out, {**kept, "failed": {**failures, name: found["failed"]}})
        return
    said = found.get("machine") or machine()
    found = {k: v for k, v in found.items() if k != "machine"}
    rows = [row for row in kept.get(part, []) if any(row.get(k) != v for k, v in variant.items())]
    kept[part] = [*rows, {**variant, **found}] if variant else [found]
    kept["machine"] = said
    _write(out, {**kept, "failed": failures} if failures else kept)


def _write(out: Path, kept: dict) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=out.parent, delete=False, encoding="utf-8") as file:
        file.write(json.dumps(kept, indent=1) + "\n")
    os.chmod(file.name, 0o644)
    os.replace(file.name, out)


def machine() -> dict:
    import platform
    from importlib.metadata import PackageNotFoundError, version

    import torch

    names = ("torch", "transformers", "peft", "accelerate", "bitsandbytes", "trl")
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {"card": card, "python": platform.python_version(), "versions": found}


if __name__ == "__main__":
    main()
