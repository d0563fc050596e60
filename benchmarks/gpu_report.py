"""Writes docs/gpu.md from what `benchmarks/gpu.py`, `bits.py` and `plan_check.py` measured and `plan_counted.py` counted. It measures nothing itself.

    python benchmarks/gpu_report.py

The prose around the tables lies in docs/gpu-notes.md. What was not measured says so.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import fmean, median

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path.insert(0, str(HERE))
from bits_page import bits_tables  # noqa: E402
from counted_page import BITS, NAMES, counted_tables  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
SOURCES = ("gpu.json", "bits.json", "plan_check.json", "plan_counted.json")
NOT = "not measured"
PEER = "TRL 1.12.0, bfloat16"
SIDES = (PEER, "all layers, bfloat16", "last 10 layers, bfloat16")
SIDES_8B = (PEER, "one base, bfloat16", "one base, 4-bit")
QUOTED = (
    "reward.observed_accuracy", "reward.observed_accuracy_minus_best_floor", "reward.test_model_accuracy", "sft.heldout_nll_change",
    "ppo.gold_minus_sft", "ppo.win_rate_vs_sft", "ppo.proxy", "ppo.sft_proxy", "ppo.kl_to_reference",
)  # fmt: skip
# What others published, for a reader's sense of size; none of it is a like for like comparison, and the table says in what it differs.
PUBLISHED = (
    ("share of pairs right", "SmolLM2-135M after DPO, by its own likelihoods", "61.5 %", "all of UltraFeedback; this is the embedded model itself",
     "model card of HuggingFaceTB/SmolLM2-135M-Instruct at e682e54"),
    ("share of pairs right", "SmolLM2-1.7B after DPO, by its own likelihoods", "67.5 %", "all of UltraFeedback",
     "model card of HuggingFaceTB/SmolLM2-1.7B-Instruct at a587c08"),
    ("share of pairs right", "Qwen2-0.5B, a reward model with all weights trained", "72.8 %", "all of UltraFeedback, one epoch, eight cards",
     "model card of trl-lib/Qwen2-0.5B-Reward"),
    ("PPO's answer preferred to a person's", "Pythia-1B, four seeds", "62, 54, 22 and 20 %", "summaries, a language model as judge",
     "Huang et al. 2024, arXiv 2403.17031 (at second hand)"),
)  # fmt: skip
LAST = 5


def main() -> None:
    found = (read(name) for name in SOURCES)
    (ROOT / "docs" / "gpu.md").write_text(report(*found), encoding="utf-8")


def read(name: str) -> dict:
    file = RESULTS / name
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def report(gpu: dict, bits: dict, plan: dict, counted: dict) -> str:
    head, _, tail = (ROOT / "docs" / "gpu-notes.md").read_text(encoding="utf-8").partition("\n---\n")
    parts = [head.strip(), measured(gpu), bits_tables(bits), plan_table(plan), counted_tables(counted), tail.strip()]
    return "\n\n".join(parts).rstrip() + "\n"


def measured(gpu: dict) -> str:
    card = gpu.get("machine", {}).get("card")
    versions = gpu.get("machine", {}).get("versions", {})
    said = (
        f"Card: {card}; {', '.join(f'{k} {v}' for k, v in versions.items())}."
        if card
        else "No card has been at hand yet."
    )
    parts = (ceilings, checks, memory, plan_on_card, speed, recipe, figures, peer, peer8b, bits, failures)
    told = ["## Measured on a GPU", "    python benchmarks/gpu.py --rows data/ultrafeedback", said, *(p(gpu) for p in parts)]
    return "\n\n".join(filter(None, told))


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [f"| {' | '.join(head)} |", "|" + "---|" + "---:|" * (len(head) - 1)]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def ceilings(gpu: dict) -> str:
    found = one(gpu, "ceilings")
    tflops = f"{found['bf16_flops'] / 1e12:.0f}" if found else NOT
    copied = f"{found['copy_bytes'] / 1e12:.2f}" if found else NOT
    return "### What the card can do\n\n" + table(
        ["", "here"], [["bfloat16 products, TFLOP/s", tflops], ["copy, TB/s read and written", copied]]
    )


def checks(gpu: dict) -> str:
    """The tests of quantized bases, run on the card."""
    found = one(gpu, "checks")
    head = "### The tests of quantized bases, on the card\n\n    python benchmarks/gpu.py --parts checks\n\n"
    if not found:
        return f"{head}{NOT.capitalize()}."
    return head + "\n".join([f"{found['said'].strip('= ')}.", *(f"- {line}" for line in found["failures"])])


def plan_on_card(gpu: dict) -> str:
    """Planned and taken: the tensors of a stage's fullest moment, and all that the card gave."""
    rows = []
    for f in gpu.get("plan", []):
        name = f"{f['stage']}, {NAMES[f['model']]}, {BITS[f['bits']]}, {f['pass']} a pass, {f['prompt']} + {f['answer']} tokens"
        cells = []
        for planned, taken in (("planned_bytes", "peak_bytes"), ("planned_card_bytes", "card_bytes")):
            cells += [f"{f[planned] / 1e9:.2f}", f"{f[taken] / 1e9:.2f}", f"{f[planned] / f[taken] - 1:+.0%}"]
        rows.append([name, *cells])
    head = ["", "tensors: planned, GB", "taken, GB", "off by", "of the card: planned, GB", "taken, GB", "off by"]
    return "### The plan, held against the card\n\n" + (table(head, rows) if rows else f"{NOT.capitalize()}.")


def figures(gpu: dict) -> str:
    """What the recipe reaches, by seed, with intervals over prompts."""
    runs = [*gpu.get("recipe", []), *(run for found in gpu.get("seeds", []) for run in found["runs"])]
    names = [name for name in QUOTED if any(name in run["metrics"] for run in runs)]
    if not names:
        return f"### What it reaches\n\n{NOT.capitalize()}.\n\n{published()}"
    head = ["", *(f"seed {run['seed']}" for run in runs), "mean"]
    rows = []
    for name in names:
        there = [run["metrics"].get(name) for run in runs]
        known = [f["value"] for f in there if f]
        rows.append([f"`{name}`", *(with_interval(f) for f in there), f"{fmean(known):.3f}"])
    return "### What it reaches\n\nIntervals are over prompts, 95 %.\n\n" + table(head, rows) + "\n\n" + published()


def published() -> str:
    rows = [[what, model, figure, other, source] for what, model, figure, other, source in PUBLISHED]
    said = (
        "For a sense of size, figures that others published. The embedded model had learnt from UltraFeedback before it came here, so "
        "its accuracy on rows of that set is not accuracy on rows that it never met."
    )
    head = ["figure", "model", "published", "rows and judge", "source"]
    return f"{said}\n\n{table(head, rows).replace('---:|', '---|')}"


def with_interval(found: dict | None) -> str:
    if not found:
        return "–"
    low, high = found["ci_low"], found["ci_high"]
    return f"{found['value']:.3f}" + ("" if low is None else f" ({low:.3f} to {high:.3f})")


def peer8b(gpu: dict) -> str:
    runs = gpu.get("peer8b", [])
    base = summary([r for r in runs if r["side"] == PEER])
    rows = []
    for side in SIDES_8B:
        f = summary([r for r in runs if r["side"] == side])
        if not f:
            rows.append([side, *[NOT] * 4])
            continue
        ratios = [f"**{f[k] / base[k]:.2f}**" if base else NOT for k in ("seconds", "peak")]
        rows.append([side, f"{f['seconds']:.2f}", f"{f['peak']:.2f}", *ratios])
    head = ["", "seconds an update", "peak GB", "time / TRL", "peak / TRL"]
    return (
        "### Beside it at 8B\n\nRandom weights of Llama 3.1 8B's shape, 8 answers of 128 tokens an update; its value model learns whole.\n\n"
        + table(head, rows)
    )


def failures(gpu: dict) -> str:
    """What was tried and failed, with its last words."""
    last = {name: (text.strip().splitlines() or ["it said nothing"])[-1] for name, text in gpu.get("failed", {}).items()}
    rows = [f"- {name}: {line.strip()[:200]}" for name, line in last.items()]
    return "### What failed\n\n" + "\n".join(rows) if rows else ""


def memory(gpu: dict) -> str:
    rows = []
    for model, name in (("135m", "135M"), ("8b", "8B")):
        for bits_, label in BITS.items():
            shared, apart = (one(gpu, "memory", model=model, bits=bits_, way=way) for way in ("shared", "separate"))
            cells = [f"{f['peak_bytes'] / 1e9:.2f}" if f else NOT for f in (shared, apart)]
            ratio = f"**{shared['peak_bytes'] / apart['peak_bytes']:.2f}**" if shared and apart else NOT
            rows.append([f"{name}, {label}", *cells, ratio])
    return "### Peak memory of a PPO update, GB\n\n" + table(
        ["", "one base, four roles", "a model each", "ratio"], rows
    )


def speed(gpu: dict) -> str:
    ceiling, rows = one(gpu, "ceilings"), []
    for model, name in (("135m", "135M"), ("8b", "8B")):
        for bits_, label in BITS.items():
            f = one(gpu, "speed", model=model, bits=bits_)
            if not f:
                rows.append([f"{name}, {label}", *[NOT] * 4])
                continue
            shares = [
                f"{f['read_bytes_per_second'] / ceiling['copy_bytes']:.1%}" if ceiling else NOT,
                f"{f['flops_per_second'] / ceiling['bf16_flops']:.1%}" if ceiling else NOT,
            ]
            rows.append(
                [
                    f"{name}, {label}",
                    f"{f['drawn_per_second']:,.0f}",
                    shares[0],
                    f"{f['learnt_per_second']:,.0f}",
                    shares[1],
                ]
            )
    head = ["", "drawn, tokens/s", "of the copy's bandwidth", "read and learnt, tokens/s", "of the products' rate"]
    return "### Speed\n\n" + table(head, rows) + ways(gpu)


def ways(gpu: dict) -> str:
    """Ways to draw the same answers, tokens a second."""
    kinds = ("loop", "fixed cache", "continuous", "continuous, recorded", "loop, merged", "fixed cache, merged")
    rows = [
        [f"{NAMES.get(f['model'], f['model'])}, {BITS[f['bits']]}", *(f"{f['ways'][k]:,.0f}" if k in f["ways"] else "–" for k in kinds)]
        for f in gpu.get("speed", [])
        if f.get("ways")
    ]
    said = (
        "\n\nTokens drawn a second by the loop whose rows come and go (`engine: hf`), from a cache of fixed size with CUDA graphs "
        "(`engine: static`), by the library's\ncontinuous batching (`engine: continuous`) as it is and with its passes recorded (`record: true`), "
        "and by the first two while the adapter is\nmerged into the base (not built in). No row ends early:\n\n"
    )
    failed = [
        f"- {NAMES.get(f['model'], f['model'])}, {BITS[f['bits']]}, {way}: {text.strip().splitlines()[0][:200]}"
        for f in gpu.get("speed", [])
        for way, text in f.get("ways_failed", {}).items()
    ]
    told = table(["", *kinds], rows) if rows else f"{NOT.capitalize()}."
    return said + told + ("\n\nWhat failed of these:\n\n" + "\n".join(failed) if failed else "")


def recipe(gpu: dict) -> str:
    found = one(gpu, "recipe")
    if not found:
        return f"### The whole recipe on the embedded model\n\n{NOT.capitalize()}."
    steps = [
        [name, f"{step['seconds']:.0f}", f"{step['gpu_bytes'] / 1e9:.2f}" if step.get("gpu_bytes") else "–"]
        for name, step in found["steps"].items()
    ]
    return (
        f"### The whole recipe on the embedded model\n\n**{found['seconds'] / 60:.1f} minutes** ({found['rows']} rows).\n\n"
        + table(["step", "seconds", "peak GB"], steps)
    )


def peer(gpu: dict) -> str:
    runs = gpu.get("peer", [])
    base = summary([r for r in runs if r["side"] == PEER])
    rows = []
    for side in SIDES:
        f = summary([r for r in runs if r["side"] == side])
        if not f:
            rows.append([side, *[NOT] * 5])
            continue
        ratios = [f"**{f[k] / base[k]:.2f}**" if base else NOT for k in ("seconds", "peak")]
        rows.append([side, f"{f['seconds']:.2f}", f"{f['peak']:.2f}", *ratios, f"{f['score']:.2f}"])
    head = ["", "seconds an update", "peak GB", "time / TRL", "peak / TRL", f"score, last {LAST} updates"]
    return "### Beside TRL's last PPO trainer\n\n" + table(head, rows)


def bits(gpu: dict) -> str:
    rows = []
    for bits_, label in BITS.items():
        runs = [r for r in gpu.get("bits", []) if r["bits"] == bits_]
        f = summary(runs)
        scores = ", ".join(f"{fmean(u['score'] for u in r['updates'][-LAST:]):.2f}" for r in runs)
        rows.append([label, f"{f['score']:.2f} ({scores})", f"{f['seconds']:.2f}"] if f else [label, NOT, NOT])
    return "### Reward after equal updates, 4-bit and bfloat16\n\n" + table(
        ["base", f"score, last {LAST} updates (by seed)", "seconds an update"], rows
    )


def summary(runs: list[dict]) -> dict:
    """Medians over all updates but each run's first; the score is a mean over runs."""
    if not runs:
        return {}
    steady = [u for run in runs for u in run["updates"][1:]]
    return {
        "seconds": median(u["wall_s"] for u in steady),
        "peak": max(u.get("gpu_peak_gb", u["peak_gb"]) for u in steady),
        "score": fmean(u["score"] for run in runs for u in run["updates"][-LAST:]),
    }


def plan_table(plan: dict) -> str:
    rows = []
    for p in plan.get("points", []):
        layers = f"last {p['last_layers']} layers" if p["last_layers"] else "all layers"
        name = f"{p['stage']}, {p['dtype']}, {layers}, {p['rows']} rows, {p['pass']} a pass, {p['answer']} tokens an answer"
        rows.append(
            [
                name,
                f"{p['planned'] / 1e9:.2f}",
                f"{p['measured'] / 1e9:.2f}",
                f"{p['planned'] / p['measured'] - 1:+.0%}",
                f"{p['as_it_is'] / 1e9:.2f}",
            ]
        )
    head = ["embedded model, CPU", "planned, GB", "taken, GB", "off by", "with the C library's own way, GB"]
    return "## The plan, held against memory that was taken\n\n    python benchmarks/plan_check.py\n\n" + (
        table(head, rows) if rows else f"{NOT.capitalize()}."
    )


def one(gpu: dict, part: str, **variant) -> dict | None:
    return next((row for row in gpu.get(part, []) if all(row.get(k) == v for k, v in variant.items())), None)


if __name__ == "__main__":
    main()
