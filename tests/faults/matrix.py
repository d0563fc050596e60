"""The long form of the fault suite, and the table of docs/reliability.md.

    python tests/faults/matrix.py --runs 12 --kills 5 --signals 10 --full 6      # about half an hour on one core
    python tests/faults/matrix.py --learner kto                                  # KTO in PPO's place; prints the table, writes no page

A run is struck at random crash points until it ends by itself, then held against a run that nobody struck: weights, figures of
every step, answers and cards must be the same bytes.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import faults

PAGE = faults.ROOT / "docs" / "reliability.md"
# Everything after this line of the page is written by this command.
MARK = "<!-- matrix -->"


@dataclass
class Row:
    """One line of the matrix."""

    what: str
    passes_when: str
    strikes: int = 0
    runs: int = 0
    failed: list[str] = field(default_factory=list)
    seen: Counter = field(default_factory=Counter)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=12, help="runs that are killed again and again")
    parser.add_argument("--kills", type=int, default=5, help="kills a run at most")
    parser.add_argument("--signals", type=int, default=10, help="runs that get SIGTERM or SIGINT, half each")
    parser.add_argument("--full", type=int, default=6, help="runs that meet a full disk")
    parser.add_argument("--damage", type=int, default=12, help="checkpoints that are altered after a kill")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--learner", choices=("ppo", "kto"), default="ppo", help="what trains the policy")
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        if arguments.learner == "kto":
            faults.CONFIG = faults.config_of_kto(home)
        whole = faults.run(home / "whole")
        assert whole.status == 0, whole.said
        expected = faults.result(home / "whole")
        rows = [
            kills(home, expected, whole.points, arguments.runs, arguments.kills, rng),
            signals(home, expected, whole.points, arguments.signals, rng),
            full(home, expected, whole.points, arguments.full, rng),
            damage(home, expected, whole.points, arguments.damage, rng),
            artifacts(home, home / "whole"),
        ]
    text = table(rows, whole.points, arguments)
    if arguments.learner == "ppo":
        before = PAGE.read_text(encoding="utf-8").partition(MARK)[0]
        PAGE.write_text(f"{before}{MARK}\n\n{text}", encoding="utf-8")
    print(text)
    sys.exit(any(row.failed for row in rows))


def kills(home: Path, expected: dict, points: int, runs: int, most: int, rng: random.Random) -> Row:
    row = Row("SIGKILL at random crash points", "the result is that of a run nobody struck")
    for n in range(runs):
        path = home / f"kill-{n}"
        for _ in range(most):
            # Within the next third of a run's points, so that one run is killed several times.
            ended = faults.run(path, "kill", rng.randrange(1, max(2, points // 3)))
            row.failed += [f"{path.name}: {p}" for p in faults.unsound(path)]
            if ended.status == 0:
                break
            row.strikes += 1
            row.seen[where(path)] += 1
        finish(row, path, expected)
    return row


def signals(home: Path, expected: dict, points: int, runs: int, rng: random.Random) -> Row:
    row = Row("SIGTERM and SIGINT at random points", "exit status 143 or 130; then the same result")
    for n in range(runs):
        path, fault = home / f"signal-{n}", "term" if n % 2 else "int"
        ended = faults.run(path, fault, rng.randrange(1, points))
        row.strikes += 1
        if ended.status != (143 if fault == "term" else 130) or "Traceback" in ended.said:
            row.failed.append(f"{path.name}: {fault} ended with {ended.status}")
        row.seen[where(path)] += 1
        finish(row, path, expected)
    return row


def full(home: Path, expected: dict, points: int, runs: int, rng: random.Random) -> Row:
    row = Row("the disk is full from a random point on", "exit status 28 and one line; then the same result")
    for n in range(runs):
        path = home / f"full-{n}"
        ended = faults.run(path, "full", rng.randrange(10, points))
        row.strikes += 1
        if ended.status != 28 or "no space left" not in ended.said or "Traceback" in ended.said:
            row.failed.append(f"{path.name}: ended with {ended.status}: {ended.said[-300:]}")
        row.failed += [f"{path.name}: {p}" for p in faults.unsound(path)]
        row.seen[where(path)] += 1
        finish(row, path, expected)
    return row


def damage(home: Path, expected: dict, points: int, runs: int, rng: random.Random) -> Row:
    row = Row("a checkpoint altered after a kill: byte flipped, cut short, a file gone", "passed over; the same result")
    tries = 0
    while row.runs < runs and tries < 6 * runs:
        tries += 1
        path = home / f"damage-{tries}"
        faults.run(path, "kill", rng.randrange(1, points))
        files = [f for f in path.glob("**/checkpoints/**/*") if f.is_file() and ".partial-" not in str(f)]
        if not files:
            continue
        file = rng.choice(files)
        row.seen[alter(file, rng)] += 1
        row.strikes += 1
        finish(row, path, expected)
    return row


def artifacts(home: Path, whole: Path) -> Row:
    """Every kind of file that a finished stage left, altered in three ways, in a copy of the whole run."""
    row = Row("every file of a finished stage altered in turn", "`status --verify` names the file, exit status 2")
    rng = random.Random(0)
    import subprocess

    for file in sorted(f for f in whole.glob("*/*/**/*") if f.is_file() and f.name != "manifest.json"):
        copy = home / "altered"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(whole, copy)
        target = copy / file.relative_to(whole)
        row.seen[alter(target, rng)] += 1
        row.strikes += 1
        row.runs += 1
        done = subprocess.run(
            [sys.executable, str(faults.ROOT / "run_pipeline.py"), "status", "--verify", "--run", str(copy)],
            capture_output=True, text=True, cwd=faults.ROOT,
        )  # fmt: skip
        if done.returncode != 2 or str(target) not in done.stderr:
            row.failed.append(f"{file.relative_to(whole)}: status {done.returncode}")
    return row


def alter(file: Path, rng: random.Random) -> str:
    way = rng.choice(("flipped", "cut short", "gone"))
    data = bytearray(file.read_bytes())
    if way == "gone" or not data:
        file.unlink()
        return "gone"
    if way == "flipped":
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        file.write_bytes(data)
    else:
        file.write_bytes(data[: rng.randrange(len(data))])
    return way


def finish(row: Row, path: Path, expected: dict) -> None:
    """Lets the run end in peace and holds it against the run that nobody struck."""
    ended = faults.run(path)
    row.runs += 1
    if ended.status != 0:
        row.failed.append(f"{path.name}: could not be finished ({ended.status}): {ended.said[-300:]}")
    elif (found := faults.result(path)) != expected:
        differing = [name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)]
        row.failed.append(f"{path.name}: differs in {', '.join(sorted(differing)[:4])}")
    shutil.rmtree(path, ignore_errors=True)
    print(f"{row.what}: {row.runs} runs, {row.strikes} strikes, {len(row.failed)} failed", flush=True)


def where(path: Path) -> str:
    """The step that was under way."""
    left = sorted(path.glob("*/*.partial"))
    return left[0].name.removesuffix(".partial") if left else "between steps"


def table(rows: list[Row], points: int, arguments: argparse.Namespace) -> str:
    command = "python tests/faults/matrix.py " + " ".join(f"--{k} {v}" for k, v in vars(arguments).items())
    lines = [
        f"    {command}",
        "",
        f"A run of this size passes {points} crash points: optimiser steps, file syncs, renames, removals.",
        "",
        "| fault | strikes | runs | passes when | failed | struck in |",
        "|---|---:|---:|---|---:|---|",
    ]
    for row in rows:
        seen = ", ".join(f"{name} {count}" for name, count in sorted(row.seen.items()))
        lines.append(
            f"| {row.what} | {row.strikes} | {row.runs} | {row.passes_when} | **{len(row.failed)}** | {seen} |"
        )
    lines += ["", *(f"- {problem}" for row in rows for problem in row.failed)]
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    main()
