"""A run is a directory. A step reads finished steps and leaves one manifest, written last.

runs/<run>/config.yaml            the whole config, frozen
           run.lock               held while a process works on the run
           stages/<name>/         manifest.json, log.jsonl, artifacts
           evaluation/<name>/     manifest.json, card.json, answers.jsonl
           report.md  report.html
"""

from __future__ import annotations

import errno
import fcntl
import importlib
import json
import os
import shlex
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline import environment, takeover
from pipeline.apart import apart
from pipeline.attempt import KEY, aside_of, begun_in, leftover, partial_of, tidy
from pipeline.config import Config, dump, load_config
from pipeline.disk import sha256, sync, write_whole
from pipeline.errors import RunBusy, UserError
from pipeline.manifest import MANIFEST, TAKEN_OVER, Artifact, Begun, StageManifest, key_of
from pipeline.memory import begin_anew, release
from pipeline.step import CHECKPOINTS, Step, StepContext

CONFIG = "config.yaml"
_NAMED = 5


def at_hand(path: Path) -> str:
    """Which other runs there are, the newest first, for a message about one that is not what was meant; empty where there is none."""
    found = {file.parent for place in (path.parent, Path("runs")) for file in place.glob(f"*/{CONFIG}")} - {path}
    newest = sorted(found, key=lambda run: (run / CONFIG).stat().st_mtime, reverse=True)
    shown = [run.name if run.parent == Path("runs") else str(run) for run in newest[:_NAMED]]
    more = f" and {len(newest) - len(shown)} more" if len(newest) > len(shown) else ""
    return f"; for --run there are {', '.join(shown)}{more}" if shown else ""


def as_argument(path: Path) -> str:
    """A run as a person types it behind --run."""
    return shlex.quote(path.name if path.parent == Path("runs") else str(path))


def _earlier(target: Path) -> Path:
    return target.with_name(target.name + ".earlier")


def _put(partial: Path, target: Path) -> None:
    """Gives a whole result its name; an earlier one goes only now."""
    earlier = _earlier(target)
    shutil.rmtree(earlier, ignore_errors=True)
    if target.exists():
        target.rename(earlier)
    partial.rename(target)
    shutil.rmtree(earlier, ignore_errors=True)


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
    def load(path: Path, overrides: Sequence[str] = (), **reading: Any) -> Run:
        """An existing run with the config that was frozen into it; `reading` is for `load_config`."""
        if not (path / CONFIG).is_file():
            raise UserError(
                f"{path}: no run there{at_hand(path)}. `python run_pipeline.py run --config configs/quickstart.yaml` makes one."
            )
        config = load_config(path / CONFIG, overrides, **reading)
        return Run(path, config.model_copy(update={"runs_dir": str(path.parent), "run_name": path.name}))

    @property
    def argument(self) -> str:
        """What a person types behind --run."""
        return as_argument(self.path)

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
        try:
            opened = (self.path / "run.lock").open("a+", encoding="utf-8")
        except OSError as error:
            raise UserError(
                f"{self.path}: cannot be written into ({error.strerror}). `status` and `chat` work all the same; copy the run, or use --run NEW."
            ) from None
        with opened as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in (errno.EACCES, errno.EAGAIN):
                    raise UserError(
                        f"{self.path}: cannot be locked ({error.strerror}), so that two processes could write into it. Put runs on "
                        "another file system."
                    ) from None
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
        return StageManifest.read(file, step.anew) if file.is_file() else None

    def differences(self, step: Step, steps: dict[str, Step]) -> list[str]:
        """Why a finished step is not what the config asks for now, a phrase each; empty when it is."""
        done = self.manifest(step)
        return self._apart(done, step, steps) if done is not None else []

    def differences_half_way(self, step: Step, steps: dict[str, Step]) -> list[str]:
        """The same for a step that was stopped and has checkpoints to go on from."""
        partial = partial_of(self.path / step.folder)
        for folder in (partial, aside_of(partial)):
            begun = begun_in(folder)
            if begun is not None and (folder / CHECKPOINTS).exists():
                return self._apart(begun, step, steps)
        return []

    def _apart(self, done: StageManifest | Begun, step: Step, steps: dict[str, Step]) -> list[str]:
        return apart(done, self._identity(step, steps), step.version_under(self.config))

    def execute(self, step: Step, steps: dict[str, Step], *, anew: bool = False) -> tuple[StageManifest, bool]:
        """The step's manifest, and whether it had to run. `steps` holds all steps by name. `anew`: it runs in any case, and what
        is there stays until the new result is whole.

        Raises:
            UserError: a step it needs is missing, or the step was made with other settings; the message names them.
        """
        missing = [name for name in step.needs if self.manifest(steps[name]) is None]
        if missing:
            cards = all(steps[name].is_evaluation for name in missing)
            way = "`evaluate` measures it, and what is held against it." if cards else "`run` makes all in their order."
            raise UserError(f"{self.path}: '{step.name}' needs {', '.join(missing)}, not finished here. {way}")
        done = None if anew else self.manifest(step)
        if done is not None:
            changed = self.differences(step, steps)
            if changed:
                ways = f"--run NEW, or, with the same settings, {step.anew}, which replaces it and what follows."
                if step.is_evaluation:
                    ways = f"{step.anew} with the same settings, which measures anew the outdated cards alone, or --run NEW."
                raise UserError(f"{self.path}: '{step.name}' was made with {'; '.join(changed[:3])}. Use {ways}")
            if problems := self.verify(step):
                raise UserError(problems)
            tidy(self.path / step.folder)
            return done, False
        return self._make(step, steps), True

    def remove(self, step: Step) -> bool:
        """Forgets a finished step; returns whether there was one."""
        target = self.path / step.folder
        found = target.exists()
        shutil.rmtree(target, ignore_errors=True)
        for left in (partial_of(target), aside_of(partial_of(target)), _earlier(target)):
            shutil.rmtree(left, ignore_errors=True)
        return found

    def verify(self, step: Step) -> list[str]:
        """One problem for each artifact of a finished step that is not what its manifest says."""
        done = self.manifest(step)
        folder = self.path / step.folder
        problems = []
        if done is not None and done.own_digest() != done.digest:
            problems.append(
                f"{folder / MANIFEST}: not as it was written; it was changed or damaged. {step.anew} makes it anew."
            )
        for artifact in done.artifacts if done else ():
            file = folder / artifact.path
            if not file.is_file():
                problems.append(f"{file}: missing, though the manifest names it. {step.anew} makes it anew.")
            elif sha256(file) != artifact.sha256:
                problems.append(
                    f"{file}: its hash differs from the manifest; it was changed or damaged. {step.anew} makes it anew."
                )
        return problems

    def _make(self, step: Step, steps: dict[str, Step]) -> StageManifest:
        problems = [p for name in step.needs for p in self.verify(steps[name])]
        if problems:
            raise UserError(problems)
        target = self.path / step.folder
        partial = partial_of(target)
        identity = self._identity(step, steps)
        key = key_of(step.name, step.version_under(self.config), identity)
        # Not by the key: a setting that came since it was begun is in that of now, at its default.
        old = leftover(partial, lambda begun: not self._apart(begun, step, steps))
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
        made_in = environment.describe(self.config, utc, time.monotonic() - started)
        if found is not None:
            # Where and with what it was made, not where it was copied.
            made_in = {**found.environment, "seconds": made_in["seconds"], TAKEN_OVER: self.like.path.name}
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
            environment=made_in,
        )
        manifest = replace(manifest, digest=manifest.own_digest())
        (partial / MANIFEST).write_text(json.dumps(asdict(manifest), indent=1) + "\n", encoding="utf-8")
        for file in partial.rglob("*"):
            if CHECKPOINTS not in file.relative_to(partial).parts:
                sync(file)
        sync(partial)
        _put(partial, target)
        sync(target.parent)
        # Only now: until its name is that of a finished step, the work must be there to be taken up.
        tidy(target)
        if old is not None:
            shutil.rmtree(old, ignore_errors=True)
        return manifest

    def _body(self, step: Step, steps: dict[str, Step], partial: Path, old: Path | None) -> dict[str, float]:
        environment.settle(self.config)
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
