"""Reward models on people's own labels: HH harmless in full by cross-validation, and several kinds of labels from one model.

    python benchmarks/people.py floors --rows DIR               # the floors and the annotators' agreement; no model, a minute
    python benchmarks/people.py read --rows DIR --cache DIR     # the trunk reads every text once
    python benchmarks/people.py hh --rows DIR --cache DIR       # five folds of HH harmless, each saved as it falls
    python benchmarks/people.py hh10 --rows DIR --cache DIR     # the same folds with the quickstart's ten adapted layers
    python benchmarks/people.py kinds --rows DIR --cache DIR    # one model from four sets, tested on six
    python benchmarks/people_page.py                            # docs/people.md with its tables and plots

DIR of --rows holds the public sets that docs/people.md names. The model is Thumbloop's own reward model on the embedded 135M base, adapters
on the last two layers; on HH harmless also on the last ten, as the quickstart has it.
Seeds and settings stand in `SETTINGS` and were fixed before any test pair was scored; nothing was tuned. A command
that was stopped goes on where it was. Results: `benchmarks/results/people_*.json`, figures only, no text.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.floors import folds  # noqa: E402
from benchmarks.labelled import TRAINED_ON, Labelled, LabelledSet, read_all, tests_on  # noqa: E402
from reward.bag_of_words import BagOfWords  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
PARTS = ROOT / "runs" / "people"
LAST_LAYERS = {"hh": 2, "hh10": 10, "kinds": 2}
FOLDS, FOLD_SEED = 5, 0
SEEDS = {"hh": (0,), "kinds": (0,)}
# Other models on the folds of a design; its floors are theirs.
SAME_FOLDS = {"hh10": "hh"}
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


@dataclass(frozen=True)
class Fit:
    """One model to train, and what it is tested on, by set."""

    name: str
    seed: int
    train: tuple[Labelled, ...]
    test: dict[str, tuple[Labelled, ...]]

    def tested(self) -> list[Labelled]:
        return [item for items in self.test.values() for item in items]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("floors", "read", *DESIGNS))
    parser.add_argument("--rows", type=Path, required=True, help="folder of the sets that docs/people.md names")
    parser.add_argument("--cache", type=Path, help="folder for the trunk's states, about 1.2 KB a token")
    parser.add_argument("--sets", nargs="+", help="read: only these sets")
    arguments = parser.parse_args()
    sets = {name: used(name, found) for name, found in read_all(arguments.rows).items()}
    if arguments.part == "floors":
        for design, fits in DESIGNS.items():
            if design not in SAME_FOLDS:
                floors(design, sets)
            join(design, fits(sets), command(design))
        return
    if arguments.cache is None:
        parser.error("--cache is needed: a folder for the trunk's states")
    import torch

    from benchmarks.people_models import Models

    torch.set_num_threads(1)
    models = Models(arguments.cache, LAST_LAYERS.get(arguments.part, 2))
    if arguments.part == "read":
        models.read({name: found.lists for name, found in sets.items() if name in (arguments.sets or sets)})
    else:
        models.train(arguments.part, DESIGNS[arguments.part](sets), command(arguments.part))


def used(name: str, found: LabelledSet) -> LabelledSet:
    """Lists with a label, or with votes that are even: these have no label, but agree or disagree with each other."""
    told = [item for item in found.lists if item.pairs or any(item.votes)]
    found.left_out["without a label or a vote"] = len(found.lists) - len(told)
    found.left_out["after the first lists"] = max(0, len(told) - FIRST.get(name, len(told)))
    return LabelledSet(told[: FIRST.get(name)], +found.left_out)


def cross_validated(sets: dict[str, LabelledSet], prefix: str = "hh") -> list[Fit]:
    """Every pair of HH harmless is tested on the model of the fold that did not hold its question."""
    name = "HH harmless"
    items = sets[name].lists
    of = folds([item.question for item in items], FOLDS, FOLD_SEED)
    return [
        Fit(
            f"{prefix}-{seed}-{fold}",
            seed,
            tuple(item for item, place in zip(items, of, strict=True) if place != fold),
            {name: tuple(item for item, place in zip(items, of, strict=True) if place == fold)},
        )
        for seed in SEEDS["hh"]
        for fold in range(FOLDS)
    ]


def jointly(sets: dict[str, LabelledSet]) -> list[Fit]:
    """One model from the training questions of four sets, tested on the other questions of these and on whole other sets."""
    only_tested = {item.question for name, s in sets.items() if name not in TRAINED_ON for item in s.lists}

    def learnt(name: str, item: Labelled) -> bool:
        return name in TRAINED_ON and not tests_on(item.question) and item.question not in only_tested

    train = [item for name, s in sets.items() for item in s.lists if learnt(name, item) and item.pairs]
    test = {name: tuple(item for item in s.lists if not learnt(name, item)) for name, s in sets.items()}
    return [Fit(f"kinds-{seed}", seed, tuple(train), test) for seed in SEEDS["kinds"]]


DESIGNS = {"hh": cross_validated, "hh10": partial(cross_validated, prefix="hh10"), "kinds": jointly}


def floors(design: str, sets: dict[str, LabelledSet]) -> None:
    """A bag of words on the very lists that each reward model learns from, and what else is known of every test pair."""
    fits, lines = DESIGNS[design](sets), []
    for fit in fits:
        told = [(item, b, w) for item in fit.train for b, w in item.pairs]
        pairs = [(item.answers[b], item.answers[w]) for item, b, w in told]
        weights, questions = ([f(item) for item, *_ in told] for f in (lambda i: 1 / len(i.pairs), lambda i: i.question))
        bag = BagOfWords().fit(pairs, weights, questions)
        for name, items in fit.test.items():
            for item in items:
                lines += [{"fit": fit.name, "set": name} | line for line in pair_lines(item, bag)]
        print(f"{fit.name}: bag of {len(bag.vocabulary)} terms from {len(pairs)} pairs, penalty {bag.penalty:g}", flush=True)
    found = {
        "command": command("floors"),
        "sets": {name: {"used": len(s.lists), "left_out": dict(s.left_out)} for name, s in sets.items()},
        "trained_on": {fit.name: len(fit.train) for fit in fits},
    }
    save(RESULTS / f"people_{design}_floors.json", found, lines)


def join(design: str, fits: list[Fit], said: str) -> None:
    """What is trained so far as one file of results; nothing where no model is done."""
    files = {fit.name: PARTS / f"{fit.name}.json" for fit in fits}
    parts = {name: json.loads(file.read_text(encoding="utf-8")) for name, file in files.items() if file.exists()}
    lines = [line for part in parts.values() for line in part.pop("pairs")]
    if parts:
        found = {"command": said, "last_layers": LAST_LAYERS[design], "settings": SETTINGS, "fits": parts}
        save(RESULTS / f"people_{design}.json", found, lines)


def pair_lines(item: Labelled, bag: BagOfWords) -> list[dict]:
    """A line for each pair, better answer first. Where the votes are even, `label` is 0 and the first answer stands first."""
    told = []
    for better, worse in compared(item):
        texts = (item.answers[better], item.answers[worse])
        told.append(
            {
                "list": item.id,
                "subset": item.subset,
                "question": hashlib.sha256(item.question.encode()).hexdigest()[:12],
                "label": int(bool(item.pairs)),
                "bag": round(float(bag.margins([texts])[0]), 5),
                "characters": [len(text) for text in texts],
                # As seen from the first of the two: 1 for it, −1 against it.
                "votes": [vote if better == 0 else -vote for vote in item.votes],
            }
        )
    return told


def compared(item: Labelled) -> tuple[tuple[int, int], ...]:
    return item.pairs or ((0, 1),)


def command(part: str) -> str:
    return f"python benchmarks/people.py {part} --rows DIR" + ("" if part == "floors" else " --cache DIR")


def commit() -> str:
    return subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False).stdout[
        :12
    ]


def save(file: Path, found: dict, lines: list[dict]) -> None:
    """A line a pair, so that a change of one is one line of a diff."""
    file.parent.mkdir(parents=True, exist_ok=True)
    head = json.dumps({"commit": commit(), **found}, ensure_ascii=False)[:-1]
    body = ",\n".join(json.dumps(line, ensure_ascii=False) for line in lines)
    half = file.with_suffix(".partial")
    half.write_text(f'{head}, "pairs": [\n{body}\n]}}\n', encoding="utf-8")
    half.replace(file)


if __name__ == "__main__":
    main()
