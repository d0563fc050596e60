"""A round: votes → snapshot → how the present reward model does on them → a new run → better than the assistant in service?

runs/<run>/service.json            which assistant is in service
           rounds/001/             the snapshot; before.json (the old reward model on new votes); round.json, written last
runs/<run>-round-001/              the round's own run: SFT as before, the reward model on old and new votes, PPO from SFT
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from data.feedback import FeedbackStore
from data.said import read_said
from data.votes import learn
from pipeline import doubts, progress, service, snapshot
from pipeline.conductor import conduct, registry
from pipeline.disk import write_json
from pipeline.errors import GateFailure, UserError
from pipeline.learner import called
from pipeline.manifest import MANIFEST
from pipeline.run import Run
from pipeline.snapshot import Snapshot
from pipeline.verdicts import verdicts

ROUND, BEFORE, LAST, ADAPTER = "round.json", "before.json", "ppo", "adapter"
Say = Callable[[str], None]


@dataclass(frozen=True)
class Concluded:
    """How a round ended.

    Attributes:
        gain: over the assistant in service with its interval, None where it was not measured.
        why: one line.
        doubts: what of the round's reward model does not decide and should be known.
    """

    number: int
    run: str
    promoted: bool
    why: str
    gain: dict | None
    before: dict | None
    counts: dict[str, int]
    doubts: list[str] = field(default_factory=list)


def run_round(base: Run, say: Say) -> Concluded | None:
    """The next round of a run, or the one that was interrupted. None when there are too few new votes: nothing is written then.

    Raises:
        UserError: the run is not finished, or its feedback cannot be read.
    """
    settings = base.config.rounds
    with base.lock():
        _refuse_unfinished(base)
        taken = _open_round(base) or _begin(base, say)
        if taken is None:
            return None
        number = int(taken.folder.name)
        before = _measure_before(base, taken, say)
        new = _run_of(base, taken)
        if new.config.judged_by is None and not new.config.judge.url:
            # Before the hours that it takes.
            say(
                "nothing independent will judge this round: set evaluation.gold or judge.url. Without it the round is made and not "
                f"put in service; `rollback --to {number}` does that afterwards."
            )
        try:
            conduct(new, [stage.name for stage in registry()[0]], say)
        except GateFailure as missed:
            return _conclude(base, taken, before, None, False, f"a gate of the run was missed: {missed.problems[0]}")
        from pipeline.evaluation.rivals import gain

        rival = base.path.parent / taken.against.run
        found = gain(new.path, LAST, rival, taken.against.stage, new.config, progress.track)
        if found is None:
            why = (
                "nothing independent to judge by: set evaluation.gold or judge.url. "
                f"`rollback --to {number}` puts it in service all the same."
            )
            return _conclude(base, taken, before, None, False, why)
        better = found.low > settings.min_gain
        why = (
            f"{found.value:+.3f} {found.unit} [{found.low:+.3f}, {found.high:+.3f}] by {found.by} over {taken.against.run} "
            f"({called(rival, taken.against.stage)}) on {found.prompts} prompts; the lower end is {'' if better else 'not '}above "
            f"{settings.min_gain:g} (rounds.min_gain)"
        )
        if found.low <= settings.min_gain < found.high:
            # Not better and not worse: what a person would otherwise take for "no use".
            why += (
                f". Undecided: a gain of less than about {(found.high - found.low) / 2:.2f} does not show on so few answers; more of "
                "data.heldout_prompts or evaluation.samples_per_prompt show smaller ones"
            )
        return _conclude(base, taken, before, asdict(found), better, why)


def concluded(base: Path) -> list[Concluded]:
    """All rounds that came to an end, in order.

    Raises:
        UserError: what one of them left is damaged.
    """
    return [_concluded(folder / ROUND) for folder in _folders(base) if (folder / ROUND).is_file()]


def _concluded(file: Path) -> Concluded:
    try:
        return Concluded(**json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError):
        raise UserError(f"{file}: damaged. Remove it, and `round` comes to the same end once more.") from None


def against(base: Path, number: int) -> service.InService:
    """The assistant that was in service when a round began."""
    raw = json.loads((base / "rounds" / f"{number:03d}" / snapshot.SNAPSHOT).read_text(encoding="utf-8"))
    return service.InService(**raw["against"])


def unfinished(base: Path) -> Path | None:
    """The round that was interrupted."""
    return next((folder for folder in _folders(base) if not (folder / ROUND).is_file()), None)


def roll_back(base: Run, to: int | None = None) -> service.InService:
    """Puts in service what was there before, or the assistant of round `to`, promoted or not; 0 is the run itself.

    What people said of it beside the one that was there is noted with it; it is a person's decision, so nothing is refused for it.

    Raises:
        UserError: nothing was there before, or that round left no assistant.
    """
    with base.lock():
        now = service.present(base.path)
        if to is None:
            before = [was for was in service.history(base.path) if was.round < now.round]
            if not before:
                raise UserError(
                    f"{base.path}: {now.run} is in service since the beginning; there is nothing to go back to."
                )
            to = max(before, key=lambda was: was.round).round
        name = base.path.name if to == 0 else f"{base.path.name}-round-{to:03d}"
        path = base.path.parent / name
        done = [stage for stage in ("sft", LAST) if (path / "stages" / stage / MANIFEST).is_file()]
        if not done or (to and done[-1] != LAST):
            raise UserError(f"{path}: no finished assistant there. `rounds` lists the rounds.")
        chosen = service.InService(name, done[-1], to)
        why = "put there by hand"
        if (chosen.run, chosen.stage) != (now.run, now.stage):
            why += "; " + (verdicts(base)(chosen, now) or f"nobody has compared it with {_told(base, now)}, blind")
        service.put(base.path, name, done[-1], to, why)
        return service.present(base.path)


def _told(base: Run, assistant: service.InService) -> str:
    return f"{assistant.run} ({called(base.path.parent / assistant.run, assistant.stage)})"


def _folders(base: Path) -> list[Path]:
    return sorted(f for f in (base / "rounds").glob("[0-9][0-9][0-9]") if (f / snapshot.SNAPSHOT).is_file())


def _refuse_unfinished(base: Run) -> None:
    missing = [s.name for s in registry()[0] if base.manifest(s) is None]
    if missing:
        raise UserError(
            f"{base.path}: a round builds on a whole run; not finished: {', '.join(missing)}. `run` goes on."
        )


def _open_round(base: Run) -> Snapshot | None:
    folder = unfinished(base.path)
    return snapshot.read(folder) if folder else None


def _begin(base: Run, say: Say) -> Snapshot | None:
    database = Path(base.config.chat.feedback_db)
    if not database.exists():
        raise UserError(f"{database}: no votes there yet. Chat first, or name another file in chat.feedback_db.")
    done = _folders(base.path)
    store = FeedbackStore.open(database)
    try:
        lesson = learn(
            read_said(store, use="train", unasked=base.config.chat.consent), rater_share=base.config.rounds.rater_share
        )
        found = snapshot.usable(base, lesson, set().union(*map(snapshot.learned_from, done)))
        thumbs = found.new_thumbs if _learns_from_thumbs(base) else 0
        if found.new_pairs + thumbs < base.config.rounds.min_pairs:
            also = f" and {thumbs} new lone thumbs" if _learns_from_thumbs(base) else ""
            say(
                f"{found.new_pairs} new pairs{also} since the last round, {base.config.rounds.min_pairs} are needed "
                "(rounds.min_pairs). Nothing was done; `feedback preview` shows what there is."
            )
            return None
        folder = base.path / "rounds" / f"{max((int(f.name) for f in done), default=0) + 1:03d}"
        against = service.present(base.path)
        taken = snapshot.take(base, folder, lesson, found, against, demonstrations=base.config.rounds.demonstrations)
        # So that who asks to be forgotten can be told where the words still are.
        for place in (folder, _path_of(base, folder)):
            store.log_export(str(place.resolve()), lesson.sha256, sorted(lesson.raters))
    finally:
        store.close()
    say(
        f"round {int(folder.name)}: "
        + ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in taken.counts.items())
    )
    for reason, count in taken.left_out.items():
        if count:
            say(f"  left out: {count} {reason}")
    return taken


def _learns_from_thumbs(base: Run) -> bool:
    return base.config.reward.thumbs_weight > 0 or base.config.learner == "kto"


def _measure_before(base: Run, taken: Snapshot, say: Say) -> dict:
    """The reward model in service on votes that it has not seen, before another one learns from them."""
    file = taken.folder / BEFORE
    if not file.is_file():
        from pipeline.evaluation.rivals import accuracy_on

        path = base.path.parent / taken.against.run
        entry, too_long = accuracy_on(taken.new_rankings, path, Run.load(path).config, progress.track)
        write_json(file, {**_finite(asdict(entry)), "too_long": too_long, "run": taken.against.run})
    found = json.loads(file.read_text(encoding="utf-8"))
    if found["value"] is not None:
        ends = f" [{found['ci_low']:.1%}, {found['ci_high']:.1%}]" if found["ci_low"] is not None else ""
        say(f"reward model of {found['run']} on the new votes: {found['value']:.1%}{ends} right, {found['note']}")
    return found


def _finite(numbers: dict) -> dict:
    # JSON has no NaN.
    return {name: None if value != value else value for name, value in numbers.items()}


def _path_of(base: Run, folder: Path) -> Path:
    return base.path.parent / f"{base.path.name}-round-{folder.name}"


def _run_of(base: Run, taken: Snapshot) -> Run:
    path = _path_of(base, taken.folder)
    config = base.config.model_copy(
        update={"runs_dir": str(path.parent), "run_name": path.name, "data": taken.data(base.config.data)}
    )
    if base.config.rounds.continue_policy and taken.against.stage == LAST:
        service_ = path.parent / taken.against.run / "stages" / LAST / ADAPTER
        # It says that a policy starts as its reference, which this one does not.
        bounds = {name: gate for name, gate in config.gates.items() if name != "ppo.kl_at_start"}
        ppo = config.ppo.model_copy(update={"start_from": str(service_)})
        config = config.model_copy(update={"ppo": ppo, "gates": bounds})
    # What does not depend on the rankings, SFT above all, comes out the same and is copied.
    return Run(path, config, like=base)


def _conclude(base: Run, taken: Snapshot, before: dict, found: dict | None, promoted: bool, why: str) -> Concluded:
    number, run = int(taken.folder.name), _path_of(base, taken.folder).name
    old = base.path.parent / taken.against.run
    doubted = [*doubts.on_new_votes(before), *doubts.on_old_rankings(_path_of(base, taken.folder), old)]
    end = Concluded(number, run, promoted, why, _finite(found) if found else None, before, taken.counts, doubted)
    if promoted and service.present(base.path).round != number:
        service.put(base.path, run, LAST, number)
    # Last: a round that is killed before this line is taken up again and comes to the same end.
    write_json(taken.folder / ROUND, asdict(end))
    return end
