"""What finished runs did beside their task, read again from what they left: the numbers behind the bounds in docs/evaluation.md.

    python benchmarks/beside.py runs/seed-0 runs/seed-1 runs/seed-2      # → benchmarks/results/beside.json

Also for runs of an earlier version, whose cards lack these numbers: nothing is trained or generated. Each run is written as it falls.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from data.loading import load as load_records  # noqa: E402
from data.yardsticks import BUILT_IN, load_facts, load_paragraphs, source  # noqa: E402
from pipeline import progress  # noqa: E402
from pipeline.adapters import BASE  # noqa: E402
from pipeline.config import load_config  # noqa: E402
from pipeline.evaluation import harness  # noqa: E402
from pipeline.evaluation.answers import read_answers  # noqa: E402
from pipeline.evaluation.comparisons import length_controlled_win_rate  # noqa: E402
from pipeline.evaluation.forgetting import Paragraphs  # noqa: E402
from pipeline.evaluation.reward_card import calibration_entries, length_entries  # noqa: E402
from pipeline.evaluation.reward_probes import probe_answers, probe_facts  # noqa: E402
from pipeline.evaluation.statistics import wins  # noqa: E402
from pipeline.evaluation.sycophancy import Questions  # noqa: E402
from pipeline.evaluation.yardsticks import Measured  # noqa: E402
from pipeline.roles import ADAPTER, RewardEnsemble, open_base  # noqa: E402
from reward.metrics import pairs_by  # noqa: E402
from reward.rubric import gold_score  # noqa: E402

CONFIG = ROOT / "configs" / "quickstart.yaml"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "beside.json")
    parser.add_argument("--threads", type=int, default=None)
    arguments = parser.parse_args()
    if arguments.threads:
        import torch

        torch.set_num_threads(arguments.threads)
    config = load_config(CONFIG)
    found = {}
    for run in arguments.runs:
        found[run.name] = {e.metric: [e.value, e.ci_low, e.ci_high, e.n] for e in measure(run, config)}
        text = json.dumps(_plain({"config": CONFIG.name, "value_low_high_n": found}), indent=1, allow_nan=False)
        arguments.out.write_text(text + "\n", encoding="utf-8")
        print(run, "done", flush=True)


def measure(run: Path, config):
    base = open_base(config)
    paragraphs = Paragraphs(base, load_paragraphs(source("general_text", BUILT_IN)))
    questions = Questions(base, load_facts(source("facts", BUILT_IN)))
    seen = {}
    for policy in (BASE, "sft", "ppo"):
        if policy != BASE:
            base.load(policy, run / "stages" / policy / ADAPTER, trainable=False)
        seen[policy] = Measured(paragraphs.read(policy), questions.ask(policy))
    for policy, before in ((BASE, None), ("sft", BASE), ("ppo", "sft")):
        forgot_against = seen[BASE] if policy != BASE else None
        yield from _named(policy, seen[policy].entries(forgot_against, seen[before] if before else None, before or ""))
    yield from _named("ppo", _length(run))
    model = RewardEnsemble.open(base, run / "stages" / "reward", config.ppo)
    heldout = load_records(run / "stages" / "prepare" / "heldout_rankings.jsonl", "ranked")[: config.evaluation.limit]
    golds = [
        [gold_score(r.prompt[-1].content, a, f) for a, f in zip(r.responses, r.finished, strict=True)] for r in heldout
    ]
    scores = harness._score_rankings(model, heldout, config, progress.track, "held-out rankings")
    pairs = [pairs_by(g) for g in golds]
    ask = harness._asking(model, config)
    yield from _named("reward", calibration_entries("", heldout, scores, pairs))
    yield from _named("reward", length_entries(heldout, scores, golds, pairs))
    yield from _named("reward", [harness._mismatch_entry(model, heldout, golds, scores, config)])
    yield from _named("reward", probe_answers(heldout, [int(np.argmax(g)) for g in golds], ask))
    yield from _named("reward", probe_facts(load_facts(source("facts", BUILT_IN)), ask))


def _length(run: Path):
    rows, sft = (read_answers(run / "evaluation" / "ppo" / name) for name in (harness.ANSWERS, "sft_answers.jsonl"))
    pairs = [(x, y) for x in rows for y in sft if x.prompt_id == y.prompt_id]
    outcomes = wins([x.gold for x, _ in pairs], [y.gold for _, y in pairs])
    prompts, longer = [x.prompt_id for x, _ in pairs], [x.tokens - y.tokens for x, y in pairs]
    level = length_controlled_win_rate(outcomes, longer, prompts)
    compared = [
        SimpleNamespace(metric="win_rate_vs_sft", value=float(np.mean(outcomes))),
        SimpleNamespace(metric="lc_win_rate_vs_sft", value=level.value),
    ]
    card = json.loads((run / "evaluation" / "ppo" / "card.json").read_text(encoding="utf-8"))
    kl = next(e["value"] for e in card["entries"] if e["metric"] == "kl_to_reference")
    return [*harness._length_entries(rows, sft, compared), harness._limit_entry(rows, sft, kl)]


def _named(stage: str, entries):
    return [SimpleNamespace(**{**vars(e), "metric": f"{stage}.{e.metric}"}) for e in entries]


def _plain(value):
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


if __name__ == "__main__":
    main()
