"""A run is a directory. A step reads finished steps and leaves one manifest, written last.

runs/<run>/config.yaml            the whole config, frozen
           run.lock               held while a process works on the run
           stages/<name>/         manifest.json, log.jsonl, artifacts
           evaluation/<name>/     manifest.json, card.json, answers.jsonl
           report.md  report.html
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline import progress, takeover
from pipeline.config import Config, defaults, dump, load_config
from pipeline.disk import sha256, sync, write_whole
from pipeline.errors import RunBusy, UserError
from pipeline.memory import begin_anew, release

MANIFEST, LOG, CONFIG, CHECKPOINTS = "manifest.json", "log.jsonl", "config.yaml", "checkpoints"
KEY = ".key"
TAKEN_OVER = "taken_over_from"
_EVALUATION = "evaluate-"
_PACKAGES = ("torch", "transformers", "trl", "peft", "datasets", "accelerate", "numpy")


@dataclass(frozen=True)
class Step:
    """A stage, or the evaluation of one.

    Attributes:
        name: "sft", or "evaluate-sft".
        needs: names of the steps whose results it reads.
        settings: dotted config keys or sections that its result depends on.
        version: raised when the code changes what it leaves behind.
        body: "module:function", imported when it runs; takes a StepContext, returns the manifest's metrics.
        files: data files that it reads beside finished steps.
        reads: of the steps it needs, the files that its result depends on; named in full, it may be taken over from another run
            (`pipeline.takeover`). Empty where that is never worth it.
        versions: by `learner`, of those whose own code alone has changed since `version`.
    """

    name: str
    needs: tuple[str, ...]
    settings: tuple[str, ...]
    version: int
    body: str
    files: Callable[[Config], Sequence[Path]] = field(default=lambda config: ())
    reads: dict[str, tuple[str, ...]] = field(default_factory=dict)
    versions: dict[str, int] = field(default_factory=dict)

    def version_under(self, config: Config) -> int:
        """The version of the code that `config` chooses."""
        return self.versions.get(config.learner, self.version)

    @property
    def folder(self) -> str:
        """Where its result lies within the run."""
        if self.name.startswith(_EVALUATION):
            return f"evaluation/{self.name.removeprefix(_EVALUATION)}"
        return f"stages/{self.name}"


@dataclass(frozen=True)
class Artifact:
    path: str
    sha256: str
    bytes: int


@dataclass(frozen=True)
class StageManifest:
    """What a finished step says of itself."""

    stage: str
    key: str
    version: int
    inputs: dict[str, str]
    settings: dict[str, Any]
    files: list[dict[str, str]]
    artifacts: list[Artifact]
    metrics: dict[str, float]
    environment: dict[str, Any]
    # Of all of the above: a manifest is covered by no other hash.
    digest: str = ""

    def own_digest(self) -> str:
        text = json.dumps({**asdict(self), "digest": ""}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @staticmethod
    def read(file: Path) -> StageManifest:
        try:
            raw = json.loads(file.read_text(encoding="utf-8"))
            return StageManifest(**{**raw, "artifacts": [Artifact(**a) for a in raw["artifacts"]]})
        except (ValueError, KeyError, TypeError):
            raise UserError(
                f"{file}: damaged, not a manifest that a run wrote. Use --redo with its stage to make it anew."
            ) from None


@dataclass(frozen=True)
class Begun:
    """What an unfinished step says of itself, so that nothing else is taken up from what it left."""

    key: str
    version: int
    inputs: dict[str, str]
    settings: dict[str, Any]
    files: list[dict[str, str]]


@dataclass(frozen=True)
class StepContext:
    """What a step's body is given.

    Attributes:
        out: directory to write into; it becomes the step's own when the body returns.
        inputs: finished directories of the steps it needs, by name.
        resume_dir: what an earlier, killed attempt with the same key left behind, or None.
        progress: `pipeline.progress.track`.
    """

    config: Config
    run: Run
    out: Path
    inputs: dict[str, Path]
    resume_dir: Path | None
    progress: Callable[..., Any] = progress.track

    @property
    def checkpoints(self) -> Path:
        """Where a step keeps what it can be taken up from; gone when it is finished. An earlier, killed attempt with the same
        key left its own there."""
        return self.out / CHECKPOINTS

    def log(self, line: dict[str, Any]) -> None:
        """Appends one JSON line to the step's log."""
        with (self.out / LOG).open("a", encoding="utf-8", newline="\n") as file:
            file.write(json.dumps(line) + "\n")


class Run:
    """A run directory with its frozen config. Of `like`, another run, it takes over what would come out the same."""

    def __init__(self, path: Path, config: Config, like: Run | None = None):
        self.path, self.config, self.like = path, config, like

    @staticmethod
    def open(config: Config) -> Run:
        """The run that the config names, made if it is not there yet. An existing one takes the config's new settings:
        which of its steps they touch is for each step's key to say."""
        path = Path(config.runs_dir) / config.run_name
        return Run(path, config)

    @staticmethod
    def load(path: Path, overrides: Sequence[str] = ()) -> Run:
        """An existing run with the config that was frozen into it."""
        if not (path / CONFIG).is_file():
            raise UserError(
                f"{path}: no run there. `python run_pipeline.py run --config configs/quickstart.yaml` makes one."
            )
        config = load_config(path / CONFIG, overrides)
        return Run(path, config.model_copy(update={"runs_dir": str(path.parent), "run_name": path.name}))

    def freeze(self) -> None:
        """Writes the config into the run."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_whole(self.path / CONFIG, dump(self.config))

    @contextmanager
    def lock(self) -> Iterator[bool]:
        """Held by one process at a time; freed by the system when the process dies. Gives whether this call made the run.

        Raises:
            RunBusy: another process works on the run; the message names it.
        """
        fresh = not self.path.exists()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{self.path}: cannot be made ({error.strerror}). Choose another --run.") from None
        with (self.path / "run.lock").open("a+", encoding="utf-8") as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                file.seek(0)
                holder = file.read().strip() or "another process"
                raise RunBusy(f"{self.path}: {holder} is working on this run. Wait for it, or use --run NEW.") from None
            file.seek(0)
            file.truncate()
            file.write(f"process {os.getpid()} (since {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC)\n")
            file.flush()
            yield fresh and not (self.path / CONFIG).exists()

    def holder(self) -> str | None:
        """Who works on the run now, as its lock says; None when nobody does."""
        file = self.path / "run.lock"
        if not file.is_file():
            return None
        try:
            opened = file.open("r+", encoding="utf-8")
        except OSError:
            # Somebody else's run, which may be looked at all the same.
            return None
        with opened:
            try:
                fcntl.lockf(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return opened.read().strip() or "another process"
        return None

    # -- steps -----------------------------------------------------------------------------------------------------------

    def manifest(self, step: Step) -> StageManifest | None:
        """The manifest of a finished step."""
        file = self.path / step.folder / MANIFEST
        return StageManifest.read(file) if file.is_file() else None

    def differences(self, step: Step, steps: dict[str, Step]) -> list[str]:
        """Why a finished step is not what the config asks for now, a phrase each; empty when it is."""
        done = self.manifest(step)
        return self._apart(done, step, steps) if done is not None else []

    def differences_half_way(self, step: Step, steps: dict[str, Step]) -> list[str]:
        """The same for a step that was stopped and has checkpoints to go on from."""
        partial = _partial(self.path / step.folder)
        for folder in (partial, _aside(partial)):
            begun = _begun(folder)
            if begun is not None and (folder / CHECKPOINTS).exists():
                return self._apart(begun, step, steps)
        return []

    def _apart(self, done: StageManifest | Begun, step: Step, steps: dict[str, Step]) -> list[str]:
        now = self._identity(step, steps)
        version = step.version_under(self.config)
        found = [] if done.version == version else [f"code version {done.version}, now {version}"]
        # A setting that came later and stands at its default changes nothing; where it does, the step's version is raised.
        default = defaults()
        later = {n for n in now["settings"].keys() - done.settings.keys() if now["settings"][n] == default.get(n)}
        for name in sorted((done.settings.keys() | now["settings"].keys()) - later):
            before, after = done.settings.get(name, "unset"), now["settings"].get(name, "unset")
            if before != after:
                found.append(f"{name} {before}, now {after}")
        before = {f["path"]: f["sha256"] for f in done.files}
        after = {f["path"]: f["sha256"] for f in now["files"]}
        found += [
            f"another {path}" for path in sorted(before.keys() | after.keys()) if before.get(path) != after.get(path)
        ]
        found += [
            f"an earlier result of '{name}'"
            for name, digest in now["inputs"].items()
            if done.inputs.get(name) != digest
        ]
        return found

    def execute(self, step: Step, steps: dict[str, Step]) -> tuple[StageManifest, bool]:
        """The step's manifest, and whether it had to run. `steps` holds all steps by name.

        Raises:
            UserError: a step it needs is missing, or the step was made with other settings; the message names them.
        """
        missing = [name for name in step.needs if self.manifest(steps[name]) is None]
        if missing:
            raise UserError(
                f"{self.path}: '{step.name}' needs {', '.join(missing)}, not finished here. Run `run` or that stage first."
            )
        done = self.manifest(step)
        if done is not None:
            changed = self.differences(step, steps)
            if changed:
                redo = step.name.removeprefix(_EVALUATION)
                anew = "`evaluate --again` to judge anew what was trained, " if redo != step.name else ""
                raise UserError(
                    f"{self.path}: '{step.name}' was made with {'; '.join(changed[:3])}. "
                    f"Use {anew}--run NEW, or --redo {redo} to replace it and what follows."
                )
            if problems := self.verify(step):
                raise UserError(problems)
            _tidy(self.path / step.folder)
            return done, False
        return self._make(step, steps), True

    def remove(self, step: Step) -> bool:
        """Forgets a finished step; returns whether there was one."""
        target = self.path / step.folder
        found = target.exists()
        shutil.rmtree(target, ignore_errors=True)
        for left in (_partial(target), _aside(_partial(target))):
            shutil.rmtree(left, ignore_errors=True)
        return found

    def verify(self, step: Step) -> list[str]:
        """One problem for each artifact of a finished step that is not what its manifest says."""
        done = self.manifest(step)
        folder = self.path / step.folder
        problems = []
        if done is not None and done.own_digest() != done.digest:
            problems.append(
                f"{folder / MANIFEST}: not as it was written; it was changed or damaged. Use --redo {step.name}."
            )
        for artifact in done.artifacts if done else ():
            file = folder / artifact.path
            if not file.is_file():
                problems.append(f"{file}: missing, though the manifest names it. Use --redo {step.name}.")
            elif sha256(file) != artifact.sha256:
                problems.append(
                    f"{file}: its hash differs from the manifest; it was changed or damaged. Use --redo {step.name}."
                )
        return problems

    def _make(self, step: Step, steps: dict[str, Step]) -> StageManifest:
        problems = [p for name in step.needs for p in self.verify(steps[name])]
        if problems:
            raise UserError(problems)
        target = self.path / step.folder
        partial = _partial(target)
        identity = self._identity(step, steps)
        key = _key(step.name, step.version_under(self.config), identity)
        old = self._leftover(partial, key)
        partial.mkdir(parents=True)
        begun = {"key": key, "version": step.version_under(self.config), **identity}
        (partial / KEY).write_text(json.dumps(begun), encoding="utf-8")
        if old is not None and (old / CHECKPOINTS).exists():
            # Moved, not copied, and before anything slow, so that a second kill finds it again.
            (old / CHECKPOINTS).rename(partial / CHECKPOINTS)
        started, utc = time.monotonic(), datetime.now(UTC)
        found = takeover.same(step, steps, self, self.like) if self.like is not None else None
        try:
            if found is not None:
                takeover.copy(found, self.like.path / step.folder, partial)
                metrics = found.metrics
            else:
                metrics = self._body(step, steps, partial, old)
        except UserError:
            # Nothing half-written stays, except what the work can be taken up from.
            if not (partial / CHECKPOINTS).exists():
                shutil.rmtree(partial, ignore_errors=True)
            raise
        environment = _environment(self.config, utc, time.monotonic() - started)
        if found is not None:
            # Where and with what it was made, not where it was copied.
            environment = {**found.environment, "seconds": environment["seconds"], TAKEN_OVER: self.like.path.name}
        manifest = StageManifest(
            stage=step.name,
            key=key,
            version=step.version_under(self.config),
            **identity,
            artifacts=[
                Artifact(str(f.relative_to(partial)), sha256(f), f.stat().st_size)
                for f in sorted(partial.rglob("*"))
                if f.is_file() and f.name != KEY and CHECKPOINTS not in f.relative_to(partial).parts
            ],
            metrics=metrics,
            environment=environment,
        )
        manifest = replace(manifest, digest=manifest.own_digest())
        (partial / MANIFEST).write_text(json.dumps(asdict(manifest), indent=1) + "\n", encoding="utf-8")
        for file in partial.rglob("*"):
            if CHECKPOINTS not in file.relative_to(partial).parts:
                sync(file)
        sync(partial)
        partial.rename(target)
        sync(target.parent)
        # Only now: until its name is that of a finished step, the work must be there to be taken up.
        _tidy(target)
        if old is not None:
            shutil.rmtree(old, ignore_errors=True)
        return manifest

    def _body(self, step: Step, steps: dict[str, Step], partial: Path, old: Path | None) -> dict[str, float]:
        _settle(self.config)
        begin_anew()
        module, _, function = step.body.partition(":")
        context = StepContext(
            config=self.config,
            run=self,
            out=partial,
            inputs={name: self.path / steps[name].folder for name in step.needs},
            resume_dir=old,
        )
        metrics = getattr(importlib.import_module(module), function)(context)
        release()
        return metrics

    def _leftover(self, partial: Path, key: str) -> Path | None:
        """Puts a killed attempt aside, if it was for the same key; removes it otherwise."""
        aside = _aside(partial)

        def ours(folder: Path) -> bool:
            begun = _begun(folder)
            return begun is not None and begun.key == key

        # Killed between putting the attempt aside and taking its checkpoints over: they still lie aside.
        if ours(aside) and (aside / CHECKPOINTS).exists() and not (partial / CHECKPOINTS).exists():
            shutil.rmtree(partial, ignore_errors=True)
            return aside
        shutil.rmtree(aside, ignore_errors=True)
        if ours(partial):
            partial.rename(aside)
            return aside
        shutil.rmtree(partial, ignore_errors=True)
        return None

    def _identity(self, step: Step, steps: dict[str, Step]) -> dict[str, Any]:
        return {
            "inputs": {
                name: sha256(self.path / steps[name].folder / MANIFEST)
                for name in step.needs
                if self.manifest(steps[name])
            },
            "settings": self.config.subset(step.settings),
            "files": [
                {"path": str(p), "sha256": sha256(p) if p.is_file() else "missing"} for p in step.files(self.config)
            ],
        }


def _key(name: str, version: int, identity: dict[str, Any]) -> str:
    text = json.dumps({"stage": name, "version": version, **identity}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _partial(target: Path) -> Path:
    return target.with_name(target.name + ".partial")


def _aside(partial: Path) -> Path:
    return partial.with_name(partial.name + ".old")


def _begun(folder: Path) -> Begun | None:
    """What a step in this folder was begun with; None where that cannot be read."""
    try:
        return Begun(**json.loads((folder / KEY).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _tidy(target: Path) -> None:
    """Takes from a finished step what only served to finish it."""
    shutil.rmtree(target / CHECKPOINTS, ignore_errors=True)
    (target / KEY).unlink(missing_ok=True)


def _settle(config: Config) -> None:
    """Threads and seeds, before every step, so that a step does not depend on which steps ran before it in this process."""
    import random

    import numpy
    import torch
    from transformers.utils import logging

    # Their bars would tear ours.
    logging.disable_progress_bar()
    torch.set_num_threads(config.threads or os.cpu_count() or 1)
    random.seed(config.seed)
    numpy.random.seed(config.seed % 2**32)
    torch.manual_seed(config.seed)


def _environment(config: Config, started: datetime, seconds: float) -> dict[str, Any]:
    import resource
    from importlib.metadata import PackageNotFoundError, version

    import torch

    from pipeline.models import choose_device, choose_dtype

    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    device = choose_device(config.model.device)
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False, cwd=Path(__file__).parent
    )
    return {
        "commit": commit.stdout.strip() or None,
        "versions": versions,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "dtype": str(choose_dtype(config.model.dtype, device)).removeprefix("torch."),
        "seed": config.seed,
        "started_utc": started.isoformat(timespec="seconds"),
        "seconds": round(seconds, 2),
        # The process's peak so far, all steps before this one included.
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        # The step's own.
        **({"peak_gpu_bytes": torch.cuda.max_memory_allocated(device)} if device.type == "cuda" else {}),
    }
