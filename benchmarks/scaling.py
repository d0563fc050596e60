"""How the cost of PPO grows with tokens and with roles, and what one reading of each ranked answer saves.

    python benchmarks/scaling.py tokens roles rankings --repeats 3

Every point is measured in a process of its own, because a peak of memory belongs to a whole process, and the points take turns.
Seconds are CPU-seconds of one thread: on a quiet core that is the time on the clock, and on a shared one it is still the work done.
Results are kept in `benchmarks/results/scaling.json`; `benchmarks/performance.py` writes docs/performance.md from it.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
RESULTS = HERE / "results" / "scaling.json"
TOKENS = (8, 16, 32, 64, 96)
ROLES = (1, 2, 3, 4)
ANSWERS = (4, 8)
LAST_LAYERS = 10
POINTS = {
    "tokens": [{"response": t} for t in TOKENS],
    "roles": [{"roles": n, "way": way} for n in ROLES for way in ("shared", "separate")],
    "rankings": [{"answers": k, "way": way} for k in ANSWERS for way in ("side by side", "each answer", "each pair")],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", default=list(POINTS), choices=list(POINTS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--point", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.point:
        print("POINT " + json.dumps(measure(arguments.what[0], json.loads(arguments.point), arguments.threads)))
        return
    kept = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    for what in arguments.what:
        found = []
        for repeat in range(arguments.repeats):
            for point in POINTS[what] if repeat % 2 == 0 else POINTS[what][::-1]:
                command = [
                    sys.executable,
                    __file__,
                    what,
                    "--threads",
                    str(arguments.threads),
                    "--point",
                    json.dumps(point),
                ]
                environment = {**os.environ, "OMP_NUM_THREADS": str(arguments.threads)}
                done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
                line = next((x for x in done.stdout.split("\n") if x.startswith("POINT ")), None)
                if line is None:
                    sys.exit(f"{what} {point} failed:\n{done.stderr}")
                found.append({**point, "repeat": repeat, **json.loads(line.removeprefix("POINT "))})
                print(what, found[-1], flush=True)
        command = f"python benchmarks/scaling.py {what} --repeats {arguments.repeats} --threads {arguments.threads}"
        kept[what] = {"command": command, "points": found}
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def measure(what: str, point: dict, threads: int) -> dict[str, float]:
    import torch

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    figures = {"tokens": tokens, "roles": roles, "rankings": rankings}[what](**point)
    return {**figures, "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9}


def tokens(response: int) -> dict[str, float]:
    """Seconds of one PPO update on 16 answers of `response` tokens each, none of which may end earlier."""
    from benchmarks.side_by_side import embedded

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.json"
        # An update of its own process would be counted into this one's peak only through RUSAGE_CHILDREN, so it runs here.
        sys.argv = ["ours.py", "--model", embedded(), "--json", str(out), "--response", str(response), "--updates", "3"]
        sys.argv += ["--last-layers", str(LAST_LAYERS), "--endless"]
        sys.path.insert(0, str(HERE / "peer"))
        from benchmarks.peer import ours

        ours.main()
        rows = json.loads(out.read_text(encoding="utf-8"))[1:]
    return {
        "seconds": sum(r["cpu_s"] for r in rows) / len(rows),
        "tokens": sum(r["tokens"] for r in rows) / len(rows),
    }


def roles(roles: int, way: str) -> dict[str, float]:
    """Reading 16 rows of 64 tokens with each of so many roles: adapters on one base, or a model with adapter for each role."""
    import torch

    from pipeline.adapters import Batch, SharedBase
    from pipeline.config import LoraConfig, ModelConfig
    from pipeline.models import load

    lora = LoraConfig(last_layers=LAST_LAYERS)
    names = ("policy", "reference", "reward", "value")[:roles]
    bases = []
    for name in names:
        if way == "separate" or not bases:
            bases.append(SharedBase(*load(ModelConfig(dtype="float32")), lora))
        bases[-1].add(name, trainable=name in ("policy", "value"))
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(100, 20000, (16, 64), generator=generator).tolist()

    @torch.no_grad()
    def read() -> None:
        if way == "shared":
            batch = Batch.of(ids, 0)
            trunk = bases[0].trunk(batch)
            for name in names:
                bases[0].states(trunk, batch.mask, name)
        else:
            for base, name in zip(bases, names, strict=True):
                base.encode(ids, name)

    return {"seconds": _median_seconds(read)}


def rankings(answers: int, way: str) -> dict[str, float]:
    """One training step on 4 rankings: prompt of 24 tokens, K answers of 32, all K(K−1)/2 pairs."""
    import itertools

    import torch

    from pipeline.adapters import REWARD, SharedBase
    from pipeline.config import LoraConfig, ModelConfig
    from pipeline.models import load
    from reward.model import ScalarHead, last_states
    from reward.train import ranking_loss

    base = SharedBase(*load(ModelConfig(dtype="float32")), LoraConfig(last_layers=LAST_LAYERS))
    base.add(REWARD, trainable=True)
    head = ScalarHead(base.hidden_size)
    generator = torch.Generator().manual_seed(0)
    lists = [
        (
            torch.randint(100, 20000, (24,), generator=generator).tolist(),
            torch.randint(100, 20000, (answers, 32), generator=generator).tolist(),
        )
        for _ in range(4)
    ]
    pairs = list(itertools.combinations(range(answers), 2))

    def alone(rows: list[list[int]]) -> torch.Tensor:
        states, lengths = base.encode(rows, REWARD)
        return head(last_states(states, lengths))

    def step() -> None:
        if way == "side by side":
            scores = head(base.encode_lists(lists, REWARD)).split(answers)
            loss = sum(ranking_loss(s, pairs) for s in scores)
        elif way == "each answer":
            scores = alone([prompt + answer for prompt, own in lists for answer in own]).split(answers)
            loss = sum(ranking_loss(s, pairs) for s in scores)
        else:
            # As trainers on pairs do it: both answers of every pair are read, K(K−1) readings of a ranking.
            loss = 0.0
            for prompt, own in lists:
                scores = alone([prompt + own[i] for pair in pairs for i in pair]).view(-1, 2)
                loss = loss - torch.nn.functional.logsigmoid(scores[:, 0] - scores[:, 1]).mean()
        loss.backward()

    return {"seconds": _median_seconds(step), "readings": {"each pair": answers * (answers - 1)}.get(way, answers)}


def _median_seconds(work, times: int = 3) -> float:
    work()
    taken = []
    for _ in range(times):
        started = time.process_time()
        work()
        taken.append(time.process_time() - started)
    return sorted(taken)[times // 2]


if __name__ == "__main__":
    main()
