"""Overoptimisation in small: best-of-n against proxies of several sizes, with the rubric as gold (after Gao et al. 2022).

    python benchmarks/overoptimise.py pool --run runs/seed-0      # 100 prompts x 64 answers of its SFT policy, scored by the rubric
    python benchmarks/overoptimise.py proxies --cache DIR         # reward models on 250 … 4000 pairs, clean and with a quarter flipped
    python benchmarks/overoptimise.py page                        # docs/overoptimisation.md and its plots

Each command goes on where it was stopped. Sizes, flips and seeds were fixed beforehand and all of them are shown. Results:
`benchmarks/results/overoptimise.json`.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from itertools import combinations
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
RESULTS = ROOT / "benchmarks" / "results" / "overoptimise.json"
PARTS = ROOT / "runs" / "overoptimise"
PROMPTS, ANSWERS, TOKENS, TEMPERATURE = 100, 64, 32, 0.7
PAIRS, FLIPS = (250, 500, 1000, 2000, 4000), (0.0, 0.25)
# Members of an ensemble at one size: the first is the proxy that stands alone.
ENSEMBLE_AT, MEMBERS = 1000, 3
LAST_LAYERS = 2
SETTINGS = {
    "epochs": 3.0,
    "learning_rate": 1e-3,
    "head_learning_rate": 1e-3,
    "lists_per_step": 4,
    "micro_lists": 4,
    "mismatched_negatives": False,
    "start_from_sft": False,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("pool", "proxies", "page"))
    parser.add_argument("--run", type=Path, default=ROOT / "runs" / "seed-0", help="a finished run of the quickstart")
    parser.add_argument("--cache", type=Path, help="folder for the trunk's states")
    arguments = parser.parse_args()
    PARTS.mkdir(parents=True, exist_ok=True)
    if arguments.part == "page":
        from benchmarks import overoptimise_page

        overoptimise_page.main()
        return
    import torch

    torch.set_num_threads(1)
    if arguments.part == "pool":
        pool(arguments.run)
    else:
        proxies(arguments.cache or PARTS / "cache")


def pool(run: Path) -> None:
    """A file for each prompt: 64 answers as token ids, their gold scores, and whether they ended by themselves."""
    from data.loading import load as load_records
    from pipeline.adapters import POLICY
    from pipeline.config import load_config
    from pipeline.generation import Sampling, sample
    from pipeline.roles import ADAPTER, open_base
    from pipeline.template import prompt_ids
    from reward.rubric import gold_score

    base = open_base(load_config(run / "config.yaml"))
    base.load(POLICY, run / "stages" / "sft" / ADAPTER, trainable=False)
    tokenizer = base.tokenizer
    for number, prompt in enumerate(
        load_records(ROOT / "data" / "seed" / "heldout_prompts.jsonl", "prompts")[:PROMPTS]
    ):
        file = PARTS / f"pool-{number:03d}.json"
        if file.exists():
            continue
        ids, question = prompt_ids(tokenizer, prompt.messages), prompt.messages[-1].content
        with base.acting_as(POLICY):
            drawn = sample(
                base.causal_lm,
                [ids] * ANSWERS,
                Sampling(TOKENS, TEMPERATURE, seed=number),
                eos_id=tokenizer.eos_token_id,
                pad_id=tokenizer.pad_token_id,
            )
        texts = [tokenizer.decode(s.ids[:-1] if s.finished else s.ids, skip_special_tokens=True) for s in drawn]
        gold = [gold_score(question, text, s.finished) for text, s in zip(texts, drawn, strict=True)]
        write(file, {"prompt": ids, "answers": [s.ids for s in drawn], "gold": gold})
        print(f"prompt {number + 1} of {PROMPTS}: gold {sum(gold) / ANSWERS:.2f}", flush=True)


def judged_rankings():
    """(ranking, the rubric's scores of its answers) of the built-in training rankings, in one order for every experiment."""
    from data.loading import load as load_records
    from reward.rubric import gold_score

    rankings = load_records(ROOT / "data" / "seed" / "rankings.jsonl", "ranked")
    random.Random(0).shuffle(rankings)
    for ranking in rankings:
        question = ranking.prompt[-1].content
        yield ranking, [gold_score(question, t, f) for t, f in zip(ranking.responses, ranking.finished, strict=True)]


def told_pairs(pairs: int, flips: float, seed: int):
    """(ranking, [(better, worse), …]) of the first training rankings until there are `pairs` comparisons by the rubric, a share `flips` wrong.

    The lists come in one order for all sizes, so a smaller set is part of a larger one; which comparisons are wrong is drawn once
    for each (flips, seed), so the smaller set is wrong in the same places.
    """
    rng, left = random.Random(f"{flips} {seed}"), pairs
    for ranking, gold in judged_rankings():
        told = []
        for i, j in combinations(range(len(gold)), 2):
            if abs(gold[i] - gold[j]) > 1e-9:
                better = (i, j) if gold[i] > gold[j] else (j, i)
                told.append(better[::-1] if rng.random() < flips else better)
        if told := told[:left]:
            left -= len(told)
            yield ranking, told
    if left:
        raise SystemExit(f"only {pairs - left} of {pairs} pairs: data/seed/rankings.jsonl holds no more.")


def labelled_lists(tokenizer, pairs: int, flips: float, seed: int) -> list:
    """`told_pairs` as the reward model's training reads them."""
    from pipeline.template import prompt_ids, response_ids
    from reward.train import EncodedRanking

    found = []
    for ranking, told in told_pairs(pairs, flips, seed):
        answers = [
            tuple(response_ids(tokenizer, t, finished=f))
            for t, f in zip(ranking.responses, ranking.finished, strict=True)
        ]
        prompt = tuple(prompt_ids(tokenizer, ranking.prompt))
        found.append(EncodedRanking(prompt, tuple(answers), tuple(told), told[0][0]))
    return found


def plan() -> list[tuple[int, float, int, int]]:
    """(pairs, flips, seed, noise) of every proxy, the cheap ones first; `noise` is the seed of the wrong labels.

    Members of an ensemble share their pairs. Their wrong labels are each one's own, as if three groups of raters had judged the same pairs; or
    the same for all, as where there is one set of labels.
    """
    single = [(pairs, flips, 0, 0) for pairs in PAIRS for flips in FLIPS]
    own = [(ENSEMBLE_AT, flips, seed, seed) for flips in FLIPS for seed in range(1, MEMBERS)]
    shared = [(ENSEMBLE_AT, flips, seed, 0) for flips in FLIPS if flips for seed in range(1, MEMBERS)]
    return single + own + shared


def proxies(cache_folder: Path) -> None:
    import torch

    from benchmarks.trunk_cache import TrunkCache
    from pipeline.adapters import SharedBase
    from pipeline.config import LoraConfig, ModelConfig, RewardConfig
    from pipeline.models import load
    from reward.model import ScalarHead
    from reward.train import train

    files = [PARTS / f"pool-{number:03d}.json" for number in range(PROMPTS)]
    if missing := [file.name for file in files if not file.exists()]:
        raise SystemExit(
            f"{len(missing)} of {PROMPTS} prompts are not drawn yet: run `benchmarks/overoptimise.py pool` first."
        )
    drawn = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    # Eight answers a row: side by side they read the prompt once, and a row stays short.
    lists = [(p["prompt"], p["answers"][k : k + 8]) for p in drawn for k in range(0, ANSWERS, 8)]
    model, tokenizer = load(ModelConfig())
    base = SharedBase(model, tokenizer, LoraConfig(last_layers=LAST_LAYERS))
    cache = TrunkCache(base, cache_folder, f"{ModelConfig().name} {model.dtype}")
    cache.fill([(r.prompt, r.answers) for r in labelled_lists(tokenizer, max(PAIRS), 0.0, 0)])
    cache.fill(lists)
    for pairs, flips, seed, noise in plan():
        file = PARTS / f"proxy-{pairs}-{round(100 * flips)}-{seed}{f'-labels-{noise}' if noise != seed else ''}.json"
        if file.exists():
            continue
        role, started = file.stem, time.process_time()
        torch.manual_seed(seed)
        base.add(role, trainable=True)
        head, read = ScalarHead(base.hidden_size), lambda some, role=role: cache.encode(some, role)
        rankings = labelled_lists(tokenizer, pairs, flips, noise)
        train(read, head, base.parameters(role), rankings, RewardConfig(**SETTINGS), seed=seed)
        with torch.no_grad():
            scores = torch.cat([head(read(lists[k : k + 4])) for k in range(0, len(lists), 4)])
        rows = [[round(s, 4) for s in row] for row in scores.view(PROMPTS, ANSWERS).tolist()]
        spent = time.process_time() - started
        found = {"pairs": pairs, "flips": flips, "seed": seed, "noise": noise, "lists": len(rankings), "cpu_s": spent}
        write(file, found | {"scores": rows})
        print(f"{file.stem}: {len(rankings)} lists, {spent:.0f} CPU-s", flush=True)
        for parameter in base.parameters(role):
            parameter.requires_grad_(False)
    done = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(PARTS.glob("proxy-*.json"))]
    write(RESULTS, {"settings": SETTINGS, "gold": [p["gold"] for p in drawn], "proxies": done})


def write(file: Path, found: dict) -> None:
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(found) + "\n", encoding="utf-8")
    partial.replace(file)


if __name__ == "__main__":
    main()
