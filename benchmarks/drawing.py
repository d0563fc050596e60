"""Who draws a rollout fastest on a CPU: the loop whose rows leave (`hf`), a cache of fixed size (`static`), the library's continuous batching
(`continuous`).

    python benchmarks/drawing.py

The quickstart's rollout: 32 of its prompts, answers of at most 40 tokens at temperature 0.7, by the policy that its SFT left (`make quickstart`
comes first); once as answers end, and once with no end, when every answer has all 40 tokens. CPU-seconds of one thread; the engines take turns,
each with the same seed in a turn. Kept in `benchmarks/results/drawing.json`; `benchmarks/performance.py` writes the table of docs/performance.md.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from statistics import fmean, median

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path.insert(0, str(ROOT))
RESULTS = HERE / "results" / "drawing.json"
ROWS, TOKENS, TEMPERATURE = 32, 40, 0.7
DTYPES = ("float32", "bfloat16")
ENGINES = ("hf", "static", "continuous")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=ROOT / "runs" / "quickstart", help="a finished run of configs/quickstart.yaml")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    if not (arguments.run / "stages" / "sft" / "manifest.json").exists():
        parser.error(f"{arguments.run} has no finished stage sft; run `make quickstart`")
    import torch

    torch.set_num_threads(1)
    points = [point for dtype in DTYPES for point in measured(arguments.run, dtype, arguments.repeats)]
    kept = {
        "command": f"python benchmarks/drawing.py --repeats {arguments.repeats}",
        "rows": ROWS, "tokens": TOKENS, "points": points,
    }  # fmt: skip
    arguments.out.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def measured(run: Path, dtype: str, repeats: int) -> list[dict]:
    """One point for each way that answers end and each engine."""
    import torch

    from data.loading import load as load_records
    from pipeline.adapters import POLICY
    from pipeline.config import PpoConfig, load_config
    from pipeline.generation import Sampling
    from pipeline.roles import ADAPTER, open_base
    from pipeline.rollouts.engine import open_engine
    from pipeline.template import prompt_ids

    config = load_config(ROOT / "configs" / "quickstart.yaml", [f"model.dtype={dtype}"])
    base = open_base(config)
    base.load(POLICY, run / "stages" / "sft" / ADAPTER, trainable=True)
    records = load_records(run / "stages" / "prepare" / "prompts.jsonl", "prompts")[:ROWS]
    prompts = [prompt_ids(base.tokenizer, r.messages, system_prompt=config.model.system_prompt) for r in records]
    plain = base.tokenizer
    endless = type("Endless", (), {"eos_token_id": -1, "pad_token_id": plain.pad_token_id})()
    points = []
    for ends, tokenizer in (("as they end", plain), ("no end", endless)):
        base.tokenizer = tokenizer
        engines = {
            name: open_engine(PpoConfig.model_validate({"rollout": {"engine": name}}).rollout, longest=0) for name in ENGINES
        }
        spent: dict[str, list[float]] = {name: [] for name in ENGINES}
        drawn: dict[str, list[int]] = {name: [] for name in ENGINES}
        for name in ENGINES:
            # Warms up: the first pass of a model takes longer, and the library's engine checks itself once.
            with base.acting_as(POLICY):
                engines[name].sample(
                    base, prompts, Sampling(2, TEMPERATURE), generator=torch.Generator().manual_seed(0), batch_size=ROWS
                )
        for repeat in range(repeats):
            # Who comes first meets other caches than who comes last.
            for name in (*ENGINES[repeat % len(ENGINES) :], *ENGINES[: repeat % len(ENGINES)]):
                generator = torch.Generator().manual_seed(repeat)
                began = time.process_time()
                with base.acting_as(POLICY):
                    answers = engines[name].sample(
                        base, prompts, Sampling(TOKENS, TEMPERATURE), generator=generator, batch_size=ROWS
                    )
                spent[name].append(time.process_time() - began)
                drawn[name].append(sum(len(a.ids) for a in answers))
        for name in ENGINES:
            assert not getattr(engines[name], "refused", None), engines[name].refused
            points.append(
                {
                    "dtype": dtype, "ends": ends, "engine": name, "seconds": median(spent[name]), "all_seconds": spent[name],
                    "drawn": fmean(drawn[name]),
                }
            )  # fmt: skip
            print(points[-1], flush=True)
    return points


if __name__ == "__main__":
    main()
