"""Reward models on people's own labels: HH harmless in full by cross-validation, and several kinds of labels from one model.

    python benchmarks/people.py read --rows DIR --cache DIR     # the trunk reads every text once
    python benchmarks/people.py hh --rows DIR --cache DIR       # five folds of HH harmless, each saved as it falls
    python benchmarks/people.py kinds --rows DIR --cache DIR    # one model from four sets, tested on seven
    python benchmarks/people_page.py                            # docs/people.md with its tables and plots

DIR of --rows holds the public sets that docs/people.md names. The model is Thumbloop's own reward model on the embedded 135M base, adapters
on the last four layers. Seeds and settings stand in `SETTINGS` and were fixed before any test pair was scored; nothing was tuned. A
command that was stopped goes on where it was. Results: `benchmarks/results/people_*.json`, figures only, no text.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
RESULTS = ROOT / "benchmarks" / "results"
LAST_LAYERS, FOLDS, FOLD_SEED = 4, 5, 0
SEEDS = {"hh": (0,), "kinds": (0, 1)}
SETTINGS = {
    "epochs": 2.0,
    "learning_rate": 5e-4,
    "head_learning_rate": 1e-3,
    "lists_per_step": 8,
    "micro_lists": 1,
    "mismatched_negatives": False,
    "start_from_sft": False,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("read", "hh", "kinds"))
    parser.add_argument("--rows", type=Path, required=True, help="folder of the sets that docs/people.md names")
    parser.add_argument("--cache", type=Path, required=True, help="folder for the trunk's states, about 1.2 KB a token")
    parser.add_argument("--sets", nargs="+", help="read: only these sets")
    arguments = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    work = Work(arguments.rows, arguments.cache)
    {"read": work.read}[arguments.part](arguments.sets)


class Work:
    """The sets as token ids, the model, and the cache that both share."""

    def __init__(self, rows: Path, cache: Path):
        from benchmarks.labelled import encode, read_all
        from benchmarks.trunk_cache import TrunkCache
        from pipeline.adapters import SharedBase
        from pipeline.config import LoraConfig, ModelConfig, RewardConfig
        from pipeline.models import load

        model, tokenizer = load(ModelConfig())
        self.base = SharedBase(model, tokenizer, LoraConfig(last_layers=LAST_LAYERS))
        self.settings = RewardConfig(**SETTINGS)
        self.cache = TrunkCache(self.base, cache, f"{ModelConfig().name} {model.dtype}")
        self.sets = read_all(rows)
        self.encoded, self.cut = {}, {}
        for name, found in self.sets.items():
            kept = [item for item in found.lists if item.pairs]
            made = [encode(tokenizer, item) for item in kept]
            self.encoded[name] = list(zip(kept, (ranking for ranking, *_ in made), strict=True))
            self.cut[name] = {
                "lists": len(found.lists),
                "all_tied": len(found.lists) - len(kept),
                "used": len(kept),
                "prompts_cut": sum(cut > 0 for _, cut, _ in made),
                "answers": sum(len(ranking.answers) for ranking, *_ in made),
                "answers_cut": sum(cut for *_, cut in made),
                "left_out": dict(found.left_out),
            }

    def read(self, only: list[str] | None) -> None:
        started, spent, tokens = time.monotonic(), time.process_time(), 0
        for name, items in self.encoded.items():
            if only and name not in only:
                continue

            def count(more: int) -> None:
                nonlocal tokens
                tokens += more

            self.cache.fill([(r.prompt, r.answers) for _, r in items], count)
            cpu = time.process_time() - spent
            print(f"{name}: {len(items)} lists; so far {tokens} tokens, {cpu:.0f} CPU-s, {tokens / cpu:.0f} tokens a CPU-s, "
                  f"{time.monotonic() - started:.0f} s", flush=True)  # fmt: skip


def commit() -> str:
    return subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False).stdout[:12]


def save(name: str, found: dict) -> None:
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / name).write_text(json.dumps(found) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
