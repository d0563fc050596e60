"""Who may answer: the checkpoints of a run, and the assistants that other rounds made of it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline import round_runs
from pipeline.adapters import BASE, POLICY, REFERENCE
from pipeline.errors import UserError
from pipeline.learner import STAGE, called
from pipeline.manifest import MANIFEST
from pipeline.roles import ADAPTER
from pipeline.run import CONFIG, Run, as_argument, at_hand

# Which adapter role speaks for a stage: in PPO the reference is the SFT policy, and so it is here.
_ROLES = {"sft": REFERENCE, "ppo": POLICY}


@dataclass(frozen=True)
class Checkpoint:
    """One of those who answer.

    Attributes:
        name: what menus and clients call it, by the learner that made it.
        run, stage, sha256: what it is, for the record of a vote; the base has no weights of its own.
        role: the adapter that speaks for it.
        adapter: its directory, None for the base.
    """

    name: str
    run: str
    stage: str
    role: str
    sha256: str
    adapter: Path | None = None


def of_run(run: Path) -> list[Checkpoint]:
    """The base and every policy that the run has finished, from the untrained to the most trained.

    Raises:
        UserError: no stage of the run has left a policy yet.
    """
    trained = [_trained(run, stage, called(run, stage), role) for stage, role in _ROLES.items() if _is_done(run, stage)]
    if not trained:
        raise UserError(f"{run}: no trained model yet{at_hand(run)}. `python run_pipeline.py run --run {as_argument(run)}` makes one.")
    return [Checkpoint("base", run.name, "base", BASE, ""), *trained]


def of_rounds(first: Path, serving: Run, keep: int) -> tuple[list[Checkpoint], list[str]]:
    """The assistants of the newest `keep` rounds beside the one in service, oldest first, and a line for each that is not offered.

    Args:
        first: the run that the rounds started from, round 0.
        serving: the run of the assistant in service, whose own checkpoints are offered anyway.
    """
    rounds = {0: first, **round_runs.of_rounds(first)}
    made = {n: path for n, path in rounds.items() if path != serving.path and _is_done(path, "ppo")}
    fitting = {n: path for n, path in made.items() if _fits(path, serving)}
    shown = dict(sorted(fitting.items())[max(0, len(fitting) - keep) :])
    left_out = [f"{made[n].name}: has another base model or other lora settings" for n in made if n not in fitting]
    left_out += [
        f"{fitting[n].name}: older than the newest {keep} (chat.other_rounds)" for n in fitting if n not in shown
    ]
    known = {c.sha256 for c in of_run(serving.path)}
    found = []
    for number, path in shown.items():
        for stage in (stage for stage in _ROLES if _is_done(path, stage)):
            checkpoint = _trained(path, stage, f"{called(path, stage)}-round-{number}", f"{stage}-round-{number}")
            # Rounds start from the same SFT data, so that policy is mostly one and the same.
            if checkpoint.sha256 not in known:
                known.add(checkpoint.sha256)
                found.append(checkpoint)
    return found, left_out


def candidate(others: Sequence[Checkpoint], first: Path, serving: Path) -> str | None:
    """The newest round's assistant where it is newer than the one in service, promoted or not; None where there is none."""
    number = lambda run: int(run[-3:]) if run != first.name else 0  # noqa: E731
    newer = [c for c in others if c.stage == "ppo" and number(c.run) > number(serving.name)]
    return max(newer, key=lambda c: number(c.run)).name if newer else None


def name_of(checkpoints: Sequence[Checkpoint], run: str, stage: str, sha256: str) -> str:
    """What to call the model of an old answer: as the menu does where it is there, else by its run."""
    if not sha256:
        # The base, or a model elsewhere whose votes were brought in.
        return stage
    found = next((c.name for c in checkpoints if c.sha256 == sha256), None)
    trained_anew = any((c.run, c.stage) == (run, stage) for c in checkpoints)
    # Which learner made weights that are not here, nobody knows any more.
    what = "assistant" if stage == STAGE else stage
    return found or (f"an earlier {what} of {run}" if trained_anew else f"{what} of {run}")


def _trained(run: Path, stage: str, name: str, role: str) -> Checkpoint:
    adapter = run / "stages" / stage / ADAPTER
    digest = hashlib.sha256((adapter / "adapter_model.safetensors").read_bytes()).hexdigest()
    return Checkpoint(name, run.name, stage, role, digest, adapter)


def _is_done(run: Path, stage: str) -> bool:
    return (run / "stages" / stage / MANIFEST).is_file()


def _fits(path: Path, serving: Run) -> bool:
    """Whether the adapters of a run can stand on the base of another."""
    if not (path / CONFIG).is_file():
        return False
    config = Run.load(path).config
    return config.model == serving.config.model and config.lora == serving.config.lora
