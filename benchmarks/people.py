"""Reward models on people's own labels: HH harmless in full by cross-validation, and several kinds of labels from one model.

    python benchmarks/people.py read --rows DIR --cache DIR     # the trunk reads every text once
    python benchmarks/people.py hh --rows DIR --cache DIR       # five folds of HH harmless, each saved as it falls
    python benchmarks/people.py kinds --rows DIR --cache DIR    # one model from four sets, tested on six sets
    python benchmarks/people_page.py                            # docs/people.md with its tables and plots

DIR of --rows holds the public sets that docs/people.md names. The model is Thumbloop's own reward model on the embedded 135M base, adapters
on the last two layers. Seeds and settings stand in `SETTINGS` and were fixed before any test pair was scored; nothing was tuned. A
command that was stopped goes on where it was. Results: `benchmarks/results/people_*.json`, figures only, no text.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
RESULTS = ROOT / "benchmarks" / "results"
PARTS = ROOT / "runs" / "people"
LAST_LAYERS, FOLDS, FOLD_SEED = 2, 5, 0
SEEDS = {"hh": (0,), "kinds": (0,)}
# UltraFeedback is labelled by GPT-4 and its texts are long: the first 120 lists with a label, for the comparison.
FIRST = {"UltraFeedback": 120}
SETTINGS = {
    "epochs": 1.0,
    "learning_rate": 1e-3,
    "head_learning_rate": 1e-3,
    "lists_per_step": 4,
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
    {"read": work.read, "hh": work.hh, "kinds": work.kinds}[arguments.part](arguments.sets)


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
            # A pair on which the annotators are even has no label, but votes to agree or disagree with.
            kept = [item for item in found.lists if item.pairs or any(item.votes)][: FIRST.get(name)]
            made = [encode(tokenizer, item) for item in kept]
            self.encoded[name] = list(zip(kept, (ranking for ranking, *_ in made), strict=True))
            self.cut[name] = {
                "lists": len(found.lists),
                "without_a_label": sum(not item.pairs for item in found.lists),
                "used": sum(bool(item.pairs) for item in kept),
                "questions": len({item.question for item in kept if item.pairs}),
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

    def hh(self, _: list[str] | None) -> None:
        """Every pair of HH harmless is scored by the model of the fold that did not hold its question."""
        from benchmarks.floors import folds

        items = self.encoded["HH harmless"]
        of = folds([item.question for item, _ in items], FOLDS, FOLD_SEED)
        for seed in SEEDS["hh"]:
            for fold in range(FOLDS):
                train = [pair for pair, place in zip(items, of, strict=True) if place != fold]
                test = [pair for pair, place in zip(items, of, strict=True) if place == fold]
                self._trained(f"people_hh_{seed}_{fold}.json", train, {"HH harmless": test}, seed)
        self._join("people_hh.json", [f"people_hh_{s}_{fold}.json" for s in SEEDS["hh"] for fold in range(FOLDS)])

    def kinds(self, _: list[str] | None) -> None:
        """One model from the training questions of four sets, tested on the other questions of these and on whole other sets."""
        from benchmarks.labelled import TRAINED_ON, tests_on

        only_tested = {i.question for n, s in self.sets.items() if n not in TRAINED_ON for i in s.lists}
        train, test = [], {}
        for name, items in self.encoded.items():
            for pair in items:
                question = pair[0].question
                learnt = name in TRAINED_ON and not tests_on(question) and question not in only_tested
                if not learnt:
                    test.setdefault(name, []).append(pair)
                elif pair[0].pairs:
                    train.append(pair)
        for seed in SEEDS["kinds"]:
            self._trained(f"people_kinds_{seed}.json", train, test, seed)
        self._join("people_kinds.json", [f"people_kinds_{seed}.json" for seed in SEEDS["kinds"]])

    def _trained(self, file: str, train: list, test: dict[str, list], seed: int) -> None:
        """Trains one reward model and one bag of words, and writes what both say of every test pair."""
        import torch

        from benchmarks.floors import BagOfWords
        from reward.model import ScalarHead
        from reward.train import train as fit

        if (PARTS / file).exists():
            return
        role, started = file.removesuffix(".json").replace("_", "-"), time.process_time()
        torch.manual_seed(seed)
        self.base.add(role, trainable=True)
        head = ScalarHead(self.base.hidden_size)
        steps: list[dict] = []

        def on_step(figures: dict, _) -> None:
            steps.append({name: round(figures[name], 4) for name in ("loss", "accuracy")})
            if len(steps) % 20 == 0:
                mean = sum(step["loss"] for step in steps[-20:]) / 20
                print(
                    f"{file} step {len(steps)}: loss {mean:.3f}, {time.process_time() - started:.0f} CPU-s", flush=True
                )

        fit(
            lambda lists: self.cache.encode(lists, role),
            head,
            self.base.parameters(role),
            [ranking for _, ranking in train],
            self.settings,
            seed=seed,
            on_step=on_step,
        )
        pairs = [(item.answers[b], item.answers[w], 1 / len(item.pairs)) for item, _ in train for b, w in item.pairs]
        bag = BagOfWords().fit([(b, w) for b, w, _ in pairs], [weight for *_, weight in pairs])
        tested = [
            line | {"set": name, "seed": seed, "model": file}
            for name, items in test.items()
            for item, ranking in items
            for line in self._lines(item, ranking, head, role, bag)
        ]
        found = {
            "trained_on": len(train),
            "trained_pairs": len(pairs),
            "cpu_s": round(time.process_time() - started),
            "steps": steps,
            "pairs": tested,
        }
        save(PARTS / file, found)
        for parameter in self.base.parameters(role):
            parameter.requires_grad_(False)

    def _lines(self, item, ranking, head, role: str, bag) -> list[dict]:
        """A line for each pair: margins (better minus worse), lengths in characters, and the votes where there are several.

        Where the votes are even, `label` is 0 and the first answer stands in the better's place.
        """
        import torch

        with torch.no_grad():
            scores = head(self.cache.encode([(ranking.prompt, ranking.answers)], role)).tolist()
        told = []
        for better, worse in item.pairs or ((0, 1),):
            texts = (item.answers[better], item.answers[worse])
            told.append(
                {
                    "list": item.id,
                    "subset": item.subset,
                    "label": int(bool(item.pairs)),
                    "question": hashlib.sha256(item.question.encode()).hexdigest()[:12],
                    "margin": round(scores[better] - scores[worse], 5),
                    "bag": round(float(bag.margins([texts])[0]), 5),
                    "characters": [len(text) for text in texts],
                    # As seen from the better answer: 1 for it, −1 against it.
                    "votes": [vote if better == 0 else -vote for vote in item.votes],
                }
            )
        return told

    def _join(self, file: str, parts: list[str]) -> None:
        found = [json.loads((PARTS / part).read_text(encoding="utf-8")) for part in parts]
        save(
            RESULTS / file,
            {
                "command": f"python benchmarks/people.py {file.removeprefix('people_').removesuffix('.json')} --rows DIR --cache DIR",
                "commit": commit(),
                "settings": {**SETTINGS, "last_layers": LAST_LAYERS},
                "sets": self.cut,
                "models": [{k: v for k, v in part.items() if k != "pairs"} for part in found],
                "pairs": [line for part in found for line in part["pairs"]],
            },
        )


def commit() -> str:
    return subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False).stdout[
        :12
    ]


def save(file: Path, found: dict) -> None:
    """A line a pair, so that a change of one is one line of a diff."""
    file.parent.mkdir(parents=True, exist_ok=True)
    pairs = found.pop("pairs")
    head = json.dumps(found, ensure_ascii=False)[:-1]
    lines = ",\n".join(json.dumps(line, ensure_ascii=False) for line in pairs)
    file.write_text(f'{head}, "pairs": [\n{lines}\n]}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()
