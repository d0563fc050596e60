"""`run_pipeline.py feedback standings`: whom people prefer, from their blind votes between checkpoints."""

from __future__ import annotations

from pathlib import Path

from data.numbers import many
from pipeline import cli_feedback
from pipeline.cli_feedback import ConfigOption, DbOption, RunOption
from pipeline.cli_options import open_run, printable

_NOBODY = (
    "no blind votes between two checkpoints yet: in the page's settings choose whom to compare with, or serve with "
    "chat.compare_with_candidate=true"
)


def standings(run_name: RunOption = None, config: ConfigOption = None, db: DbOption = None) -> None:
    """Which checkpoints people prefer, blind. With --run only that run and its rounds; its report then shows it too."""
    from data.choices import family_of, read_choices
    from pipeline.evaluation.standings import standings as count
    from pipeline.learner import called
    from pipeline.service import known_as, names

    path = open_run(config, run_name, None, must_exist=True).path if run_name is not None else None
    with cli_feedback._opened(run_name, config, db) as (store, settings):
        family, formerly = (family_of(path.name)[0], names(path)) if path is not None else (None, ())
        base = path or Path(settings.runs_dir) / settings.run_name
        choices = read_choices(store, unasked=settings.chat.consent, family=family, formerly=formerly)
        found = count(choices, lambda run, stage: called(known_as(base, run), stage))
    print("\n".join(_lines(found)))
    if path is not None:
        _into_report(path, settings, found)


def _lines(found) -> list[str]:
    from pipeline.evaluation import standings_words as words

    said = [words.summary(found)] if found.votes else [_NOBODY]
    named = [(f"{printable(pair.first)} over {printable(pair.second)}", pair) for pair in found.pairs]
    wide = max((len(name) for name, _ in named), default=0)
    for name, pair in named:
        said.append(
            f"  {name:<{wide}}  {words.share(pair.rate):<26}  {words.p_value(pair.p_holm):<10}  {words.counts(pair)}"
        )
    for group in found.places:
        said.append("places by Bradley-Terry, in points of Elo around their mean:")
        said += [f"  {printable(name):<{wide}}  {words.points(at)}" for name, at in group]
    said += [f"no places: {printable(why)}" for why in found.unplaced]
    if found.first_side is not None:
        said.append(f"left side chosen in {words.share(found.first_side)} of {many(found.decisive, 'choice')} of a side")
    if found.agreement is not None:
        said.append(f"two people agree in {words.share(found.agreement)} of {many(found.judged_twice, 'verdict')} on the same")
        said += [f"  {printable(name)}: {same} of {of}" for name, (same, of) in sorted(found.agreement_of.items())]
    elif found.votes:
        said.append("how far people agree cannot be told: no two of them judged the same two answers")
    if found.votes:
        said.append(words.NOTE)
    return said + [f"  not counted: {count:,} {reason}" for reason, count in found.left_out.items()]


def _into_report(path: Path, settings, found) -> None:
    from pipeline.evaluation.standings_file import keep
    from pipeline.report.write import write_report

    if keep(path, found):
        print(f"Report: {write_report(path, settings)[1]}")
