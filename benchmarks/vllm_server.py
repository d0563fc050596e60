"""A real vLLM server as PPO's sampler: how far its log-probabilities are from those of the code that trains, on the embedded model.

    python benchmarks/vllm_server.py points --url http://127.0.0.1:8000 --server-dtype float32 --dtype float32
    python benchmarks/vllm_server.py runs hf=runs/quickstart vllm=runs/quickstart-vllm
    python benchmarks/vllm_server.py page

`points` hands three policies with random adapters over, one after the other, draws the same prompts' answers by the server and in this
process, and reads all of them again with the code that trains. The server is started as docs/vllm.md says, over the directory that
`points --where` prints. `runs` takes the figures of finished runs of one config with either engine. Both add to
`benchmarks/results/vllm_server.json`, from which `page` writes docs/vllm.md.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import urllib.request
from pathlib import Path
from statistics import fmean

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path.insert(0, str(ROOT))
RESULTS = HERE / "results" / "vllm_server.json"
ROWS, TOKENS, TEMPERATURE, POLICIES = 64, 40, 0.7, 3
# Random entries of the adapters' second matrices: so large that one policy's log-probabilities are nats from another's.
SPREAD = 0.02
METRICS = ("gold_minus_sft", "gold", "kl_to_reference", "win_rate_vs_sft")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    asked = parts.add_parser("points")
    asked.add_argument("--url", default="http://127.0.0.1:8000")
    asked.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"), help="the base's in this process")
    asked.add_argument("--server-dtype", default="float32", choices=("float32", "bfloat16"), help="as the server was told")
    asked.add_argument("--where", action="store_true", help="print the directory of the embedded model, and end")
    finished = parts.add_parser("runs")
    finished.add_argument("run", nargs="+", help="engine=directory")
    parts.add_parser("page")
    arguments = parser.parse_args()
    if arguments.part == "points" and arguments.where:
        from pipeline.config import ModelConfig
        from pipeline.weights import locate

        print(locate(ModelConfig()))
    elif arguments.part == "points":
        keep("points", f"{arguments.dtype}, server {arguments.server_dtype}", points(arguments))
    elif arguments.part == "runs":
        for engine, _, folder in (text.partition("=") for text in arguments.run):
            keep("runs", engine, figures(Path(folder)))
    else:
        (ROOT / "docs" / "vllm.md").write_text(page(read()), encoding="utf-8")


def read() -> dict:
    return json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {"points": {}, "runs": {}}


def keep(kind: str, name: str, found: dict) -> None:
    kept = read()
    kept[kind][name] = found
    RESULTS.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({name: found}, indent=1))


# -- the two samplers and the code that trains ---------------------------------------------------------------------------------


def points(arguments) -> dict:
    import torch

    from pipeline.adapters import POLICY, SharedBase
    from pipeline.config import LoraConfig, ModelConfig, RolloutConfig
    from pipeline.generation import Sampling
    from pipeline.models import load
    from pipeline.rollouts.engine import InProcess
    from pipeline.rollouts.vllm import VllmServer

    torch.manual_seed(0)
    model, tokenizer = load(ModelConfig(dtype=arguments.dtype, device="cpu"))
    base = SharedBase(model, tokenizer, LoraConfig())
    base.add(POLICY, trainable=True)
    prompts = heldout(tokenizer)
    server = VllmServer(RolloutConfig(engine="vllm", url=arguments.url), longest=max(map(len, prompts)) + TOKENS)
    sampling = Sampling(TOKENS, TEMPERATURE)
    rows: dict[str, list[dict]] = {"server": [], "process": []}
    before = None
    try:
        for policy in range(POLICIES):
            state = random_adapter(base, policy)
            for name, engine in (("server", server), ("process", InProcess())):
                base.load_state(POLICY, state)
                generator = torch.Generator().manual_seed(policy)
                began = time.monotonic()
                with base.acting_as(POLICY):
                    answers = engine.sample(base, prompts, sampling, generator=generator, batch_size=ROWS)
                seconds = time.monotonic() - began
                found = apart(base, prompts, answers)
                if before is not None:
                    # What the gap would be if the sampler still held the policy before.
                    base.load_state(POLICY, before)
                    found["stale_gap"] = apart(base, prompts, answers)["gap"]
                rows[name].append({"seconds": seconds, **found})
            before = state
    finally:
        server.close()
    with urllib.request.urlopen(f"{arguments.url}/version", timeout=30) as answer:
        version = json.loads(answer.read())["version"]
    return {"version": version, "answers": ROWS, "tokens": TOKENS, "temperature": TEMPERATURE, **rows}


def heldout(tokenizer) -> list[list[int]]:
    from data.records import Message
    from pipeline.template import prompt_ids

    lines = (ROOT / "data" / "seed" / "heldout_prompts.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [json.loads(line)["prompt"] for line in lines[:ROWS]]
    return [list(prompt_ids(tokenizer, [Message("user", t)])) for t in texts]


def random_adapter(base, seed: int) -> dict:
    import torch

    generator = torch.Generator().manual_seed(1000 + seed)
    state = base.state("policy")
    return {
        name: SPREAD * torch.randn(value.shape, generator=generator) if "lora_B" in name else value.clone()
        for name, value in state.items()
    }


def apart(base, prompts, answers) -> dict:
    """log μ (the sampler's) against log π (read again as PPO reads it), over all tokens.

    Returns:
        gap: the largest |log μ − log π|; mean_gap: its mean; kl: the mean of log μ − log π with its standard error over answers;
        weight: the mean of π / μ over answers' tokens, which is 1 in expectation, with its standard error over answers.
    """
    import torch

    from pipeline.adapters import POLICY, Batch
    from pipeline.ppo.logprobs import token_logprobs

    differences = []
    with torch.no_grad():
        for prompt, answer in zip(prompts, answers, strict=True):
            ids = [*prompt, *answer.ids]
            batch = Batch.of([ids], base.tokenizer.pad_token_id, base.device)
            states = base.states(base.trunk(batch), batch.mask, POLICY)[0, len(prompt) - 1 : len(ids) - 1]
            again, _ = token_logprobs(states, base.lm_head, torch.tensor(answer.ids), temperature=TEMPERATURE)
            differences.append(torch.tensor(answer.logprobs) - again)
    each = torch.cat(differences)
    tokens = [len(d) for d in differences]
    weights = [float((-d).exp().sum()) for d in differences]
    sums = [float(d.sum()) for d in differences]
    return {
        "tokens": len(each),
        "gap": float(each.abs().max()),
        "mean_gap": float(each.abs().mean()),
        "kl": sum(sums) / sum(tokens),
        "kl_se": ratio_error(sums, tokens),
        "weight": sum(weights) / sum(tokens),
        "weight_se": ratio_error(weights, tokens),
    }


def ratio_error(parts: list[float], sizes: list[int]) -> float:
    """Standard error of Σ parts / Σ sizes over independent rows (linearised; Cochran 1977, section 2.11)."""
    ratio, n = sum(parts) / sum(sizes), len(parts)
    off = sum((p - ratio * s) ** 2 for p, s in zip(parts, sizes, strict=True)) / (n - 1)
    return (off / n) ** 0.5 / fmean(sizes)


# -- finished runs -------------------------------------------------------------------------------------------------------------


def figures(run: Path) -> dict:
    card = json.loads((run / "evaluation" / "ppo" / "card.json").read_text(encoding="utf-8"))["entries"]
    entries = {e["metric"]: {k: e[k] for k in ("value", "ci_low", "ci_high")} for e in card if e["metric"] in METRICS}
    log = [json.loads(x) for x in (run / "stages" / "ppo" / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    return {"metrics": entries, "log": [{k: row.get(k) for k in ("sampler_gap", "sampler_kl", "rollout_seconds", "score")} for row in log]}


# -- the page ------------------------------------------------------------------------------------------------------------------


def page(found: dict) -> str:
    notes = (ROOT / "docs" / "vllm-notes.md").read_text(encoding="utf-8")
    head, _, tail = notes.partition("\n---\n")
    return "\n\n".join([head.strip(), points_table(found["points"]), tail.strip(), runs_table(found["runs"])]).rstrip() + "\n"


def points_table(kept: dict) -> str:
    head = ["base here, server", "drawn by", "largest gap", "mean gap", "KL a token", "mean of π / μ", "largest gap, were the policy the one before"]
    lines = []
    for name, found in kept.items():
        for sampler, label in (("server", f"vLLM {found['version']}"), ("process", "this process")):
            rows = found[sampler]
            stale = [row["stale_gap"] for row in rows if "stale_gap" in row]
            lines.append(
                [
                    name,
                    label,
                    f"{max(row['gap'] for row in rows):.2g}",
                    f"{fmean(row['mean_gap'] for row in rows):.2g}",
                    *(over_policies(rows, key) for key in ("kl", "weight")),
                    f"{min(stale):.1f}",
                ]
            )
    return markdown(head, lines)


def over_policies(rows: list[dict], key: str) -> str:
    """The mean over policies with its standard error, from those of the policies."""
    error = sum(row[f"{key}_se"] ** 2 for row in rows) ** 0.5 / len(rows)
    return f"{fmean(row[key] for row in rows):.5f} ± {error:.5f}"


def runs_table(kept: dict) -> str:
    names = [m for m in METRICS if any(m in run["metrics"] for run in kept.values())]
    lines = []
    for engine, run in kept.items():
        gaps = [row["sampler_gap"] for row in run["log"]]
        kls = [row["sampler_kl"] for row in run["log"] if row["sampler_kl"] is not None]
        cells = [with_interval(run["metrics"].get(m)) for m in names]
        lines.append([engine, f"{len(gaps)}", *cells, f"{max(gaps):.2f}", f"{fmean(kls):.4f}" if kls else "–"])
    return markdown(["engine", "updates", *(f"`{m}`" for m in names), "largest gap, nats", "KL a token"], lines)


def with_interval(found: dict | None) -> str:
    return f"{found['value']:.2f} ({found['ci_low']:.2f} to {found['ci_high']:.2f})" if found else "–"


def markdown(head: list[str], rows: list[list[str]]) -> str:
    lines = [f"| {' | '.join(head)} |", "|---|---|" + "---:|" * (len(head) - 2)]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


if __name__ == "__main__":
    main()
