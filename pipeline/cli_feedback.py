"""`run_pipeline.py feedback …`: what people said of answers, in and out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Annotated

import typer

from data.consent import Consents, check_level
from data.errors import UserError
from data.feedback import FeedbackStore
from data.numbers import many
from data.tallies import thumbs_by_checkpoint
from pipeline.cli_options import open_run, printable

app = typer.Typer(
    no_args_is_help=True, help="Votes: count them, see what a round would learn, take them out, bring some in."
)
SHOWN = 3
DbOption = Annotated[
    Path | None, typer.Option("--db", help="the feedback database; default: chat.feedback_db of the run or config")
]
RunOption = Annotated[str | None, typer.Option("--run", "-r", help="name or directory of a run, for its settings")]
ConfigOption = Annotated[
    Path | None, typer.Option("--config", "-c", help="YAML file; default: configs/quickstart.yaml")
]


@app.command()
def stats(run_name: RunOption = None, config: ConfigOption = None, db: DbOption = None) -> None:
    """Who said how much, and what of it can be learned from."""
    with _opened(run_name, config, db) as (store, settings):
        counts, lesson, tallies = store.stats(), _lesson(store, settings, "train"), thumbs_by_checkpoint(store)
        consents = Consents(store, settings.chat.consent)
    print(f"{store.path}")
    for name, count in counts.items():
        print(f"  {name:<16} {count:>7,}")
    for line in _thumbs(tallies, Path(settings.runs_dir) / settings.run_name):
        print(line)
    total = sum(lesson.given.values())
    stand = many(total, "judgement stands", "judgements stand")
    print(f"{stand} ('both bad' is two), of {many(len(lesson.given), 'rater')}" + (":" if lesson.given else ""))
    for rater, count in lesson.given.most_common():
        allows = consents.level(rater) + ("" if consents.given(rater) else ", not asked")
        print(f"  {printable(rater):<32} {count:>7,}  {count / total:.0%}  consent: {allows}")
    _counted(lesson)


@app.command()
def preview(run_name: RunOption = None, config: ConfigOption = None, db: DbOption = None) -> None:
    """What a round would learn from, with a few examples of each kind."""
    with _opened(run_name, config, db) as (store, settings):
        lesson = _lesson(store, settings, "train")
    print(f"{many(len(lesson.rankings), 'ranking')} with {many(lesson.pairs, 'pair')}, for the reward model")
    for r in lesson.rankings[:SHOWN]:
        _show(r.prompt, [(_place(rank, r.ranks), text) for rank, text in zip(r.ranks, r.responses, strict=True)])
    print(many(len(lesson.demonstrations), 'demonstration'))
    for d in lesson.demonstrations[:SHOWN]:
        _show(d.prompt, [("answer", d.response)])
    up = sum(t.up for t in lesson.unpaired)
    print(f"{many(up, 'unpaired thumb')} up, {len(lesson.unpaired) - up:,} down")
    print(f"{many(len(lesson.again), 'prompt')} to try again")
    _counted(lesson)
    print(f"training set {lesson.sha256}")


@app.command()
def export(
    shape: Annotated[str, typer.Argument(metavar="FORMAT", help="kto, preference or sft, as TRL reads them")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="the JSONL file to write")],
    run_name: RunOption = None,
    config: ConfigOption = None,
    db: DbOption = None,
) -> None:
    """Write votes as a data set of one of TRL's shapes. `feedback delete` later says which files held a rater's words."""
    from data.exports import SHAPES, write

    if shape not in SHAPES:
        raise UserError(f"no such format '{shape}'; there are {', '.join(SHAPES)}.")
    if out.is_dir() or out.exists():
        raise UserError(f"{out}: is there already. Name a new file.")
    with _opened(run_name, config, db) as (store, settings):
        lesson = _lesson(store, settings, "publish")
        rows = iter(SHAPES[shape].rows(lesson))
        if (first := next(rows, None)) is None:
            # An empty file would look like a data set, and no format reads one.
            _counted(lesson)
            raise UserError(f"{out}: not written: no votes make {SHAPES[shape].what}. `feedback preview` shows what there is.")
        try:
            count, digest = write(chain([first], rows), out)
        except OSError as error:
            raise UserError(f"{out}: cannot be written ({error.strerror}).") from None
        store.log_export(str(out.resolve()), digest, sorted(lesson.raters))
    print(f"{out}: {count:,} {SHAPES[shape].what}; sha256 {digest}")
    print(f"`data inspect {out} --format {SHAPES[shape].reads_as}` reads them back.")
    _counted(lesson)


@app.command(name="import")
def import_(
    format_name: Annotated[str, typer.Argument(metavar="FORMAT", help="open-webui or fastchat")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="what was exported there")],
    run_name: RunOption = None,
    config: ConfigOption = None,
    db: DbOption = None,
) -> None:
    """Add votes that were given elsewhere; those that are here already are passed over."""
    from data.imports import add_votes, read_votes

    read = read_votes(format_name, file)
    with _opened(run_name, config, db, new=True) as (store, _):
        done = add_votes(store, format_name, *read)
    print(f"{many(done.votes, 'vote')} added, here already: {done.known:,}")
    for reason, count in done.left_out.items():
        print(f"  left out: {reason}: {count:,}")


@app.command()
def delete(
    rater: Annotated[str, typer.Argument(metavar="RATER", help="the pseudonym, as `feedback stats` shows it")],
    run_name: RunOption = None,
    config: ConfigOption = None,
    db: DbOption = None,
    yes: Annotated[bool, typer.Option("--yes", help="do not ask")] = False,
) -> None:
    """Remove all that a rater said and voted, for good, and say which files written before still hold some of it."""
    with _opened(run_name, config, db) as (store, _):
        _refuse_unknown(store, rater)
        history = store.path.with_suffix(".history")
        if not yes:
            typer.confirm(f"Remove everything of '{rater}' from {store.path}? This cannot be undone", abort=True)
        elsewhere, gone = store.exports_with(rater), store.forget(rater)
        print("removed: " + ", ".join(f"{what} {count:,}" for what, count in gone.items()))
        for path, digest in elsewhere:
            there = "" if Path(path).exists() else ", which is not there any more"
            print(f"still in {path}{there} (sha256 {digest})")
        if history.exists():
            print(f"{history} holds lines typed in the terminal chat, by whomever; remove it if they are theirs.")
        # Last: where it cannot be done, all that was removed has been told.
        store.wipe()


@app.command()
def consent(
    rater: Annotated[str, typer.Argument(metavar="RATER", help="the pseudonym, as `feedback stats` shows it")],
    level: Annotated[str, typer.Argument(metavar="LEVEL", help="local, train or publish")],
    run_name: RunOption = None,
    config: ConfigOption = None,
    db: DbOption = None,
) -> None:
    """Note what a rater allows: local stays in the chat, from train on rounds learn, with publish exports hold it too."""
    check_level(level)
    with _opened(run_name, config, db) as (store, _):
        _refuse_unknown(store, rater)
        store.set_consent(rater, level)
        elsewhere = store.exports_with(rater)
    print(f"{printable(rater)}: {level} from now on")
    if level != "publish":
        for path, digest in elsewhere:
            print(f"written before, and so still in {path} (sha256 {digest})")


@contextmanager
def _opened(run_name: str | None, config: Path | None, db: Path | None, *, new: bool = False) -> Iterator[tuple]:
    """The store, and the config that says how it is used."""
    settings = open_run(config, run_name, None, must_exist=run_name is not None).config
    path = db or Path(settings.chat.feedback_db)
    # SQLite takes an empty file for a new database and would write into it, whatever it is.
    if not new and not (path.exists() and (path.is_dir() or path.stat().st_size)):
        raise UserError(f"{path}: no votes there yet. Chat first, or name another file with --db.")
    store = FeedbackStore.open(path)
    try:
        yield store, settings
    finally:
        store.close()


def _refuse_unknown(store, rater: str) -> None:
    if not store.rows("SELECT 1 FROM rater WHERE id = ?", (rater,)):
        raise UserError(f"{store.path}: no rater '{rater}'. `feedback stats` lists them.")


def _lesson(store, settings, use: str):
    from data.said import read_said
    from data.votes import learn

    said = read_said(store, use=use, unasked=settings.chat.consent)
    return learn(said, rater_share=settings.rounds.rater_share)


def _counted(lesson) -> None:
    """What was not used, and why: all of it."""
    groups: dict[str, Counter] = {
        "left out": lesson.left_out,
        "no judgements any more": lesson.taken_back,
        "raters": lesson.disagreement,
        "note": lesson.notes,
    }
    print(f"{lesson.used:,} of {many(sum(lesson.given.values()), 'judgement')} used")
    for name, counts in groups.items():
        for reason, count in counts.items():
            print(f"  {name}: {reason}: {count:,}")


def _thumbs(tallies, base: Path) -> Iterator[str]:
    """A line for each checkpoint, of the run `base` or of others: how often its answers were liked, of those with a thumb."""
    if not tallies:
        return
    # With numpy and scipy behind it: only where there is something to count.
    from pipeline.evaluation.statistics import wilson
    from pipeline.learner import called
    from pipeline.service import known_as

    yield "thumbs by checkpoint, with 95 % intervals as if each were a person's only one:"
    for one in tallies:
        rate = wilson(one.up, one.up + one.down)
        people = many(one.people, "person", "people")
        yield (
            f"  {printable(one.run)} ({called(known_as(base, one.run), one.stage)}): {one.up:,} up, {one.down:,} down: "
            f"{rate.value:.0%} [{rate.low:.0%}, {rate.high:.0%}] of {people}"
        )


def _place(rank: int, ranks) -> str:
    """What a rank means: 0 is the best."""
    if len(set(ranks)) == 1:
        return "as good"
    if rank == min(ranks):
        return "best" if len(ranks) > 2 else "better"
    return "worse" if len(ranks) == 2 else f"place {rank + 1}"


def _show(prompt, answers) -> None:
    print(f"  {printable(prompt[-1].content)}")
    for mark, text in answers:
        print(f"    {mark}: {printable(text)}")
