"""The command line. Nothing heavy is imported before a step runs, so that help and mistakes answer at once."""

from __future__ import annotations

import errno
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from data.numbers import many
from pipeline import cli_data, cli_feedback, cli_standings, stopping
from pipeline.cli_options import AcceptOption, ConfigOption, Overrides, RunOption, WhyOption, accepting, open_run
from pipeline.cli_plan import plan
from pipeline.cli_rounds import rollback, round_, rounds
from pipeline.cli_serve import serve
from pipeline.errors import UserError, is_disk_full

_SHOWN_PROBLEMS = 20
app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Turn a pretrained language model into your chat assistant: SFT, reward model, PPO, with a judge in between.",
)
app.add_typer(cli_data.app, name="data")
cli_feedback.app.command()(cli_standings.standings)
app.add_typer(cli_feedback.app, name="feedback")


@app.command()
def run(
    overrides: Overrides = None,
    config: ConfigOption = None,
    run_name: RunOption = None,
    only: Annotated[str | None, typer.Option(help="this stage alone")] = None,
    first: Annotated[str | None, typer.Option("--from", help="this stage and those after it")] = None,
    until: Annotated[str | None, typer.Option(help="the stages up to this one")] = None,
    redo: Annotated[str | None, typer.Option(help="make this stage anew, and what follows it")] = None,
    accept: AcceptOption = None,
    why: WhyOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print the whole config and what would run")] = False,
) -> None:
    """Run all stages, or some; what is done already is not done again."""
    accepts = accepting(accept, why)
    if only and (first or until):
        raise UserError("--only excludes --from and --until.")
    _conduct(
        config,
        run_name,
        overrides,
        _chosen(only, first, until),
        redo=redo,
        accept=accepts,
        dry_run=dry_run,
    )


@app.command()
def prepare(overrides: Overrides = None, config: ConfigOption = None, run_name: RunOption = None) -> None:
    """Check and split the data."""
    _conduct(config, run_name, overrides, ("prepare",))


@app.command()
def sft(overrides: Overrides = None, config: ConfigOption = None, run_name: RunOption = None) -> None:
    """Supervised fine-tuning alone."""
    _conduct(config, run_name, overrides, ("sft",))


@app.command()
def reward(overrides: Overrides = None, config: ConfigOption = None, run_name: RunOption = None) -> None:
    """The reward model alone."""
    _conduct(config, run_name, overrides, ("reward",))


@app.command()
def ppo(overrides: Overrides = None, config: ConfigOption = None, run_name: RunOption = None) -> None:
    """PPO alone."""
    _conduct(config, run_name, overrides, ("ppo",))


@app.command()
def evaluate(
    overrides: Overrides = None,
    config: ConfigOption = None,
    run_name: RunOption = None,
    benchmarks: Annotated[
        str | None,
        typer.Option(help="also these tasks of lm-eval, for example ifeval,gsm8k; needs the extra 'benchmarks'"),
    ] = None,
    tasks_dir: Annotated[
        Path | None, typer.Option(help="directory with YAML tasks of your own for --benchmarks")
    ] = None,
    benchmark_limit: Annotated[int | None, typer.Option(min=1, help="first N questions of each benchmark")] = None,
    again: Annotated[bool, typer.Option("--again", help="measure every card anew, also those that are as they would be now")] = False,
    accept: AcceptOption = None,
    why: WhyOption = None,
) -> None:
    """Judge every finished stage, what is measured and not outdated left as it is, and write the report."""
    from pipeline.conductor import hold_benchmarks, registry

    accepts = accepting(accept, why)
    tasks = [name.strip() for name in (benchmarks or "").split(",") if name.strip()]
    if (tasks_dir or benchmark_limit) and not tasks:
        raise UserError("--tasks-dir and --benchmark-limit belong to --benchmarks: name the tasks there.")
    if tasks:
        from pipeline.evaluation.benchmarks import require

        require()
    opened = open_run(config, run_name, overrides, must_exist=True, to_run=True, accept=accepts)
    finished = tuple(s.name for s in registry()[0] if opened.manifest(s) is not None)
    if not finished:
        raise UserError(f"{opened.path}: no finished stage to judge. `python run_pipeline.py run` makes them.")
    _go(opened, finished, evaluate_only=True, again=again, accept=accepts)
    if tasks:
        from pipeline.evaluation.benchmarks import run as ask
        from pipeline.report.write import write_report

        folder = ask(opened, tasks, tasks_dir=tasks_dir, limit=benchmark_limit)
        write_report(opened.path, opened.config)
        print(f"Benchmarks: {folder / 'card.json'}, and in the report")
    with _naming_the_report(opened):
        hold_benchmarks(opened, _say)


@app.command()
def status(
    overrides: Overrides = None,
    config: ConfigOption = None,
    run_name: RunOption = None,
    verify: Annotated[bool, typer.Option("--verify", help="hash every artifact again")] = False,
) -> None:
    """What of a run is done, with its key figures."""
    from pipeline.conductor import all_steps, summary
    from pipeline.held import altered

    opened = open_run(config, run_name, overrides, must_exist=True)
    steps = all_steps()
    print(f"{opened.path}")
    problems, hashed = [], 0
    holder = opened.holder()
    for name, step in steps.items():
        try:
            manifest = opened.manifest(step)
        except UserError as error:
            print(f"  {name:<16} damaged")
            problems += error.problems
            continue
        if manifest is None:
            left = (opened.path / f"{step.folder}.partial").exists()
            half = f"at work: {holder}" if holder else "stopped half-way"
            print(f"  {name:<16} {half if left else 'not yet'}")
            continue
        changed = opened.differences(step, steps)
        state = f"made with {changed[0]}" if changed else f"done {manifest.environment['seconds']:6.0f} s"
        print(f"  {name:<16} {state}  {summary(manifest)}".rstrip())
        if verify:
            hashed += 1
            problems += opened.verify(step)
            problems += altered(opened, step.folder)
    if problems:
        raise UserError(problems)
    if verify:
        print(f"{many(hashed, 'finished step')} hashed again: every file is as its manifest says")


@app.command()
def chat(overrides: Overrides = None, config: ConfigOption = None, run_name: RunOption = None) -> None:
    """Talk to a run's models in the terminal; /good and /bad are kept."""
    opened = open_run(config, run_name, overrides, must_exist=True)
    from pipeline.chat.terminal import chat as talk
    from pipeline.lineup import of_rounds
    from pipeline.service import follow

    serving = follow(opened, overrides)
    others, left_out = of_rounds(opened.path, serving, serving.config.chat.other_rounds)
    for line in left_out:
        print(f"not offered: {line}")
    talk(serving.path, serving.config, others)


app.command()(plan)
app.command()(serve)
app.command(name="round")(round_)
app.command()(rounds)
app.command()(rollback)


def main() -> None:
    """Entry: quiet libraries, one line a mistake, and the exit status that belongs to it."""
    _quieten()
    stopping.install()
    try:
        app(standalone_mode=False)
        # Here, and not when Python ends, where it could not be caught that nobody reads it.
        sys.stdout.flush()
    except UserError as error:
        shown = error.problems[:_SHOWN_PROBLEMS]
        print("\n".join(shown), file=sys.stderr)
        if len(error.problems) > len(shown):
            print(f"… and {len(error.problems) - len(shown)} more", file=sys.stderr)
        sys.exit(error.exit_code)
    except stopping.Stopped as stopped:
        print(f"\nstopped by {stopped}", file=sys.stderr)
        sys.exit(128 + stopped.signum)
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(130)
    except BrokenPipeError:
        # Whoever read the output has left, as `head` does; with typer's own status for it. What Python would still write goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        if (error.filename is None and not is_disk_full(error)) or os.environ.get("THUMBLOOP_DEBUG"):
            raise
        where = f"{error.filename}: " if error.filename is not None else ""
        print(f"{where}{error.strerror or error}. Mend it and give the same command again.", file=sys.stderr)
        sys.exit(errno.ENOSPC if is_disk_full(error) else 2)
    except Exception as error:
        # typer's own complaints (an unknown option, a missing value) are a user's slip like any other.
        if hasattr(error, "format_message"):
            if type(error).__name__ == "NoArgsIsHelpError":
                # Nothing was asked for: the whole help, as it is.
                print(error.format_message())
                sys.exit(0)
            said = error.format_message().rstrip(".")
            # A suggestion ends as a question.
            print(f"{said}{'' if said.endswith('?') else '.'} See `python run_pipeline.py --help`.", file=sys.stderr)
            sys.exit(2)
        raise


def _quieten() -> None:
    """Libraries say much that is not for the user of this program; our own lines are the interface."""
    for name, value in (
        ("TOKENIZERS_PARALLELISM", "false"),
        ("HF_HUB_DISABLE_TELEMETRY", "1"),
        ("HF_HUB_DISABLE_PROGRESS_BARS", "1"),
        ("HF_DATASETS_DISABLE_PROGRESS_BARS", "1"),
        ("TRANSFORMERS_VERBOSITY", "error"),
        ("TRL_EXPERIMENTAL_SILENCE", "1"),
    ):
        os.environ.setdefault(name, value)
    if not os.environ.get("THUMBLOOP_DEBUG"):
        warnings.filterwarnings("ignore")
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def _chosen(only: str | None, first: str | None, until: str | None) -> tuple[str, ...]:
    from pipeline.conductor import registry

    names = tuple(s.name for s in registry()[0])
    for option, value in (("--only", only), ("--from", first), ("--until", until)):
        if value is not None and value not in names:
            raise UserError(f"{option} {value}: no such stage; there are {', '.join(names)}.")
    if only:
        return (only,)
    start = names.index(first) if first else 0
    end = names.index(until) if until else len(names) - 1
    if start > end:
        raise UserError(f"--from {first} --until {until}: nothing lies between; the order is {', '.join(names)}.")
    return names[start : end + 1]


def _conduct(config, run_name, overrides, chosen, *, redo=None, accept=None, dry_run=False) -> None:
    if redo is not None and redo not in _chosen(None, None, None):
        raise UserError(f"--redo {redo}: no such stage; there are {', '.join(_chosen(None, None, None))}.")
    opened = open_run(config, run_name, overrides, to_run=True, accept=accept or ())
    if dry_run:
        _show_plan(opened, chosen, redo, accept or {})
        return
    _go(opened, chosen, redo=redo, accept=accept)


def _say(line: str) -> None:
    print(line, flush=True)


@contextmanager
def _naming_the_report(opened) -> Iterator[None]:
    """A missed gate is where one wants to look."""
    from pipeline.errors import GateFailure

    try:
        yield
    except GateFailure as error:
        raise GateFailure([*error.problems, f"The report so far: {opened.path / 'report.html'}"]) from None


def _go(opened, chosen, **options) -> None:
    from pipeline.conductor import conduct

    report = opened.path / "report.html"
    try:
        with _naming_the_report(opened):
            ran = conduct(opened, chosen, _say, **options)
    except stopping.Stopped:
        print("\nthe same command goes on from what is kept", file=sys.stderr)
        raise
    if not ran:
        print(f"Nothing to do: {', '.join(chosen)} done already, nothing changed.")
    if report.exists():
        print(f"Report: {report}")
    if (opened.path / "stages" / "sft" / "manifest.json").exists():
        print(f"Chat:   {_python()} run_pipeline.py chat --run {opened.argument}")


def _python() -> str:
    """How this program was started, as the user would type it."""
    executable = Path(sys.executable)
    try:
        return str(executable.relative_to(Path.cwd()))
    except ValueError:
        return "python"


def _show_plan(opened, chosen, redo: str | None, accept: dict[str, str]) -> None:
    from pipeline.conductor import all_steps, follows, refusals, registry
    from pipeline.config import dump

    print(dump(opened.config))
    gone = follows(redo) if redo else frozenset()
    stages, evaluations = registry()
    steps = all_steps()
    for stage in stages:
        for step in (stage, evaluations.get(stage.name)):
            if step is None:
                continue
            if step.name in gone and opened.manifest(step) is not None:
                plan = "would be removed" + (" and made anew" if stage.name in chosen else "")
            elif stage.name not in chosen:
                plan = "left out"
            elif opened.manifest(step) is None:
                plan = "would run"
            else:
                changed = opened.differences(step, steps)
                plan = f"refused: made with {changed[0]}" if changed else "done already"
            print(f"{step.name:<16} {plan}")
    if problems := refusals(opened, chosen, gone, accept, redo=redo):
        raise UserError(problems)
