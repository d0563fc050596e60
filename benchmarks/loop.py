"""Do votes make the assistant better? Simulated people vote at a real server, and rounds learn from them.

    python benchmarks/loop.py                  # goes on where it stopped; one result after the other into benchmarks/results/loop.json
    python benchmarks/loop.py --until online-5 # stops after that result
    python benchmarks/loop.py --write          # writes the plot and the tables of docs/feedback.md from that file
    python benchmarks/loop.py --trial          # the same with the tiny random model and a few votes: that the parts fit together

Named before the first run: seed 0 for training, 1 and up for the people, one seed a collection; all settings are in `configs/loop.yaml`, in
`simulated/raters.py` and in the constants below.

online    five rounds; each time 500 choices between two answers of the newest candidate, promoted or not, then `round`
offline   one round on 60 to 2,500 choices between two answers of the first assistant; the first 500 are those of the first online round.
          That is also what rounds learn from where nobody sees a candidate before it is promoted, and none is
again     PPO of a round anew, on the same reward model: twice the updates, also without any vote; and starting as the policy in service;
          or KTO anew on the same thumbs, slower
thumbs    one round on lone thumbs: a reward model that reads them, or KTO
lazy      every second vote is one person's who does not read: choices with and without a cap on one person's share, thumbs with and
          without a threshold of each rater
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path[:0] = [str(ROOT), str(HERE)]

from simulated import voting  # noqa: E402
from simulated.voting import Crowd  # noqa: E402

CONFIG = "configs/loop.yaml"
KEPT = (
    "gold", "gold_minus_sft", "kl_to_reference", "eos_rate", "answer_tokens", "proxy", "clean_accuracy", "observed_accuracy",
    "length_rule_accuracy", "distinct_2_ratio",
)  # fmt: skip
RESULTS = HERE / "results" / "loop.json"
# Of the built-in rankings and held-out rankings, the first so many.
RANKINGS, HELD_RANKINGS = 12, 60
ROUNDS, VOTES = 5, 500
OFFLINE = (60, 125, 250, 500, 1500, 2500)
THUMBS, LAZY = (500, 1500), 500
SMALL = {
    "RANKINGS": 24,
    "HELD_RANKINGS": 4,
    "ROUNDS": 2,
    "VOTES": 24,
    "OFFLINE": (12, 24, 48),
    "THUMBS": (24, 48),
    "LAZY": 24,
}
SMALL_SETTINGS = (
    "model.name=tiny-random", "model.dtype=float32", "lora.rank=4", "lora.last_layers=2", "data.max_prompt_tokens=160", "sft.max_tokens=640",
    "reward.max_tokens=480", "reward.scale_lists=8", "ppo.updates=1", "ppo.episodes=4", "ppo.minibatch=4", "ppo.micro_batch=4",
    "ppo.max_new_tokens=8", "evaluation.max_new_tokens=8", "evaluation.limit=8", "chat.max_new_tokens=8", "rounds.min_pairs=3",
)  # fmt: skip


@dataclass(frozen=True)
class Job:
    """One round of one arm.

    Attributes:
        name: its key in the results.
        run: the run that the round belongs to; a copy of the start.
        votes: how many votes the round knows, old ones included.
        crowd: whose; the store of a crowd grows, and what a job needs of it is copied.
        at: the run whose assistant the crowd talks to.
        settings: of the round.
    """

    name: str
    run: str
    number: int
    votes: int
    crowd: str
    at: str
    settings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Variation:
    """An online round with its reward model, and its PPO made anew otherwise.

    Attributes:
        number: of the round; 0 is the start, whose reward model has seen no vote.
        settings: of PPO; {service} stands for the policy that was in service when that round began.
        of: the run whose policy is made anew, where that is no online round's; the start is what it is held against.
        votes: how many that run learned from, where it is named.
    """

    name: str
    number: int
    settings: tuple[str, ...]
    of: str = ""
    votes: int = 0


# Added after the second round, whose reward model was much better than the first assistant's and whose policy was not. They showed that
# ten updates were too few to tell; rounds from the third on have twenty, as all other arms have. The start keeps its ten, and
# again-0-20-updates is what twenty do without a vote.
SHORT, UPDATES = "ppo.updates=10", 20
VARIATIONS = (
    # What of a gain is the votes', and what the updates' alone.
    Variation("again-0-20-updates", 0, ("ppo.updates=20",)),
    Variation("again-2-20-updates", 2, ("ppo.updates=20",)),
    Variation("again-2-from-service", 2, ("ppo.start_from={service}",)),
    Variation("again-1-20-updates", 1, ("ppo.updates=20",)),
)
# Added after the first round by KTO, whose policy went 9 nats from SFT and lost two points.
SLOWER = tuple(
    Variation(f"again-kto-{rate}", 0, ("kto.epochs=1", f"kto.learning_rate={rate}"), "thumbs-500-kto-round-001", 500)
    for rate in ("1e-4", "3e-5", "1e-5")
)


def jobs() -> list[Job | Variation]:
    """In the order in which they run: the most telling first."""
    long = f"ppo.updates={UPDATES}"
    online = [
        Job(f"online-{n}", "online", n, n * VOTES, *(("online", f"online-round-{n - 1:03d}") if n > 1 else ("offline", "start")),
            (SHORT if n <= 2 else long,))
        for n in range(1, ROUNDS + 1)
    ]  # fmt: skip
    offline = {n: Job(f"offline-{n}", f"offline-{n}", 1, n, "offline", "start", (long,)) for n in OFFLINE}
    few, many = [n for n in OFFLINE if n < VOTES], [n for n in OFFLINE if n > VOTES]
    found = [*online[:2], *VARIATIONS, *(offline[n] for n in reversed(few))]
    # A long round on the first half of the rounds' votes; then the other half.
    found += [*online[2:3], *(offline[n] for n in many[:1]), *online[3:], *(offline[n] for n in many[1:])]
    for count in THUMBS:
        for crowd, learners in (("thumbs", ("offset", "kto")), ("lazy-thumbs", ("offset", "shared", "kto"))):
            if crowd == "thumbs" or count == min(THUMBS):
                for learner in learners:
                    name = f"{crowd}-{count}-{learner}"
                    found.append(Job(name, name, 1, count, crowd, "start", (long, *LEARNERS[learner])))
    found += SLOWER
    for name, share in (("lazy-open", 1.0), ("lazy-capped", 0.2)):
        found.append(Job(name, name, 1, LAZY, "lazy", "start", (long, f"rounds.rater_share={share}")))
    return found


# What learns from thumbs: the reward model with thresholds by rater, with one for everybody, or the policy itself.
LEARNERS = {
    "offset": ("reward.thumbs_weight=1.0",),
    "shared": ("reward.thumbs_weight=1.0", "reward.thumbs_rater_prior=1e9"),
    "kto": ("learner=kto",),
}
CROWDS = {
    "offline": Crowd("pairs", seed=1),
    "online": Crowd("pairs", seed=2),
    "lazy": Crowd("pairs", seed=3, lazy=True),
    "thumbs": Crowd("thumbs", seed=4),
    "lazy-thumbs": Crowd("thumbs", seed=5, lazy=True),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--until", help="stop after this result")
    parser.add_argument("--only", nargs="+", help="these results alone")
    parser.add_argument("--trial", action="store_true", help="tiny model, few votes, results beside the runs")
    parser.add_argument("--write", action="store_true", help="only write docs/feedback.md and its plot")
    arguments = parser.parse_args()
    if arguments.write:
        from simulated.page import write

        write(json.loads(RESULTS.read_text(encoding="utf-8")))
        return
    if arguments.trial:
        globals().update(SMALL)
    # Relative paths in every manifest: the runs can be moved with the checkout.
    os.chdir(ROOT)
    bench = Bench(Path("runs") / ("loop-trial" if arguments.trial else "loop"), trial=arguments.trial)
    bench.start()
    for job in jobs():
        if arguments.only and job.name not in arguments.only:
            continue
        if bench.known(job.name):
            say(f"{job.name}: done already")
        elif isinstance(job, Variation):
            bench.vary(job)
        else:
            bench.do(job)
        if job.name == arguments.until:
            return


class Bench:
    """The runs, the stores and the results of one benchmark."""

    def __init__(self, work: Path, *, trial: bool):
        self.work, self.trial = work, trial
        self.results = work / "loop.json" if trial else RESULTS
        self.more = [*(SMALL_SETTINGS if trial else ())]
        work.mkdir(parents=True, exist_ok=True)

    def start(self) -> None:
        """The first assistant."""
        for source, name, count in (
            ("rankings", "rankings", RANKINGS),
            ("heldout_rankings", "heldout_rankings", HELD_RANKINGS),
        ):
            rows = (ROOT / "data" / "seed" / f"{source}.jsonl").read_text(encoding="utf-8").splitlines()[:count]
            (self.work / f"{name}.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
        if self.known("start") and (self.work / "start" / "evaluation" / "ppo" / "card.json").exists():
            return
        started = time.monotonic()
        own = [
            f"runs_dir={self.work}",
            f"data.rankings={self.work}/rankings.jsonl",
            f"data.heldout_rankings={self.work}/heldout_rankings.jsonl",
        ]
        self._call("run", "--config", CONFIG, "--run", "start", *own, *self.more)
        cards = {stage: figures(self.work / "start", stage) for stage in ("base", "sft", "reward", "ppo")}
        self._keep(
            "start",
            {
                "cards": cards,
                "minutes": minutes(started),
                "commit": commit(),
                "config": (ROOT / CONFIG).read_text("utf-8"),
            },
        )

    def do(self, job: Job) -> None:
        """One round."""
        say(f"{job.name} …")
        run = self.work / job.run
        if job.number > 1 and not (run / "rounds" / f"{job.number - 1:03d}" / "round.json").exists():
            raise SystemExit(
                f"{run}: the round before is not there. Put the runs back, or take {job.run}-* out of {self.results}."
            )
        if not run.exists():
            shutil.copytree(self.work / "start", run.with_name(run.name + ".partial"), dirs_exist_ok=True)
            run.with_name(run.name + ".partial").rename(run)
        started = time.monotonic()
        database = self._votes(job)
        voted = minutes(started)
        started = time.monotonic()
        end = run / "rounds" / f"{job.number:03d}" / "round.json"
        if not end.exists():
            self._call("round", "--run", str(run), f"chat.feedback_db={database}", *self.more, *job.settings)
        end = json.loads(end.read_text(encoding="utf-8"))
        self._keep(
            job.name,
            {**asdict(job), **self._outcome(run, end), "minutes_voting": voted, "minutes_round": minutes(started)},
        )

    def vary(self, variation: Variation) -> None:
        """PPO of an online round anew, on the same votes and reward model."""
        say(f"{variation.name} …")
        started = time.monotonic()
        of, against = self.work / "start", "start"
        if variation.number:
            of = self.work / f"online-round-{variation.number:03d}"
            snapshot = self.work / "online" / "rounds" / f"{variation.number:03d}" / "snapshot.json"
            against = json.loads(snapshot.read_text(encoding="utf-8"))["against"]["run"]
        elif variation.of:
            of = self.work / variation.of
        run = self.work / variation.name
        service = self.work / against / "stages" / "ppo" / "adapter"
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(of, run)
        settings = [setting.format(service=service) for setting in variation.settings]
        self._call("run", "--run", str(run), "--redo", "ppo", *self.more, *settings)
        found = {
            "name": variation.name,
            "votes": variation.votes or variation.number * VOTES,
            "candidate": {stage: figures(run, stage) for stage in ("reward", "ppo")},
            "candidate_minus_start": self._gain(run, "start"),
            "minus_the_round": self._gain(run, of.name),
            "minus_service": self._gain(run, against),
            "minus_without_votes": self._gain(run, VARIATIONS[0].name) if variation.number else None,
            "minutes_round": minutes(started),
        }
        self._keep(variation.name, {**found, "commit": commit()})

    def _votes(self, job: Job) -> Path:
        """The store with exactly the votes that the job is about."""
        store = self.work / f"votes-{job.crowd}.sqlite"
        if job.crowd == "online":
            # A store of its own that goes on from the first round's votes.
            if not store.exists():
                voting.copy_votes(self._votes(Job("", "", 1, VOTES, "offline", "start")), store)
            self._collect(job.crowd, store, job.votes, job.at)
            return store
        kept = self.work / f"votes-{job.crowd}-{job.votes:04d}.sqlite"
        if not kept.exists():
            # Each sitting at a server gives everybody a new name, and a cap on one person's share must know the lazy one again.
            halts = () if CROWDS[job.crowd].lazy else (*OFFLINE, *THUMBS)
            for milestone in sorted({n for n in halts if n <= job.votes} | {job.votes}):
                self._collect(job.crowd, store, milestone, "start")
                if voting.votes_in(store) == milestone:
                    voting.copy_votes(store, self.work / f"votes-{job.crowd}-{milestone:04d}.sqlite")
        return kept

    def _collect(self, crowd: str, store: Path, count: int, at: str) -> None:
        have = voting.votes_in(store)
        if have >= count:
            return
        say(f"  {count - have} votes of the crowd '{crowd}' on answers of '{at}'")
        with voting.served(self.work / at, [f"chat.feedback_db={store}", "chat.batch_rows=32", *self.more]) as (
            url,
            token,
        ):
            voting.collect(url, token, CROWDS[crowd], questions(CROWDS[crowd].seed), have, count, "ppo", say)

    def _outcome(self, run: Path, end: dict) -> dict:
        """What came out of a round: the candidate, and who is in service after it."""
        from pipeline import service

        new = self.work / end["run"]
        now = service.present(run)
        return {
            "promoted": end["promoted"],
            "why": end["why"],
            "counts": end["counts"],
            "before": end["before"],
            "over_service": end["gain"],
            "candidate": {stage: figures(new, stage) for stage in ("reward", "ppo")},
            "candidate_minus_start": self._gain(new, "start"),
            "variances": variances(new, self.work / "start"),
            "seconds": seconds(new),
            "in_service": now.run,
            "service_minus_start": self._gain(self.work / now.run, "start"),
            "commit": commit(),
        }

    def _gain(self, run: Path, over: str) -> dict | None:
        """Gold of a run's policy over that of another run, prompt by prompt."""
        from pipeline.evaluation.rivals import gain
        from pipeline.run import Run

        if not (run / "evaluation" / "ppo" / "answers.jsonl").exists():
            return None
        found = gain(run, "ppo", self.work / over, "ppo", Run.load(self.work / "start").config, None)
        return {"value": found.value, "ci_low": found.low, "ci_high": found.high, "prompts": found.questions}

    def _call(self, *command: str) -> None:
        subprocess.run([sys.executable, "run_pipeline.py", *command], cwd=ROOT, check=True)

    def known(self, name: str) -> bool:
        return name in self._read()

    def _read(self) -> dict:
        return json.loads(self.results.read_text(encoding="utf-8")) if self.results.exists() else {}

    def _keep(self, name: str, found: dict) -> None:
        """Written whole or not at all: a benchmark that is stopped loses the result at hand and no other."""
        text = json.dumps({**self._read(), name: found}, indent=1) + "\n"
        partial = self.results.with_name(self.results.name + ".partial")
        partial.write_text(text, encoding="utf-8")
        partial.replace(self.results)


def variances(one: Path, other: Path) -> dict[str, float] | None:
    """What the width of a gain's interval is made of: the variance of gold among answers of one policy to one prompt, and among prompts
    of the true difference. With k answers a prompt of each policy and n prompts, Var(gain) = (between + 2 within / k) / n."""
    from statistics import fmean, variance

    sides = []
    for run in (one, other):
        file = run / "evaluation" / "ppo" / "answers.jsonl"
        if not file.exists():
            return None
        golds: dict[str, list[float]] = {}
        for line in file.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            golds.setdefault(row["prompt_id"], []).append(row["gold"])
        sides.append(golds)
    within = fmean(variance(own) for golds in sides for own in golds.values())
    of_gain = variance([fmean(sides[0][p]) - fmean(sides[1][p]) for p in sides[0]])
    samples = fmean(len(own) for golds in sides for own in golds.values())
    return {"within": within, "between": max(0.0, of_gain - 2 * within / samples), "prompts": len(sides[0])}


def questions(seed: int) -> list[str]:
    """The built-in training questions in an order of the crowd's own. No held-out topic is among them."""
    rows = (ROOT / "data" / "seed" / "rankings.jsonl").read_text(encoding="utf-8").splitlines()
    found = list(dict.fromkeys(json.loads(row)["prompt"] for row in rows))
    random.Random(seed).shuffle(found)
    return found


def figures(run: Path, stage: str) -> dict:
    """A card's main numbers with their intervals, by metric."""
    file = run / "evaluation" / stage / "card.json"
    if not file.exists():
        return {}
    entries = json.loads(file.read_text(encoding="utf-8"))["entries"]
    return {e["metric"]: {k: e[k] for k in ("value", "ci_low", "ci_high", "n")} for e in entries if e["metric"] in KEPT}


def seconds(run: Path) -> dict[str, float]:
    """How long each step of a run took."""
    manifests = [*run.glob("stages/*/manifest.json"), *run.glob("evaluation/*/manifest.json")]
    read = {f"{m.parts[-3]}/{m.parts[-2]}": json.loads(m.read_text(encoding="utf-8"))["environment"] for m in manifests}
    return {name: found["seconds"] for name, found in sorted(read.items())}


def commit() -> str:
    """Which code made a result."""
    found = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=ROOT, check=False)
    return found.stdout.strip()


def minutes(started: float) -> float:
    return round((time.monotonic() - started) / 60, 2)


def say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    main()
