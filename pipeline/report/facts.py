"""What a run left on disk, read once for both forms of the report."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data.errors import UserError
from data.records import Message, read_out
from data.votes import ASKED
from pipeline.evaluation import accepted as accepting
from pipeline.evaluation import calibration
from pipeline.evaluation import gates as gating
from pipeline.evaluation.cards import SIGNED, Card, Entry, is_finite, read_card
from pipeline.evaluation.detectors import REPORT as DETECTORS
from pipeline.evaluation.standings import Standings
from pipeline.evaluation.standings_file import read as read_standings
from pipeline.evaluation.statistics import cluster_bootstrap
from pipeline.step import EVALUATION, anew

ORDER = ("base", "prepare", "sft", "reward", "ppo", "benchmarks")
POLICIES = ("base", "sft", "ppo")
# Gates of which there is no number so far: of a stage that has not run, or of benchmarks, which no run asks by itself.
WAITING = ("not reached", "not measured yet")


@dataclass(frozen=True)
class Gate:
    """One configured gate and what became of it: passed, missed, accepted, warned (missed, and only to warn), not reached, or, on
    benchmarks, not measured yet."""

    name: str
    state: str
    result: gating.GateResult
    why: str = ""


NAMES = {
    "base": "Base",
    "sft": "SFT",
    "ppo": "PPO",
    "reward": "Reward model",
    "prepare": "Prepare",
    "benchmarks": "Benchmarks",
}


@dataclass(frozen=True)
class Facts:
    """Everything the report says comes from here. Missing files leave empty mappings, never invented numbers."""

    run: str
    config: Any
    stages: tuple[str, ...]
    manifests: Mapping[str, dict[str, Any]]
    evaluations: Mapping[str, dict[str, Any]]
    cards: Mapping[str, Card]
    logs: Mapping[str, list[dict[str, Any]]]
    answers: Mapping[str, list[dict[str, Any]]]
    gates: tuple[Gate, ...]
    watched: Mapping[str, Any] = field(default_factory=dict)
    # Some answers of PPO's updates, or of KTO's looks; how many more there are to questions that people asked in the chat.
    samples: Sequence[Mapping[str, Any]] = ()
    asked_in_chat: int = 0
    # How sure the reward model is against how often it is right.
    calibration: tuple[calibration.Bin, ...] = ()
    # What people had said when `feedback standings` counted it, and when that was.
    people: tuple[Standings, str] | None = None

    def entry(self, stage: str, metric: str) -> Entry | None:
        card = self.cards.get(stage)
        entry = card.get(metric) if card else None
        if entry is None and metric == "gold" and (last := self.cards.get("ppo")):
            # A test model is younger than the cards of base and SFT: what it says of them stands on PPO's.
            entry = last.get(f"{stage}_gold")
        return entry if entry is not None and is_finite(entry.value) else None

    @property
    def learner(self) -> str:
        """What trained the last policy."""
        return "KTO" if getattr(self.config, "learner", None) == "kto" else "PPO"

    def stage_name(self, stage: str) -> str:
        """As the report writes it. The stage `ppo` is KTO's where that learns."""
        return self.learner if stage == "ppo" else NAMES.get(stage, stage)

    @property
    def drawn(self) -> Sequence[Mapping[str, Any]]:
        """Figures of the policy's answers while it learned: of PPO's rollouts, or of KTO's looks, which draws none to learn from."""
        return self.watched.get("lines") or self.logs.get("ppo", ())

    @property
    def drawn_at(self) -> str:
        return "looks" if self.watched.get("lines") else "updates"

    def parts(self, stage: str, prefix: str) -> list[str]:
        """Names of the parts that follow `prefix` in the metrics of a card, differences left out."""
        card = self.cards.get(stage)
        found = (n for n in card.names if n.startswith(prefix) and SIGNED not in n) if card else ()
        return [name.removeprefix(prefix) for name in found if self.entry(stage, name)]

    def best_of(self) -> list[tuple[int, Entry, Entry]]:
        """(n, gold, KL) of each best-of-n on PPO's card, by n."""
        card = self.cards.get("ppo")
        sizes = (int(m[1]) for name in (card.names if card else ()) if (m := re.fullmatch(r"best_of_(\d+)_gold", name)))
        found = [
            (n, self.entry("ppo", f"best_of_{n}_gold"), self.entry("ppo", f"best_of_{n}_kl")) for n in sorted(sizes)
        ]
        return [(n, gold, kl) for n, gold, kl in found if gold and kl]


def gather(run_dir: Path, config: Any) -> Facts:
    """Read what `run_dir` holds. A file that is there but broken is a UserError with its name; one not there is not."""
    stage_dirs = _finished(run_dir / "stages")
    evaluation_dirs = _finished(run_dir / "evaluation")
    cards = {
        name: read_card(path / "card.json") for name, path in evaluation_dirs.items() if (path / "card.json").exists()
    }
    answers = {name: read_jsonl(path / "answers.jsonl") for name, path in evaluation_dirs.items()}
    rescored = read_jsonl(run_dir / "evaluation" / "ppo" / "sft_answers.jsonl")
    if rescored:
        answers["sft"] = rescored
    kept = read_jsonl(stage_dirs["ppo"] / "samples.jsonl") if "ppo" in stage_dirs else []
    samples = _without_chat(kept, run_dir / "stages" / "prepare")
    return Facts(
        run=run_dir.name,
        config=config,
        stages=tuple(sorted({*stage_dirs, *cards}, key=_place)),
        manifests={name: _read_manifest(path) for name, path in stage_dirs.items()},
        evaluations={name: _read_manifest(path) for name, path in evaluation_dirs.items()},
        cards=cards,
        logs={name: rows for name, path in stage_dirs.items() if (rows := read_jsonl(path / "log.jsonl"))},
        answers={name: rows for name, rows in answers.items() if rows},
        gates=_gates(run_dir, config, cards),
        watched=_watched(stage_dirs),
        samples=samples,
        asked_in_chat=len(kept) - len(samples),
        calibration=calibration.read(run_dir / "evaluation" / "reward"),
        people=read_standings(run_dir),
    )


def _without_chat(rows: list[dict[str, Any]], prepared: Path) -> list[dict[str, Any]]:
    """Without what a round learned from people's own questions: to learn from them was allowed, to hand them on in a report was not."""
    prompts = [row for name in ("prompts.jsonl", "prompts.test.jsonl") for row in (read_jsonl(prepared / name) if rows else [])]
    asked = [[Message(**turn) for turn in row["prompt"]] for row in prompts if row["id"].endswith(ASKED)]
    # Earlier code kept the last turn alone.
    known = {words for turns in asked for words in (read_out(turns), turns[-1].content)}
    return [row for row in rows if row["prompt"] not in known]


def _mean_of(scores: Sequence[float]) -> dict[str, Any]:
    """A look's mean with its interval over prompts, where these are enough for one."""
    value, low, high = cluster_bootstrap(scores, range(len(scores)))
    return {"mean": value, "ends": (low, high) if is_finite(low) and is_finite(high) else None}


def _watched(stage_dirs: Mapping[str, Path]) -> dict[str, Any]:
    """What the failure detectors left, empty where there is none."""
    file = stage_dirs["ppo"] / DETECTORS if "ppo" in stage_dirs else None
    if file is None or not file.exists():
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        found["looks"] = [{**look, **_mean_of(look["judge"])} for look in found["looks"]]
        return found
    except (ValueError, KeyError, TypeError, ZeroDivisionError):
        raise UserError(f"{file}: not what the PPO stage wrote. `run --redo ppo` makes it anew.") from None


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSONL file, none where there is no file."""
    if not path.exists():
        return []
    rows = []
    # Not splitlines(): U+2028 inside a string is no end of a row.
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(f"{path} row {number}: no JSON: {error}. Run the stage that wrote it again.") from error
        if not isinstance(row, dict):
            raise UserError(
                f"{path} row {number}: must be an object, got {line[:40]}. Run the stage that wrote it again."
            )
        rows.append(row)
    return rows


def _finished(folder: Path) -> dict[str, Path]:
    """Finished directories by name: those still being written end in .partial and are left out."""
    if not folder.is_dir():
        return {}
    found = [p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".") and "." not in p.name]
    return {path.name: path for path in sorted(found, key=lambda p: _place(p.name))}


def _place(stage: str) -> tuple[int, str]:
    return (ORDER.index(stage) if stage in ORDER else len(ORDER), stage)


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / "manifest.json"
    if not path.exists():
        return {}
    again = anew(folder.name if folder.parent.name == "stages" else EVALUATION + folder.name)
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: no JSON: {error}. {again} makes it anew.") from error
    if not isinstance(manifest, dict):
        raise UserError(f"{path}: must be an object. {again} makes it anew.")
    return manifest


def _gates(run_dir: Path, config: Any, cards: Mapping[str, Card]) -> tuple[Gate, ...]:
    out = []
    for name, bounds in (config.gates or {}).items():
        stage = name.split(".")[0]
        if stage not in cards:
            metric = name.split(".")[1] if "." in name else ""
            waiting = gating.GateResult(name, metric, None, None, None, "", *gating.bounds_of(bounds), "")
            out.append(Gate(name, WAITING[stage == gating.BENCHMARKS], waiting))
            continue
        where = f"evaluation/{stage}/card.json"
        (result,) = gating.results(cards[stage].to_dict(), {name: bounds}, stage, where, config.learner)
        covered = accepting.covering(run_dir, [result])
        out.append(Gate(name, gating.state_of(result, covered), result, covered.get(name, "")))
    return tuple(out)
