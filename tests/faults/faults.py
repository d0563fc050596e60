"""Runs that are struck, and what must be true of them afterwards. Shared by the short form in CI and the long one."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CONFIG = HERE / "faults.yaml"
STAGES = ("prepare", "sft", "reward", "ppo")


def config_of_kto(home: Path) -> Path:
    """The same run with KTO in PPO's place, on thumbs over the first answers of the built-in rankings, one in three down."""
    rows = (ROOT / "data" / "seed" / "rankings.jsonl").read_text(encoding="utf-8").splitlines()[:40]
    thumbs = [{"prompt": (r := json.loads(row))["prompt"], "completion": r["responses"][0]} for row in rows]
    lines = [json.dumps({**thumb, "label": bool(i % 3)}) for i, thumb in enumerate(thumbs)]
    (home / "thumbs.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    settings = CONFIG.read_text(encoding="utf-8").replace("data:\n", f"data:\n  thumbs: {home / 'thumbs.jsonl'}\n")
    settings += "learner: kto\nkto: {batch_size: 4, checkpoint_every: 1, max_new_tokens: 8}\ndetectors: {judge_every: 2}\n"
    (home / "kto.yaml").write_text(settings, encoding="utf-8")
    return home / "kto.yaml"


@dataclass(frozen=True)
class Ended:
    """How a struck process ended: its exit status (negative for a signal), what it said, and the crash points that it passed."""

    status: int
    said: str
    points: int


def run(path: Path, fault: str = "count", point: int = 0) -> Ended:
    """One attempt at the whole run in `path`, struck at crash point `point`."""
    arguments = ["run", "--run", path, f"chat.feedback_db={path.parent}/f.sqlite"]
    # The first time the run is made from the config, afterwards it has its own.
    arguments += [] if (path / "config.yaml").exists() else ["--config", CONFIG]
    done = subprocess.run(
        [sys.executable, str(HERE / "child.py"), str(point), fault, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=600,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    count = next((int(line.split()[1]) for line in done.stdout.split("\n") if line.startswith("POINTS ")), 0)
    return Ended(done.returncode, done.stdout + done.stderr, count)


def result(path: Path) -> dict[str, str]:
    """Everything that must not depend on what happened on the way: weights, figures of every step, answers and cards."""
    found = {}
    for file in sorted([*path.glob("stages/**/*"), *path.glob("evaluation/**/*")]):
        name = str(file.relative_to(path))
        if not file.is_file() or file.name == "manifest.json":
            continue
        data = file.read_bytes()
        if file.name == "log.jsonl":
            rows = [json.loads(line) for line in data.decode().split("\n") if line]
            data = json.dumps([{k: v for k, v in row.items() if "seconds" not in k} for row in rows]).encode()
        found[name] = hashlib.sha256(data).hexdigest()
    return found


def unsound(path: Path) -> list[str]:
    """What may never be seen, whenever a run is struck: a stage counted as done whose files are not what its manifest says."""
    problems = []
    for manifest in path.glob("*/*/manifest.json"):
        if ".partial" in str(manifest):
            continue
        for artifact in json.loads(manifest.read_text(encoding="utf-8"))["artifacts"]:
            file = manifest.parent / artifact["path"]
            if not file.is_file() or hashlib.sha256(file.read_bytes()).hexdigest() != artifact["sha256"]:
                problems.append(str(file))
    return problems
