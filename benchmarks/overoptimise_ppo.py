"""Overoptimisation by PPO: the reward model's score against the rubric's over a run, without a KL charge and with one.

    python benchmarks/overoptimise_ppo.py --run runs/seed-0      # what is not done yet; then benchmarks/results/overoptimise_ppo.json
    python benchmarks/overoptimise_ppo.py --weak                 # the same on a reward model from few and noisy labels
    python benchmarks/overoptimise_ppo.py --few                  # the same on the one that turns down first in best of n
    python benchmarks/overoptimise_ppo.py --hurried              # the same on labels of people who often take the shorter answer unread

Takes the SFT policy and the reward model of a finished run of the quickstart and trains three policies for `UPDATES` updates: without a KL
charge and with no detector that stops; the same with detectors that stop; with the quickstart's charge; and one that is made to fail, paid for
what the reward model likes least. The rubric looks every other update at answers to 60 prompts that PPO does not ask. A run that was killed goes
on from its checkpoint with the same command.

The weak reward model learns from one pair of each of `WEAK_LISTS` of the built-in rankings, a quarter of them the wrong way round, three times
over; three in ten questions stay for its test and for the rubric's looks. Its lists, flips and seed were fixed before it was trained.

Hurried people take the shorter answer unread in half of their comparisons, and judge by the rubric in the others; the lists are the weak one's.
Few of their labels are wrong, since the shorter answer is mostly the better one here, but all of these point the same way.

The one from few pairs is best of n's worst proxy: the same 250 pairs, a quarter of them wrong, on the last two layers, with its settings. SFT and
PPO adapt two layers too, since roles share what lies below.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from statistics import fmean

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.overoptimise import FLIPS, LAST_LAYERS, PAIRS, SETTINGS, judged_rankings, told_pairs  # noqa: E402
from data.records import Prompt, Ranking  # noqa: E402
from data.rows import prompt_row, ranking_row, write_rows  # noqa: E402
from pipeline.evaluation.detectors import DETECTORS  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "overoptimise_ppo.json"
UPDATES = 40
LOOKS = [f"ppo.updates={UPDATES}", "detectors.judge_every=2", "detectors.judge_prompts=60"]
ALL = ",".join(DETECTORS)
WEAK_LISTS, WEAK_FLIPS, WEAK_TEST = 400, 0.25, 0.3
UNREAD = 0.5
FEW_PAIRS, FEW_FLIPS, FEW_TEST = min(PAIRS), max(FLIPS), 0.1
PUSHED = ["ppo.kl_coef=0.0", "ppo.learning_rate=1e-3"]
RUNS = {
    "no KL charge, unwatched": ("over-free", ["ppo.kl_coef=0.0", f"detectors.warn_only=[{ALL}]"]),
    "no KL charge, detectors stop": ("over-watched", ["ppo.kl_coef=0.0"]),
    "KL charge 0.03, unwatched": ("over-charged", ["ppo.kl_coef=0.03", f"detectors.warn_only=[{ALL}]"]),
    # Farther than anybody should go: three times the quickstart's rate.
    "no KL charge, rate 1e-3, unwatched": ("over-pushed", [*PUSHED, f"detectors.warn_only=[{ALL}]"]),
    "no KL charge, rate 1e-3, detectors stop": ("over-pushed-watched", PUSHED),
    # An alarm of another kind may come first; what the judge's alone would do.
    "no KL charge, rate 1e-3, reward hacking alone stops": (
        "over-pushed-judged",
        [*PUSHED, f"detectors.warn_only=[{','.join(name for name in DETECTORS if name != 'reward_hacking')}]"],
    ),
    "KL charge 0.03, rate 1e-3, unwatched": (
        "over-pushed-charged",
        ["ppo.kl_coef=0.03", "ppo.learning_rate=1e-3", f"detectors.warn_only=[{ALL}]"],
    ),
    # Made to fail: what the reward model likes least pays most.
    "reward turned round, detectors stop": ("over-turned", ["ppo.kl_coef=0.0", "ppo.reward_sources={model: -1.0}"]),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=ROOT / "runs" / "seed-0", help="a finished run of the quickstart")
    made = parser.add_mutually_exclusive_group()
    for kind, (said, _) in MADE.items():
        made.add_argument(f"--{kind}", dest="kind", action="store_const", const=kind, help=said)
    parser.add_argument("--only", nargs="+", choices=[folder for folder, _ in RUNS.values()], help="these runs alone")
    arguments = parser.parse_args()
    start, suffix, prefix = arguments.run, "", "over-"
    if kind := arguments.kind:
        start, suffix, prefix = MADE[kind][1](f"over-{kind}"), f" ({kind})", f"over-{kind}-"
    found = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    for name, (folder, overrides) in RUNS.items():
        if arguments.only and folder not in arguments.only:
            continue
        folder = folder.replace("over-", prefix)
        run = ROOT / "runs" / folder
        if not run.exists():
            shutil.copytree(start, run, ignore=before_ppo(start))
        command = [sys.executable, "run_pipeline.py", "run", "--config", str(run / "config.yaml"), "--run", folder]
        done = subprocess.run([*command, "--only", "ppo", *LOOKS, *overrides], cwd=ROOT, check=False)
        # A missed gate (status 3) is a result too.
        if done.returncode not in (0, 3):
            raise SystemExit(f"{folder} stopped with status {done.returncode}; the same command goes on with it.")
        stage = run / "stages" / "ppo"
        log = [json.loads(line) for line in (stage / "log.jsonl").read_text(encoding="utf-8").splitlines()]
        found[name + suffix] = {
            "overrides": [*LOOKS, *overrides],
            "curve": curve(json.loads((stage / "detectors.json").read_text(encoding="utf-8")), log),
        }
        RESULTS.write_text(json.dumps(found) + "\n", encoding="utf-8")


def weak(name: str, rankings: list[Ranking]) -> Path:
    """A run up to the reward model, from pairs of `WEAK_LISTS` lists."""
    settings = [f"data.test_share={WEAK_TEST}", "reward.epochs=3", "evaluation.limit=60"]
    return to_reward(name, rankings, settings)


def few(name: str) -> Path:
    """A run up to the reward model, from `few_rankings`; PPO asks the questions of all the built-in rankings."""
    prompts = ROOT / "runs" / f"{name}-prompts.jsonl"
    write_rows(prompts, (prompt_row(Prompt(r.id, r.prompt, r.topic)) for r, _ in judged_rankings()))
    settings = [f"data.prompts={prompts.relative_to(ROOT)}", f"data.test_share={FEW_TEST}", "evaluation.limit=60"]
    settings += [f"reward.{key}={str(value).lower()}" for key, value in SETTINGS.items()]
    # A ranking here is one pair; there it was five or six of one question.
    settings += ["reward.lists_per_step=20", "reward.micro_lists=20"]
    return to_reward(name, few_rankings(), [f"lora.last_layers={LAST_LAYERS}", *settings])


def to_reward(name: str, rankings: list[Ranking], settings: list[str]) -> Path:
    """A run of the quickstart up to a reward model from these rankings, which is meant to be poor: its gates only say so."""
    rows = ROOT / "runs" / f"{name}.jsonl"
    write_rows(rows, map(ranking_row, rankings))
    done = subprocess.run(
        [
            *(sys.executable, "run_pipeline.py", "run", "--config", "configs/quickstart.yaml", "--run", name, "--until", "reward"),
            f"data.rankings={rows.relative_to(ROOT)}",
            *settings,
            "gates.reward.clean_accuracy.min=0.5",
            *(f"gates.{gate}.warn=true" for gate in ("reward.probe_shuffled", "reward.probe_suffix", "sft.heldout_nll_change")),
        ],
        cwd=ROOT,
        check=False,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{name} stopped with status {done.returncode}; the same command goes on with it.")
    return ROOT / "runs" / name


def few_rankings() -> list[Ranking]:
    """The pairs of best of n's smallest noisy proxy, each as a ranking of two."""
    found = []
    for ranking, told in told_pairs(FEW_PAIRS, FEW_FLIPS, 0):
        for number, pair in enumerate(told):
            found.append(replace(_pair(ranking, *pair), id=f"{ranking.id}-{number}"))
    return found


def weak_rankings() -> list[Ranking]:
    """One pair of each list, some the wrong way round."""
    chance = random.Random(f"{WEAK_FLIPS} 0")
    return [_pair(ranking, *(pair[::-1] if chance.random() < WEAK_FLIPS else pair)) for ranking, pair in told_apart()]


def hurried_rankings() -> list[Ranking]:
    """One pair of each list, the shorter answer preferred in about half of them, whatever it says."""
    chance, found = random.Random(f"hurried {UNREAD} 0"), []
    for ranking, pair in told_apart():
        if chance.random() < UNREAD:
            pair = sorted(pair, key=lambda i: len(ranking.responses[i].split()))
        found.append(_pair(ranking, *pair))
    return found


def told_apart():
    """(ranking, (better, worse)) of the first `WEAK_LISTS` lists: the first two answers that the rubric tells apart."""
    number = 0
    for ranking, gold in judged_rankings():
        told = [pair for pair in combinations(range(len(gold)), 2) if abs(gold[pair[0]] - gold[pair[1]]) > 1e-9]
        if told and number < WEAK_LISTS:
            number += 1
            yield ranking, tuple(sorted(told[0], key=lambda i: -gold[i]))


def _pair(ranking: Ranking, better: int, worse: int) -> Ranking:
    texts, ends = ([values[i] for i in (better, worse)] for values in (ranking.responses, ranking.finished))
    return replace(ranking, responses=tuple(texts), ranks=(0, 1), finished=tuple(ends))


# Reward models that are made here, by the flag that asks for one: its help, and what makes a run up to it.
MADE = {
    "weak": ("on a reward model from few and noisy labels, made here", lambda name: weak(name, weak_rankings())),
    "hurried": ("on labels that length alone decided in half of the cases", lambda name: weak(name, hurried_rankings())),
    "few": ("on the reward model of best of n that turns down first", few),
}


def before_ppo(run: Path):
    """What of a finished run is not taken over: PPO and what was measured of it, checkpoints, and the lock."""

    def ignored(folder: str, names: list[str]) -> set[str]:
        top = Path(folder) == run
        inside = Path(folder).parent == run and Path(folder).name in ("stages", "evaluation", "checkpoints")
        return {
            n
            for n in names
            if (inside and n.startswith("ppo")) or (top and n in ("run.lock", "report.md", "report.html"))
        }

    return ignored


def curve(seen: dict, log: list[dict]) -> dict:
    """Each look's gold and proxy, with the KL of the next update's rollout, which the same policy drew (None after the last)."""
    kl = {line["update"]: line["kl"] for line in log}
    looks = [
        {"update": look["update"], "gold": look["judge"], "proxy": look["proxy"], "kl": kl.get(look["update"])}
        for look in seen["looks"]
    ]
    best = max(looks, key=lambda look: fmean(look["gold"]), default=None)
    return {"looks": looks, "said": seen["said"], "alarms": seen["alarms"], "best_update": best and best["update"]}


if __name__ == "__main__":
    main()
