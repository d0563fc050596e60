"""What a reward model learns from votes of one kind and number, without any PPO: right on how many clean pairs?

    python benchmarks/reward_votes.py                     # after `benchmarks/loop.py` has collected votes; results/reward_votes.json
    python benchmarks/reward_votes.py --answers A.sqlite --tests B.sqlite --run runs/loop/start

The answers are those that people voted on in the loop; the votes are drawn anew by the same simulated people, so that every kind is about the
same answers: a choice between the two answers to a question, or a thumb on the first of them, or on both. The test pairs are answers of
another assistant, to be told apart as the rubric does, without noise; and the built-in held-out rankings. Each reward model starts
from the run's SFT adapter and its few rankings, and trains as the stage does. One seed; intervals resample lists.
"""

from __future__ import annotations

import argparse
import json
import random
import sqlite3
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]
RESULTS = HERE / "results" / "reward_votes.json"
SEED = 11


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("runs/loop/start"))
    parser.add_argument("--answers", type=Path, default=Path("runs/loop/votes-offline-0500.sqlite"))
    parser.add_argument("--tests", type=Path, default=Path("runs/loop/votes-online.sqlite"))
    parser.add_argument("--test-pairs", type=int, default=150)
    arguments = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    asked = duels(arguments.answers)
    known = {d["left"] for d in asked}
    # Of the later answers only: the store of the online rounds begins with the first assistant's.
    tests = [d for d in duels(arguments.tests) if d["left"] not in known][-arguments.test_pairs :]
    found = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    bench = Bench(arguments.run, tests)
    for name, make in kinds(asked).items():
        if name in found:
            continue
        started = time.monotonic()
        rankings, thumbs = make()
        found[name] = {**bench.measure(rankings, thumbs), "minutes": round((time.monotonic() - started) / 60, 2)}
        print(name, json.dumps(found[name]), flush=True)
        partial = RESULTS.with_name(RESULTS.name + ".partial")
        partial.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        partial.replace(RESULTS)


def duels(store: Path) -> list[dict]:
    """Question and both answers of every choice in a store, in order, each answer as (text, whether it ended)."""
    with sqlite3.connect(f"file:{store}?mode=ro", uri=True) as opened:
        rows = opened.execute(
            """SELECT q.content, l.content, l.finish, r.content, r.finish FROM comparison c
               JOIN message l ON l.id = c.left_message JOIN message r ON r.id = c.right_message
               JOIN message q ON q.id = l.parent ORDER BY c.id"""
        ).fetchall()
    named = [{"question": q, "left": (a, fa != "length"), "right": (b, fb != "length")} for q, a, fa, b, fb in rows]
    return [d for d in named if d["left"][0].strip() and d["right"][0].strip() and d["left"][0] != d["right"][0]]


def kinds(asked: list[dict]) -> dict:
    """What is learned from, by name: a function that gives rankings and thumbs."""
    half = len(asked) // 2
    both = [d | {"left": d["right"]} for d in asked]
    # The most telling first.
    return {
        "none": lambda: ([], []),
        "pairs-500": lambda: (choices(asked), []),
        "thumbs-500": lambda: ([], pressed(asked)),
        "pairs-250": lambda: (choices(asked[:half]), []),
        "lazy-thumbs-500": lambda: ([], pressed(asked, lazy=True)),
        "lazy-thumbs-500-one-threshold": lambda: ([], pressed(asked, lazy=True, known=False)),
        "pairs-125": lambda: (choices(asked[:125]), []),
        "pairs-60": lambda: (choices(asked[:60]), []),
        "thumbs-1000": lambda: ([], pressed([*asked, *both])),
        "pairs-250-thumbs-250": lambda: (choices(asked[:half]), pressed(asked[half:])),
    }


def choices(asked: list[dict]) -> list:
    """A reader's choice for each question."""
    from simulated.raters import Rater, choose

    from data.records import Message, Ranking
    from reward.rubric import gold_score

    out = []
    for number, duel in enumerate(asked):
        sides = [gold_score(duel["question"], *duel[side]) for side in ("left", "right")]
        left = choose(Rater(), *sides, random.Random(f"{SEED}-pair-{number}")) == "left"
        (one, ended), (other, other_ended) = duel["left"], duel["right"]
        prompt = (Message("user", duel["question"]),)
        out.append(Ranking(f"v{number}", prompt, (one, other), (int(not left), int(left)), (ended, other_ended)))
    return out


def pressed(asked: list[dict], *, lazy: bool = False, known: bool = True) -> list:
    """A thumb on the left answer of each question; with `lazy` every second one is pressed without reading. `known` tells whose it is."""
    from simulated.raters import Lazy, Rater, thumb

    from data.records import Message, Thumb
    from reward.rubric import gold_score

    out = []
    for number, duel in enumerate(asked):
        careless = lazy and number % 2
        rater = Lazy() if careless else Rater()
        text, ended = duel["left"]
        points = gold_score(duel["question"], text, ended)
        up = thumb(rater, points, random.Random(f"{SEED}-thumb-{number}")) == 1
        who = ("lazy" if careless else f"reader-{number // 2 % 16}") if known else None
        prompt = (Message("user", duel["question"]),)
        out.append(Thumb(f"t{number}", prompt, text, up, finished=ended, rater=who))
    return out


class Bench:
    """A run's SFT adapter and few rankings, and the pairs to be told apart."""

    def __init__(self, run: Path, tests: list[dict]):
        from data.loading import load
        from pipeline.run import Run

        self.run, self.config = run, Run.load(run).config
        self.few = load(run / "stages" / "prepare" / "rankings.train.jsonl", "ranked")
        self.held = load(run / "stages" / "prepare" / "heldout_rankings.jsonl", "ranked")
        self.tests = choices(tests)

    def measure(self, rankings: list, thumbs: list) -> dict:
        """Clean accuracy after training on the run's rankings, these and these thumbs."""
        import torch

        from pipeline.adapters import REWARD
        from pipeline.roles import ADAPTER, RewardModel, open_base
        from pipeline.stages.reward import encode_rankings, encode_thumbs
        from reward.model import ScalarHead
        from reward.scale import Scale
        from reward.train import train

        settings = self.config.reward.model_copy(update={"thumbs_weight": 1.0})
        torch.manual_seed(self.config.seed)
        base = open_base(self.config)
        base.load(REWARD, self.run / "stages" / "sft" / ADAPTER, trainable=True)
        head = ScalarHead(base.hidden_size)
        encoded, _ = encode_rankings(base, [*self.few, *rankings], self.config)
        lone = encode_thumbs(base, thumbs, self.config)
        encode = lambda lists: base.encode_lists(lists, REWARD)  # noqa: E731
        train(encode, head, base.parameters(REWARD), encoded, settings, seed=self.config.seed, thumbs=lone)
        model = RewardModel(base, head, Scale(), REWARD)
        return {
            "rankings": len(rankings),
            "thumbs": len(thumbs),
            "ups": sum(t.up for t in thumbs),
            "on_policy": self._right(model, self.tests),
            "held_out": self._right(model, self.held),
        }

    def _right(self, model, rankings: list) -> dict:
        """How often the model agrees with the rubric, on pairs that differ by more than a tenth of a point."""
        from pipeline.evaluation.statistics import cluster_bootstrap
        from pipeline.template import prompt_ids, response_ids
        from reward.metrics import pair_outcomes, pairs_by
        from reward.rubric import gold_score

        tokenizer = model.base.tokenizer
        lists = [
            (
                prompt_ids(tokenizer, r.prompt, system_prompt=self.config.model.system_prompt),
                [response_ids(tokenizer, a, finished=f) for a, f in zip(r.responses, r.finished, strict=True)],
            )
            for r in rankings
        ]
        outcomes, clusters = [], []
        for r, scores in zip(rankings, model.score_lists(lists), strict=True):
            points = [gold_score(r.prompt[-1].content, a, f) for a, f in zip(r.responses, r.finished, strict=True)]
            own = pair_outcomes(scores, pairs_by(points, margin=0.1))
            outcomes += own
            clusters += [r.id] * len(own)
        value, low, high = cluster_bootstrap(outcomes, clusters)
        return {"value": value, "ci_low": low, "ci_high": high, "n": len(outcomes)}


if __name__ == "__main__":
    main()
