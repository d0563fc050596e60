"""Makes the built-in prompts and rankings again: the base model's own answers, ranked by the rubric with noise.

    python scripts/make_seed.py                     # samples (about ten minutes on 2 cores), then ranks
    python scripts/make_seed.py --rank-only         # ranks the samples of an earlier call again

Writes data/seed/{rankings,heldout_rankings,heldout_prompts}.jsonl. The demonstrations are written by hand.
Sampling in bfloat16 depends on the processor's rounding, so another machine draws other answers of the same kind.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import re
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from data.records import Message  # noqa: E402
from pipeline.config import ModelConfig  # noqa: E402
from pipeline.generation import Sampling, sample  # noqa: E402
from pipeline.models import load  # noqa: E402
from pipeline.template import prompt_ids  # noqa: E402
from reward.rubric import gold_score  # noqa: E402

SEED_DIR = ROOT / "data" / "seed"
SAMPLES = ROOT / "runs" / "seed_samples.json"
MAX_NEW_TOKENS = 40
HELDOUT_PROMPTS = 150
# Four answers a prompt, drawn in four ways (hint, temperature, bonus on the logit of the end), so that a list holds long and short,
# cut and finished, sound and wild answers. The hint is not part of the prompt that the reward model sees. The last way ends too
# early, often in mid-sentence: a policy that is paid for ending will try that, so raters must have had a chance to say no to it.
WAYS = (
    (None, 0.7, 0.0),
    ("Answer in one short sentence.", 0.7, 0.0),
    ("Answer in one short sentence.", 1.0, 0.0),
    (None, 0.8, 12.0),
)
FLIPPED = 0.20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rank-only", action="store_true", help=f"use the samples in {SAMPLES.relative_to(ROOT)}")
    arguments = parser.parse_args()
    if not arguments.rank_only:
        SAMPLES.parent.mkdir(exist_ok=True)
        SAMPLES.write_text(json.dumps(draw_samples()), encoding="utf-8")
    write_rankings(json.loads(SAMPLES.read_text(encoding="utf-8")))


def prompts() -> list[dict]:
    """Every question of data/seed/topics.json: training topics first, then the held-out ones, each shuffled."""
    categories = json.loads((SEED_DIR / "topics.json").read_text(encoding="utf-8"))["categories"]
    rng = random.Random(0)
    sides = {}
    for split, key in (("train", "train"), ("held", "heldout")):
        rows = [
            {"topic": topic, "prompt": form.format(topic), "split": split}
            for category in categories.values()
            for topic in category[key]
            for form in category["forms"]
        ]
        rng.shuffle(rows)
        sides[split] = rows
    return sides["train"] + sides["held"][:HELDOUT_PROMPTS]


class EagerToEnd:
    """A causal LM whose end-of-sequence logit is raised by a constant."""

    def __init__(self, model, eos_id: int, bonus: float):
        self._model, self._eos_id, self._bonus = model, eos_id, bonus

    def __getattr__(self, name: str):
        return getattr(self._model, name)

    def __call__(self, **inputs):
        output = self._model(**inputs)
        output.logits[..., self._eos_id] += self._bonus
        return output


def draw_samples() -> list[dict]:
    model, tokenizer = load(ModelConfig())
    rows = [{**row, "answers": [], "finished": []} for row in prompts()]
    for number, (hint, temperature, bonus) in enumerate(WAYS):
        started = time.monotonic()
        asked = [prompt_ids(tokenizer, [Message("user", row["prompt"])], system_prompt=hint) for row in rows]
        drawn = sample(
            EagerToEnd(model, tokenizer.eos_token_id, bonus),
            asked,
            Sampling(MAX_NEW_TOKENS, temperature, seed=number),
            eos_id=tokenizer.eos_token_id,
            pad_id=tokenizer.pad_token_id,
            batch_size=96,
        )
        for row, answer in zip(rows, drawn, strict=True):
            row["answers"].append(tokenizer.decode(answer.ids, skip_special_tokens=True))
            row["finished"].append(answer.finished)
        print(f"way {number + 1} of {len(WAYS)}: {len(rows)} answers in {time.monotonic() - started:.0f} s", flush=True)
    return rows


def write_rankings(samples: list[dict]) -> None:
    rng = random.Random(1)
    spread = mallows_spread(len(WAYS), FLIPPED)
    forbidden = heldout_topics()
    rankings, heldout, pairs, flipped, named = [], [], 0, 0, 0
    for number, row in enumerate(samples):
        usable = [i for i, a in enumerate(row["answers"]) if a.strip()]
        # Which way an answer was drawn must not show in its place.
        rng.shuffle(usable)
        answers = [row["answers"][i].strip() for i in usable]
        finished = [row["finished"][i] for i in usable]
        golds = [gold_score(row["prompt"], a, f) for a, f in zip(answers, finished, strict=True)]
        ranks = clean = ranks_of(golds)
        if row["split"] == "train":
            ranks = noisy_ranks(golds, spread, rng)
            for i, j in itertools.combinations(range(len(golds)), 2):
                if clean[i] != clean[j]:
                    pairs += 1
                    flipped += (clean[i] < clean[j]) != (ranks[i] < ranks[j])
        entry = {
            "id": f"{'rank' if row['split'] == 'train' else 'held'}-{number:04d}",
            "topic": row["topic"],
            "prompt": row["prompt"],
            "responses": answers,
            "ranks": ranks,
            "finished": finished,
        }
        if row["split"] == "train" and forbidden.search(" ".join(answers)):
            named += 1
        elif len(set(zip(answers, finished, strict=True))) == len(answers) >= 2:
            (rankings if row["split"] == "train" else heldout).append(entry)
    _write("rankings.jsonl", rankings)
    _write("heldout_rankings.jsonl", heldout)
    _write("heldout_prompts.jsonl", [{k: e[k] for k in ("id", "topic", "prompt")} for e in heldout])
    print(
        f"{len(rankings)} rankings with {pairs} pairs, {flipped / pairs:.1%} of them flipped; {len(heldout)} held out"
    )
    print(f"{named} rankings left out because an answer names a held-out topic")


def heldout_topics() -> re.Pattern[str]:
    """Finds a held-out topic in a text, singular or plural, without its article."""
    categories = json.loads((SEED_DIR / "topics.json").read_text(encoding="utf-8"))["categories"]
    stems = [re.sub(r"^an? ", "", t) for c in categories.values() for t in c["heldout"]]
    stems = [re.sub(r"(ies|es|s|y)$", "", t) for t in stems]
    return re.compile(rf"\b({'|'.join(map(re.escape, stems))})", re.IGNORECASE)


def ranks_of(values: list[float]) -> list[int]:
    """0 for the highest; equal values share a rank."""
    return [sum(other > value for other in values) for value in values]


def noisy_ranks(golds: list[float], spread: float, rng: random.Random) -> list[int]:
    """A ranking drawn from the Mallows model around the true one: P(ranking) ∝ spread^(pairs in the wrong order).

    A rater who flips single comparisons would contradict himself; this is the same noise on whole rankings. Ties of the
    rubric are broken at random first, as a person who must choose would.
    """
    truth = sorted(range(len(golds)), key=lambda i: (-golds[i], rng.random()))
    orders = list(itertools.permutations(range(len(golds))))
    weights = [spread ** _inversions(order) for order in orders]
    order = rng.choices(orders, weights)[0]
    ranks = [0] * len(golds)
    for place, index in enumerate(order):
        ranks[truth[index]] = place
    return ranks


def mallows_spread(count: int, flipped: float) -> float:
    """The spread under which the expected share of pairs in the wrong order is `flipped`, by bisection."""
    orders = [_inversions(o) for o in itertools.permutations(range(count))]
    total = count * (count - 1) / 2
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        weights = [middle**d for d in orders]
        share = sum(d * w for d, w in zip(orders, weights, strict=True)) / sum(weights) / total
        low, high = (middle, high) if share < flipped else (low, middle)
    return (low + high) / 2


def _inversions(order: tuple[int, ...]) -> int:
    return sum(a > b for a, b in itertools.combinations(order, 2))


def _write(name: str, rows: list[dict]) -> None:
    with (SEED_DIR / name).open("w", encoding="utf-8", newline="\n") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
