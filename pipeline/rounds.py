"""A round: votes → snapshot → how the present reward model does on them → a new run → better than the assistant in service?

runs/<run>/service.json            which assistant is in service
           rounds/001/             the snapshot; before.json (the old reward model on new votes); round.json, written last
runs/<run>-round-001/              the round's own run: SFT as before, the reward model on old and new votes, PPO from SFT
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from data.feedback import FeedbackStore
from data.numbers import many
from data.said import read_said
from data.votes import learn
from pipeline import doubts, progress, round_runs, service, snapshot
from pipeline.conductor import conduct, registry
from pipeline.disk import write_json
from pipeline.errors import GateFailure, UserError
from pipeline.evaluation import accepted
from pipeline.learner import called
from pipeline.manifest import MANIFEST
from pipeline.run import Run
from pipeline.snapshot import Snapshot
from pipeline.verdicts import verdicts

if TYPE_CHECKING:
    from pipeline.evaluation.rivals import Gain

ROUND, BEFORE, LAST, ADAPTER = "round.json", "before.json", "ppo", "adapter"
_MISSED = re.compile(r"^a gate of the run was missed: gate ([\w.]+): ")
Say = Callable[[str], None]


@dataclass(frozen=True)
class Concluded:
    """How a round ended.

    Attributes:
        gain: over the assistant in service with its interval, None where it was not measured.
        why: one line.
        doubts: what of the round's reward model does not decide and should be known.
        missed: gates of its run that stopped it.
    """

    number: int
    run: str
    promoted: bool
    why: str
    gain: dict | None
    before: dict | None
    counts: dict[str, int]
    doubts: list[str] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)


def run_round(base: Run, say: Say, accept: dict[str, str] | None = None) -> Concluded | None:
    """The next round of a run, or the one that was interrupted. None when there are too few new votes: nothing is written then.

    What was accepted of a gate in the run, or in that of the assistant in service, holds in the round too, for numbers that are no worse.

    Args:
        accept: gates of the round's run that may be missed, with the reason. The last round, where one of these stopped it, goes on.

    Raises:
        UserError: the run is not finished, a gate does not exist, or its feedback cannot be read.
    """
    accept = accept or {}
    with base.lock():
        _refuse_unfinished(base)
        _refuse_unknown(base, accept)
        taken = _open_round(base) or _stopped_round(base, accept) or _begin(base, say)
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
            inherited = accepted.of(base.path) | accepted.of(service.path_of(base.path, taken.against))
            conduct(new, [stage.name for stage in registry()[0]], say, accept=accept, inherited=inherited)
        except GateFailure as missed:
            why = f"a gate of the run was missed: {' '.join(missed.problems)} {_way_past(base, missed.gates)}"
            return _conclude(base, taken, before, None, False, why, missed.gates)
        from pipeline.evaluation.rivals import gain

        rival = service.path_of(base.path, taken.against)
        found = gain(new.path, LAST, rival, taken.against.stage, new.config, progress.track)
        if found is None:
            why = (
                "nothing independent to judge by: set evaluation.gold or judge.url. "
                f"`rollback --to {number}` puts it in service all the same."
            )
            return _conclude(base, taken, before, None, False, why)
        better, why = _decide(found, _told(base, taken.against), base.config.rounds.min_gain)
        return _conclude(base, taken, before, asdict(found), better, why)


def _decide(found: Gain, over: str, least: float) -> tuple[bool, str]:
    """Whether the round's assistant goes into service in place of the one called `over`, and the line that says why."""
    beside = f"by {found.by} over {over} on {many(found.questions, 'question')}"
    if math.isnan(found.low):
        return False, (
            f"{found.value:+.3f} {found.unit} {beside}, too few of them for an interval, without which nothing shows a gain; other questions in "
            "data.heldout_prompts or a higher evaluation.limit give one"
        )
    better = found.low > least
    why = (
        f"{found.value:+.3f} {found.unit} [{found.low:+.3f}, {found.high:+.3f}] {beside}; the lower end is {'' if better else 'not '}above "
        f"{least:g} (rounds.min_gain)"
    )
    if found.low <= least < found.high:
        # Not better and not worse: what a person would otherwise take for "no use".
        why += (
            f". Undecided: a gain of less than about {(found.high - found.low) / 2:.2f} does not show on so few answers; more of "
            "data.heldout_prompts or evaluation.samples_per_prompt show smaller ones"
        )
    return better, why


def concluded(base: Path) -> list[Concluded]:
    """All rounds that came to an end, in order.

    Raises:
        UserError: what one of them left is damaged.
    """
    return [_concluded(folder / ROUND) for folder in _folders(base) if (folder / ROUND).is_file()]


def _concluded(file: Path) -> Concluded:
    try:
        end = Concluded(**json.loads(file.read_text(encoding="utf-8")))
        # Before the gates had a place of their own, the line alone named the first of them.
        return end if end.missed else replace(end, missed=_MISSED.findall(end.why))
    except (ValueError, TypeError):
        raise UserError(f"{file}: damaged. Remove it, and `round` comes to the same end once more.") from None


def against(base: Path, number: int) -> service.InService:
    """The assistant that was in service when a round began.

    Raises:
        UserError: what the round kept of it is damaged.
    """
    return snapshot.against(base / "rounds" / f"{number:03d}")


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
        known = next((end.run for end in concluded(base.path) if end.number == to), service.round_path(base.path, to).name)
        path = service.path_of(base.path, service.InService(known, LAST, to))
        name = path.name
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
    return f"{assistant.run} ({called(service.path_of(base.path, assistant), assistant.stage)})"


def _folders(base: Path) -> list[Path]:
    return sorted(f for f in (base / "rounds").glob("[0-9][0-9][0-9]") if (f / snapshot.SNAPSHOT).is_file())


def _refuse_unfinished(base: Run) -> None:
    missing = [s.name for s in registry()[0] if base.manifest(s) is None]
    if missing:
        raise UserError(
            f"{base.path}: a round builds on a whole run; not finished: {', '.join(missing)}. `run` goes on."
        )


def _refuse_unknown(base: Run, accept: dict[str, str]) -> None:
    if unknown := [gate for gate in accept if gate not in base.config.gates]:
        there = ", ".join(base.config.gates) or "none"
        raise UserError([f"--accept {gate}: no such gate; there are {there}." for gate in unknown])


def _open_round(base: Run) -> Snapshot | None:
    folder = unfinished(base.path)
    return snapshot.read(folder) if folder else None


def _stopped_round(base: Run, accept: dict[str, str]) -> Snapshot | None:
    """The last round, if it was stopped by a gate that is now accepted."""
    ended = concluded(base.path)
    if not ended or not accept.keys() & set(ended[-1].missed):
        return None
    return snapshot.read(base.path / "rounds" / f"{ended[-1].number:03d}")


def _way_past(base: Run, gates: Sequence[str]) -> str:
    """What to type where a person would let the round go on all the same."""
    if not gates:
        return ""
    accept = " ".join(f"--accept {gate}" for gate in gates)
    return f"`round --run {base.argument} {accept} --why …` goes on with this round all the same."


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
            also = f" and {many(thumbs, 'new lone thumb')}" if _learns_from_thumbs(base) else ""
            say(
                f"{many(found.new_pairs, 'new pair')}{also} since the last round, {base.config.rounds.min_pairs} are needed "
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
        + ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in taken.counts.items())
    )
    for reason, count in taken.left_out.items():
        if count:
            say(f"  left out: {reason}: {count}")
    return taken


def _learns_from_thumbs(base: Run) -> bool:
    return base.config.reward.thumbs_weight > 0 or base.config.learner == "kto"


def _measure_before(base: Run, taken: Snapshot, say: Say) -> dict:
    """The reward model in service on votes that it has not seen, before another one learns from them."""
    file = taken.folder / BEFORE
    if not file.is_file():
        from pipeline.evaluation.rivals import accuracy_on

        path = service.path_of(base.path, taken.against)
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
    return round_runs.of_round(base.path, int(folder.name))


def _run_of(base: Run, taken: Snapshot) -> Run:
    path = _path_of(base, taken.folder)
    config = base.config.model_copy(
        update={"runs_dir": str(path.parent), "run_name": path.name, "data": taken.data(base.config.data)}
    )
    if base.config.rounds.continue_policy and taken.against.stage == LAST:
        service_ = service.path_of(base.path, taken.against) / "stages" / LAST / ADAPTER
        # It says that a policy starts as its reference, which this one does not.
        bounds = {name: gate for name, gate in config.gates.items() if name != "ppo.kl_at_start"}
        ppo = config.ppo.model_copy(update={"start_from": str(service_)})
        config = config.model_copy(update={"ppo": ppo, "gates": bounds})
    # What does not depend on the rankings, SFT above all, comes out the same and is copied.
    return Run(path, config, like=base)


def _conclude(
    base: Run, taken: Snapshot, before: dict, found: dict | None, promoted: bool, why: str, missed: Sequence[str] = ()
) -> Concluded:
    number, run = int(taken.folder.name), _path_of(base, taken.folder).name
    old = service.path_of(base.path, taken.against)
    doubted = [*doubts.on_new_votes(before), *doubts.on_old_rankings(_path_of(base, taken.folder), old)]
    end = Concluded(number, run, promoted, why, _finite(found) if found else None, before, taken.counts, doubted, list(missed))
    if promoted and service.present(base.path).round != number:
        service.put(base.path, run, LAST, number)
    # Last: a round that is killed before this line is taken up again and comes to the same end.
    write_json(taken.folder / ROUND, asdict(end))
    return end
