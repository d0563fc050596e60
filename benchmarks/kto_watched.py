"""Does the watch over KTO catch a rate that ruins the policy, and leave a healthy one alone?

    python benchmarks/loop.py --only thumbs-500-kto          # the votes and the round's run, where they are not there yet
    python benchmarks/kto_watched.py                         # into benchmarks/results/kto_watched.json, one rate after the other
    python benchmarks/kto_watched.py --write                 # the table of docs/feedback.md from that file

The thumbs, the SFT policy and the held-out prompts are those of a round of `loop.py`, whose KTO nobody watched: 3e-4 and two passes ruined
the policy, 1e-4 and one pass made it better. Here the stage runs with the failure detectors at their defaults, with the built-in texts and
questions for forgetting and sycophancy, which that round went without. What is kept is held against SFT by the rubric on the held-out prompts.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
import time
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

RESULTS = ROOT / "benchmarks" / "results" / "kto_watched.json"
PAGE = ROOT / "docs" / "feedback.md"
MARKS = ("<!-- kto watched -->", "<!-- end of kto watched -->")
# Rate and passes: as the loop benchmark had named beforehand, and the default since.
ARMS = (("3e-4", 2), ("1e-4", 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=ROOT / "runs" / "loop" / "thumbs-500-kto-round-001")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "kto-watched", help="where the policies are kept")
    parser.add_argument("--write", action="store_true", help="only write docs/feedback.md")
    arguments = parser.parse_args()
    if arguments.write:
        write(json.loads(RESULTS.read_text(encoding="utf-8")))
        return
    for rate, passes in ARMS:
        found = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
        if rate in found:
            print(f"{rate}: done already")
            continue
        measured = measure(arguments.run, arguments.work / rate, rate, passes)
        RESULTS.write_text(json.dumps({**found, rate: measured}, indent=1) + "\n", encoding="utf-8")
        print(f"{rate}: {measured['detectors']['said'] or 'no alarm'}", flush=True)


def measure(run: Path, work: Path, rate: str, passes: int) -> dict:
    """KTO at `rate` under the watch, and what the policy that it leaves is worth."""
    from pipeline import progress
    from pipeline.config import load_config
    from pipeline.evaluation.detectors import REPORT
    from pipeline.stages import kto

    config = load_config(
        run / "config.yaml",
        [
            "learner=kto", f"kto.learning_rate={rate}", f"kto.epochs={passes}", "kto.max_new_tokens=24",
            "detectors.enabled=true", "detectors.judge_every=4",
        ],
    )  # fmt: skip
    prepared = work / "prepare"
    if not prepared.exists():
        shutil.copytree(run / "stages" / "prepare", prepared)
        for name in ("general_text.jsonl", "facts.jsonl"):
            shutil.copy(ROOT / "data" / "seed" / name, prepared / name)
    out = work / "kto"
    out.mkdir(exist_ok=True)
    inputs = {"prepare": prepared, **{name: run / "stages" / name for name in ("sft", "reward")}}

    def log(line: dict) -> None:
        with (out / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    context = SimpleNamespace(
        config=config, inputs=inputs, out=out, checkpoints=out / "checkpoints", log=log, progress=progress.track
    )
    started = time.monotonic()
    metrics = kto.run(context)
    seconds = time.monotonic() - started
    watched = json.loads((out / REPORT).read_text(encoding="utf-8"))
    return {
        "rate": rate,
        "passes": passes,
        "steps": metrics["steps"],
        "steps_in_all": -(-(metrics["thumbs_up"] + metrics["thumbs_down"]) // config.kto.batch_size) * passes,
        "kept": metrics["updates_kept"],
        "minutes": seconds / 60,
        "gold_minus_sft": worth(config, prepared, inputs["sft"], out),
        "detectors": watched,
    }


def worth(config, prepared: Path, sft: Path, kept: Path) -> dict:
    """The kept policy less SFT on the held-out prompts, in points of the rubric."""
    from data.loading import load as load_records
    from pipeline import progress
    from pipeline.adapters import POLICY, REFERENCE
    from pipeline.evaluation.answers import answer_prompts
    from pipeline.evaluation.policy_card import by_prompt, paired_by_prompt
    from pipeline.roles import ADAPTER, open_base

    base = open_base(config)
    prompts = load_records(prepared / "heldout_prompts.jsonl", "prompts")
    sides = []
    for role, folder in ((POLICY, kept), (REFERENCE, sft)):
        base.load(role, folder / ADAPTER, trainable=False)
        rows = answer_prompts(
            base, role, prompts, config, samples=config.evaluation.samples_per_prompt, progress=progress.track, label=role
        )
        sides.append(by_prompt(rows))
    return {**paired_by_prompt(*sides, lambda row: row.gold)._asdict(), "prompts": len(prompts)}


def write(results: dict) -> None:
    """What came out, and what the looks saw, between the marks of docs/feedback.md."""
    lines = [
        "| rate | steps made, of | alarm | kept | kept policy − SFT | minutes |",
        "|---|---:|---|---|---:|---:|",
        *map(_outcome, results.values()),
    ]
    for found in results.values():
        lines += [
            "",
            f"| {found['rate']}: after so many steps | judge, points | KL, nats | tokens an answer | answers that end "
            "| perplexity of ordinary text |",
            "|---:|---:|---:|---:|---:|---:|",
            *_looks(found["detectors"]),
        ]
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(MARKS[0])
    after = rest.partition(MARKS[1])[2]
    PAGE.write_text("\n".join([before + MARKS[0], "", *lines, "", MARKS[1] + after]), encoding="utf-8")


def _outcome(found: dict) -> str:
    alarms = [alarm for alarm in found["detectors"]["alarms"] if alarm["stops"]]
    alarm = "; ".join(f"{a['detector']} after {a['update']}" for a in alarms) or "none"
    gain = found["gold_minus_sft"]
    passes = "1 pass" if found["passes"] == 1 else f"{found['passes']} passes"
    return (
        f"| {found['rate']}, {passes} | {found['steps']:.0f} of {found['steps_in_all']:.0f} | {alarm} | after {found['kept']:.0f} | "
        f"{gain['value']:+.2f} ({gain['low']:+.2f} to {gain['high']:+.2f}) | {found['minutes']:.0f} |"
    )


def _looks(watched: dict) -> list[str]:
    perplexity = {p["update"]: math.exp(sum(p["nll"]) / p["tokens"]) for p in watched["probes"]}
    judged = {look["update"]: sum(look["judge"]) / len(look["judge"]) for look in watched["looks"]}
    return [
        f"| {line['update']} | {judged[line['update']]:.2f} | {line['kl']:.1f} | {line['response_tokens']:.1f} | {line['eos_rate']:.0%} | "
        f"{perplexity[line['update']]:.1f} |"
        for line in watched["lines"]
    ]


if __name__ == "__main__":
    main()
