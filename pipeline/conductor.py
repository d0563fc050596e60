"""Stage, evaluation, gate, next: the order of a run, and nothing else."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

from pipeline import held
from pipeline.beforehand import bad_judge, bad_start_of_kto, bad_start_of_ppo, wrong_settings
from pipeline.errors import DiskFull, UserError, is_disk_full
from pipeline.evaluation import accepted, detectors, gates
from pipeline.manifest import TAKEN_OVER, StageManifest
from pipeline.memory import is_out_of_memory
from pipeline.outdated import outdated
from pipeline.run import Run
from pipeline.step import Step
from pipeline.stopping import Stopped

Say = Callable[[str], None]
# What a step's line shows of its metrics: the first few of these that it has.
_KEY_FIGURES = (
    "gold_minus_sft",
    "gold_minus_best_of_2",
    "kl_to_reference",
    "clean_accuracy",
    "observed_accuracy",
    "gold",
    "eos_rate",
    "heldout_nll",
    "score",
    "loss",
    "pairs",
    "demonstrations",
    "rankings",
    "heldout_prompts",
)


def registry() -> tuple[tuple[Step, ...], dict[str, Step]]:
    """The stages in order, and the evaluation of each."""
    from pipeline.stages import EVALUATIONS, STAGES

    return STAGES, EVALUATIONS


def all_steps() -> dict[str, Step]:
    """Every step by name, in the order in which a run takes them."""
    stages, evaluations = registry()
    ordered: dict[str, Step] = {}
    for stage in stages:
        ordered[stage.name] = stage
        if stage.name in evaluations:
            ordered[evaluations[stage.name].name] = evaluations[stage.name]
    return ordered


def conduct(
    run: Run,
    chosen: Sequence[str],
    say: Say,
    *,
    redo: str | None = None,
    accept: dict[str, str] | None = None,
    inherited: Mapping[str, Any] | None = None,
    evaluate_only: bool = False,
    again: bool = False,
) -> int:
    """Runs the chosen stages, each with its evaluation and gates. Returns how many steps had to run.

    Everything that can be refused is refused before anything is removed, written or trained.

    Args:
        chosen: names of stages, in any order; they run in theirs.
        redo: a stage to make anew, with all that follows from it.
        accept: gates that may be missed, with the reason, kept in the run.
        inherited: what was accepted in the run that this one grows out of (`accepted.of`).
        evaluate_only: leaves the stages as they are and only judges them: what was not measured yet, and cards that are outdated.
        again: judges them all, also those whose card is as it would be now.

    Raises:
        UserError: a data file is missing, a gate does not exist, or a step cannot run.
        GateFailure: a number missed its bound; the report is written all the same.
    """
    steps = all_steps()
    gone = follows(redo) if redo else frozenset()
    if problems := refusals(run, chosen, gone, accept or {}, inherited or {}, redo=redo):
        raise UserError(problems)
    with run.lock() as fresh:
        try:
            renewed = _renewed(run, chosen, steps, again=again) if evaluate_only else {}
            _refuse_other_settings(run, steps, gone | renewed.keys())
            _refuse_other_base(run, chosen, steps, gone | renewed.keys())
            removed = [name for name, step in steps.items() if name in gone and run.remove(step)]
            for name in removed:
                say(f"{name}: removed")
            # Asked of policies that are about to be others.
            if redo and (asked := run.path / "evaluation" / gates.BENCHMARKS).exists():
                shutil.rmtree(asked)
                say("benchmarks: removed")
            run.freeze()
            accepted.inherit(run.path, {gate: one for gate, one in (inherited or {}).items() if gate in run.config.gates})
            for gate, why in (accept or {}).items():
                accepted.accept(run.path, gate, why)
            for name, why in renewed.items():
                say(f"{name}: measured anew, {why}")
            # Another gate may be accepted, or have another bound: what was judged before is shown by that. What was removed no more.
            anew = evaluate_only or bool(accept) or bool(removed)
            return _take(run, chosen, steps, say, evaluate_only=evaluate_only, renewed=renewed, anew=anew)
        except Exception as error:
            if is_disk_full(error):
                raise _disk_full(run) from None
            if is_out_of_memory(error):
                raise UserError(
                    f"out of memory, and not where fewer rows a pass would help ({(str(error).splitlines() or ['no more is known'])[0][:200]}). "
                    "`python run_pipeline.py plan` with this config says what to lower; what was finished is whole, and the same command "
                    "goes on from there."
                ) from None
            if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
                raise UserError(
                    f"{error.filename or run.path}: {error.strerror or error}. What was finished is whole; mend it and give the "
                    "same command again."
                ) from None
            # A run that this very call made and that came to nothing leaves nothing behind. The lock is still held.
            if (
                fresh
                and isinstance(error, UserError)
                and not any((run.path / s.folder).exists() for s in steps.values())
            ):
                shutil.rmtree(run.path, ignore_errors=True)
            raise


def _renewed(run: Run, chosen: Sequence[str], steps: dict[str, Step], *, again: bool) -> dict[str, str]:
    """Evaluation of a chosen stage → why its card, which is there, is measured once more."""
    _, evaluations = registry()
    judged = [evaluations[stage] for stage in chosen if stage in evaluations]
    every = {step.name: "as `evaluate --again` asks" for step in judged if again and (run.path / step.folder).exists()}
    old = outdated(run, steps)
    return every | {step.name: old[step.name] for step in judged if step.name in old}


def _take(
    run: Run, chosen: Sequence[str], steps: dict[str, Step], say: Say, *, evaluate_only: bool, renewed: Collection[str], anew: bool
) -> int:
    """The chosen stages in their order, each with its evaluation and gates; the report in any case, written `anew` also when
    nothing ran. The evaluations `renewed` are made whether there is a card or not."""
    stages, evaluations = registry()
    ran = 0
    try:
        for stage in stages:
            if stage.name not in chosen:
                continue
            if not evaluate_only:
                if run.manifest(stage) is None:
                    ran += _judge_inputs(run, stage, chosen, steps, say)
                ran += _step(run, stage, steps, say)
            evaluation = evaluations.get(stage.name)
            if evaluation is not None:
                ran += _step(run, evaluation, steps, say, anew=evaluation.name in renewed)
                held.hold(run, evaluation.folder, say)
    finally:
        # A stop can come in the middle of an import that the report needs as well, and then the report is what fails.
        with suppress(Exception) if isinstance(sys.exception(), Stopped) else nullcontext():
            _report(run, anew or bool(ran))
    return ran


def _judge_inputs(run: Run, stage: Step, chosen: Sequence[str], steps: dict[str, Step], say: Say) -> int:
    """Holds the gates of what a stage is about to be made from, where this call would not come by them: `--only ppo` is no way
    around what stopped the run at the reward model. A card that is not there is made first."""
    _, evaluations = registry()
    ran = 0
    for name in stage.needs:
        evaluation = None if name in chosen else evaluations.get(name)
        if evaluation is None or not _has_gates(run, evaluation):
            continue
        if run.manifest(evaluation) is None:
            ran += _step(run, evaluation, steps, say)
        held.hold(run, evaluation.folder, say)
    return ran


def _has_gates(run: Run, evaluation: Step) -> bool:
    stage = evaluation.folder.split("/")[-1]
    return any(gate.split(".")[0] == stage for gate in run.config.gates)


def _disk_full(run: Run) -> DiskFull:
    free = shutil.disk_usage(run.path.parent).free
    return DiskFull(
        f"{run.path}: no space left on the disk ({free / 1e6:.0f} MB free). What was finished is whole; free some space and "
        "give the same command again, it goes on from there."
    )


def follows(stage: str) -> frozenset[str]:
    """A stage and every step that builds on it: what `--redo` removes."""
    _, evaluations = registry()
    gone = {stage} | ({evaluations[stage].name} if stage in evaluations else set())
    for step in all_steps().values():
        if gone & set(step.needs):
            gone.add(step.name)
    return frozenset(gone)


def refusals(
    run: Run,
    chosen: Sequence[str],
    gone: frozenset[str],
    accept: dict[str, str],
    inherited: Mapping[str, Any] | None = None,
    *,
    redo: str | None = None,
) -> list[str]:
    """One line for each reason not to begin with the chosen stages; `gone` are the steps that `--redo` removes."""
    if problems := _redone_and_not_made(redo, chosen):
        return problems
    problems = wrong_settings(run, accept, inherited or {}) + _missing_needs(run, chosen, gone)
    if "ppo" in chosen:
        problems += bad_judge(run.config)
        if "ppo" in gone or run.manifest(all_steps()["ppo"]) is None:
            problems += bad_start_of_ppo(run.config) + bad_start_of_kto(run.config)
    return problems


def _redone_and_not_made(redo: str | None, chosen: Sequence[str]) -> list[str]:
    if redo is None or redo in chosen:
        return []
    return [f"--redo {redo}: would remove it and not make it anew, as this call is for {', '.join(chosen)} alone. Choose {redo} too."]


def _missing_needs(run: Run, chosen: Sequence[str], gone: frozenset[str]) -> list[str]:
    """One line for each chosen stage that reads a stage which is neither finished nor chosen too."""
    steps = all_steps()
    lines = []
    for name in chosen:
        needed = [n for n in steps[name].needs if n not in chosen]
        missing = [n for n in needed if n in gone or run.manifest(steps[n]) is None]
        if missing:
            lines.append(
                f"{run.path}: '{name}' needs {', '.join(missing)}, not finished here. `run` makes all in their order."
            )
    return lines


def _refuse_other_settings(run: Run, steps: dict[str, Step], gone: Collection[str]) -> None:
    """A finished step that the config now asks otherwise stops the run, also one that would not run now: the config that is
    frozen into a run must be that of all its steps."""
    for name, step in steps.items():
        if name in gone:
            continue
        if run.manifest(step) is not None:
            run.execute(step, steps)
        elif changed := run.differences_half_way(step, steps):
            raise UserError(
                f"{run.path}: '{name}' was stopped half-way with {'; '.join(changed[:3])}. Go on with what it was made with, use "
                f"--run NEW, or, with the same settings, {step.anew}, which throws its checkpoints away."
            )


def _step(run: Run, step: Step, steps: dict[str, Step], say: Say, *, anew: bool = False) -> int:
    manifest = None if anew else run.manifest(step)
    # What was finished before this call has been held against settings and hashes already, all steps at once.
    fresh = manifest is None
    if manifest is None:
        say(f"{step.name} …")
        manifest, _ = run.execute(step, steps, anew=anew)
    say(f"{step.name}: {_took(manifest) if fresh else 'done already'}  {summary(manifest)}".rstrip())
    if stopped := _stopped(run.path / step.folder / detectors.REPORT):
        say(stopped)
    return int(fresh)


def _stopped(file: Path) -> str:
    """Why a failure detector ended the stage early, in one line; empty when none did."""
    return json.loads(file.read_text(encoding="utf-8"))["said"] if file.is_file() else ""


def _refuse_other_base(run: Run, chosen: Sequence[str], steps: dict[str, Step], gone: Collection[str]) -> None:
    """An adapter fits one base only, and one way of writing conversations: others of the same shape would be taken without a word.

    Hashed once a call, and only when something is to be made from what an earlier call prepared.
    """
    _, evaluations = registry()
    wanted = [s for name in chosen for s in (steps[name], evaluations.get(name)) if s is not None]
    to_make = any(s.name in gone or run.manifest(s) is None for s in wanted)
    report = run.path / steps["prepare"].folder / "report.json"
    if not to_make or "prepare" in gone or not report.is_file():
        return
    from pipeline.models import load_tokenizer
    from pipeline.template import template_sha256
    from pipeline.weights import weights_sha256

    began, model = json.loads(report.read_text(encoding="utf-8")), run.config.model
    template = f"in {model.chat_template}" if model.chat_template else f"of '{model.name}'"
    for key, said, now in (
        ("base_weights_sha256", f"model.name: the weights of '{model.name}' are not those", weights_sha256(model)),
        (
            "template_sha256",
            f"model.chat_template: the template {template} is not the one",
            template_sha256(load_tokenizer(model), model.system_prompt),
        ),
    ):
        # A run that was prepared before it was noted has nothing to be held against.
        if (before := began.get(key, now)) != now:
            raise UserError(
                f"{said} that {run.path} began with (sha256 {now[:12]}, then {before[:12]}). Put that back, or use --run NEW."
            )


def summary(manifest: StageManifest, count: int = 4) -> str:
    """The few figures of a step that a person wants to see on one line."""
    shown = [name for name in _KEY_FIGURES if name in manifest.metrics][:count]
    return "  ".join(f"{name} {manifest.metrics[name]:.4g}" for name in shown)


def _took(manifest: StageManifest) -> str:
    if TAKEN_OVER in manifest.environment:
        return f"taken over from {manifest.environment[TAKEN_OVER]}"
    return f"{manifest.environment['seconds']:.0f} s"


def hold_benchmarks(run: Run, say: Say) -> None:
    """Holds the gates on benchmarks against what `evaluate --benchmarks` measured last; nothing where it never did.

    Raises:
        GateFailure: a number missed its bound, or was not measured.
    """
    if (run.path / "evaluation" / gates.BENCHMARKS / "card.json").exists():
        held.hold(run, f"evaluation/{gates.BENCHMARKS}", say)


def _report(run: Run, anew: bool) -> tuple[Path, Path] | None:
    """Written after every run that did something, also when a gate stopped it: that is when one wants to look."""
    if not anew and (run.path / "report.html").exists():
        return None
    if not any((run.path / s.folder / "manifest.json").exists() for s in all_steps().values()):
        return None
    from pipeline.report.write import write_report

    return write_report(run.path, run.config)
