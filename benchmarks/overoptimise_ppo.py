"""Overoptimisation by PPO: the reward model's score against the rubric's over a run, without a KL charge and with one.

    python benchmarks/overoptimise_ppo.py --run runs/seed-0      # what is not done yet; then benchmarks/results/overoptimise_ppo.json

Takes the SFT policy and the reward model of a finished run of the quickstart and trains three policies for `UPDATES` updates: without a KL
charge and with no detector that stops; the same with detectors that stop; with the quickstart's charge. The rubric looks every other
update at answers to 60 prompts that PPO does not ask. A run that was killed goes on from its checkpoint with the same command.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import fmean

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "overoptimise_ppo.json"
UPDATES = 40
LOOKS = [f"ppo.updates={UPDATES}", "detectors.judge_every=2", "detectors.judge_prompts=60"]
ALL = "reward_hacking,length_drift,mode_collapse,repetition,kl_blow_up,refusal_collapse,eos_loss,value_failure"
RUNS = {
    "no KL charge, unwatched": ("over-free", ["ppo.kl_coef=0.0", f"detectors.warn_only=[{ALL}]"]),
    "no KL charge, detectors stop": ("over-watched", ["ppo.kl_coef=0.0"]),
    "KL charge 0.03, unwatched": ("over-charged", ["ppo.kl_coef=0.03", f"detectors.warn_only=[{ALL}]"]),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=ROOT / "runs" / "seed-0", help="a finished run of the quickstart")
    arguments = parser.parse_args()
    found = {}
    for name, (folder, overrides) in RUNS.items():
        run = ROOT / "runs" / folder
        if not run.exists():
            shutil.copytree(arguments.run, run, ignore=before_ppo(arguments.run))
        command = [sys.executable, "run_pipeline.py", "run", "--config", str(run / "config.yaml"), "--run", folder]
        done = subprocess.run([*command, "--only", "ppo", *LOOKS, *overrides], cwd=ROOT, check=False)
        # A missed gate (status 3) is a result too.
        if done.returncode not in (0, 3):
            raise SystemExit(f"{folder} stopped with status {done.returncode}; the same command goes on with it.")
        stage = run / "stages" / "ppo"
        log = [json.loads(line) for line in (stage / "log.jsonl").read_text(encoding="utf-8").splitlines()]
        found[name] = {
            "overrides": [*LOOKS, *overrides],
            "curve": curve(json.loads((stage / "detectors.json").read_text(encoding="utf-8")), log),
        }
    RESULTS.write_text(json.dumps(found) + "\n", encoding="utf-8")


def before_ppo(run: Path):
    """What of a finished run is not taken over: PPO and what was measured of it, checkpoints, and the lock."""

    def ignored(folder: str, names: list[str]) -> set[str]:
        top = Path(folder) == run
        inside = Path(folder).parent == run and Path(folder).name in ("stages", "evaluation", "checkpoints")
        return {
            n
            for n in names
            if (inside and n.startswith("ppo")) or (top and n in ("run.lock", "report.md", "report.html"))
        }

    return ignored


def curve(seen: dict, log: list[dict]) -> dict:
    """Each look's gold and proxy, with the KL of the next update's rollout, which the same policy drew (None after the last)."""
    kl = {line["update"]: line["kl"] for line in log}
    looks = [
        {"update": look["update"], "gold": look["judge"], "proxy": look["proxy"], "kl": kl.get(look["update"])}
        for look in seen["looks"]
    ]
    best = max(looks, key=lambda look: fmean(look["gold"]), default=None)
    return {"looks": looks, "said": seen["said"], "alarms": seen["alarms"], "best_update": best and best["update"]}


if __name__ == "__main__":
    main()
