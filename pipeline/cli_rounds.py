"""The verbs `round`, `rounds` and `rollback`: from votes to a better assistant, or to the reason why not."""

from __future__ import annotations

from typing import Annotated

import typer

from data.numbers import many
from pipeline.cli_options import AcceptOption, ConfigOption, Overrides, RunOption, WhyOption, accepting, open_run


def round_(
    overrides: Overrides = None,
    config: ConfigOption = None,
    run_name: RunOption = None,
    accept: AcceptOption = None,
    why: WhyOption = None,
) -> None:
    """Learn from new votes: reward model, PPO, and into service only if better than the assistant that is there."""
    from pipeline.rounds import run_round

    accepts = accepting(accept, why)
    opened = open_run(config, run_name, overrides, must_exist=True, to_run=True, accept=accepts)
    end = run_round(opened, lambda line: print(line, flush=True), accepts)
    if end is not None:
        print(f"round {end.number}: {'promoted' if end.promoted else 'not promoted'}: {end.why}")
        _doubt(end)


def rounds(overrides: Overrides = None, config: ConfigOption = None, run_name: RunOption = None) -> None:
    """The rounds of a run, how each ended, and which assistant is in service."""
    from pipeline import service
    from pipeline.learner import called
    from pipeline.rounds import LAST, against, concluded, unfinished
    from pipeline.verdicts import verdicts

    opened = open_run(config, run_name, overrides, must_exist=True)
    now = service.present(opened.path)
    print(f"in service: {now.run} ({called(service.path_of(opened.path, now), now.stage)})" + (f" since {now.since} UTC" if now.since else ""))
    if now.why:
        print(f"       {now.why}")
    people = verdicts(opened)
    ended, half = concluded(opened.path), unfinished(opened.path)
    if not ended and half is None:
        print("       no round yet: `round` learns from the votes, `feedback preview` shows from which")
    for end in ended:
        right = end.before and end.before["value"]
        known = f"; old reward model {right:.0%} right on them" if right is not None else ""
        made = service.InService(end.run, LAST, end.number)
        serves = "; in service now" if (made.run, made.stage) == (now.run, now.stage) else ""
        print(
            f"  {end.number:03d}  {'promoted    ' if end.promoted else 'not promoted'}  {many(end.counts['new_pairs'], 'new pair')}{known}{serves}"
        )
        print(f"       {end.why}")
        _doubt(end)
        # Beside the one that it was made to replace, and beside the one that answers now where that is another.
        for rival in {(was.run, was.stage): was for was in (against(opened.path, end.number), now)}.values():
            if said := people(made, rival):
                print(f"       {said}")
    if half is not None:
        print(f"  {half.name}  not finished; `round` goes on with it")


def _doubt(end) -> None:
    for said in end.doubts:
        print(f"       doubt: {said}")


def rollback(
    overrides: Overrides = None,
    config: ConfigOption = None,
    run_name: RunOption = None,
    to: Annotated[int | None, typer.Option(min=0, help="this round's assistant; 0 is the run before any round")] = None,
) -> None:
    """Put the assistant before the present one back into service, or that of any round; what people said of it is noted."""
    from pipeline import service
    from pipeline.learner import called
    from pipeline.rounds import roll_back

    opened = open_run(config, run_name, overrides, must_exist=True)
    now = roll_back(opened, to)
    print(f"in service: {now.run} ({called(service.path_of(opened.path, now), now.stage)}), {now.why}")
