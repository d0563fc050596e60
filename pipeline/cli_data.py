"""`run_pipeline.py data …`: what is in a file, and whether the data of a config can be trained on. Writes nothing."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from data.errors import UserError
from data.numbers import many
from pipeline.cli_options import DEFAULT_CONFIG, printable, wrong_besides

app = typer.Typer(no_args_is_help=True, help="Look at data, and check it before anything is trained.")
SHOWN = 3
SHOWN_PROBLEMS = 5


@app.command()
def inspect(
    source: Annotated[str, typer.Argument(metavar="FILE", help="file, directory or hub:owner/name@revision:split")],
    format_name: Annotated[str | None, typer.Option("--format", "-f", help="default: guessed")] = None,
    model: Annotated[str | None, typer.Option(help="count its tokens; default: characters")] = None,
    most: Annotated[int, typer.Option("--rows", min=1, help="look at the first N rows only")] = 100_000,
) -> None:
    """Guess a file's format; show counts, lengths, three records and the config lines to paste."""
    from data.loading import attempt

    path = Path(source)
    if format_name is None:
        format_name = _guessed(path)
    loaded, problems = attempt(path, format_name, most=most)
    if not loaded.records:
        raise UserError(problems)
    _show_counts(loaded, problems, most)
    _show_lengths(loaded.records, model)
    for record in loaded.records[:SHOWN]:
        _show_record(record)
    _show_config(source, format_name, loaded.records)


@app.command()
def check(
    overrides: Annotated[list[str] | None, typer.Argument(help="settings as key=value")] = None,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="YAML file; default: configs/quickstart.yaml")
    ] = None,
) -> None:
    """Check all data of a config: every mistake at once, splits, leaks and lengths. `prepare` does the same first."""
    from pipeline.config import check_files, load_config

    loaded = load_config(config or DEFAULT_CONFIG, overrides or [], also=wrong_besides)
    if problems := check_files(loaded):
        raise UserError(problems)
    started = time.monotonic()
    from pipeline.models import context_tokens, load_tokenizer
    from pipeline.preflight import check as checked_data

    checked = checked_data(loaded, load_tokenizer(loaded.model), context_tokens(loaded.model))
    for name, count in checked.counts().items():
        print(f"{name:<26} {count:>9,}")
    for key, reasons in checked.left_out.items():
        for reason, count in reasons.items():
            print(f"data.{key}: left out by its format: {reason}: {count:,}")
    print("\n".join(checked.notes), end="\n" if checked.notes else "")
    if checked.shared:
        print("questions that two sets share (never a training set with a test or held-out one):")
    for (one, other), count in checked.shared.items():
        print(f"  {one} / {other}: {count:,}")
    print(f"The data can be trained on ({time.monotonic() - started:.1f} s).")


def _guessed(path: Path) -> str:
    from data.inspect import guess

    best, *others = guess(path)
    print(f"{path}: format {best.format_name} (a guess: it reads {best.read} of the first {many(best.looked_at, 'row')})")
    if also := [f"{g.format_name} ({g.read})" for g in others if g.read * 2 >= best.read]:
        print(f"  also read by: {', '.join(also)}")
    return best.format_name


def _show_counts(loaded, problems: list[str], most: int) -> None:
    kinds = Counter(type(record).__name__.lower() for record in loaded.records)
    print("  " + ", ".join(many(count, kind) for kind, count in kinds.items()) + f" (of at most {many(most, 'row')})")
    for reason, count in loaded.left_out.items():
        if count:
            print(f"  left out by the format: {reason}: {count:,}")
    if problems:
        print(f"  {many(len(problems), 'problem')}, which would stop a run:")
        for line in problems[:SHOWN_PROBLEMS]:
            print(f"    {line}")
        if len(problems) > SHOWN_PROBLEMS:
            print(f"    … and {len(problems) - SHOWN_PROBLEMS:,} more")


def _show_lengths(records: list, model: str | None) -> None:
    from data.inspect import spread, texts_of

    texts = [texts_of(record) for record in records]
    asked, answers = [a for a, _ in texts], [text for _, many in texts for text in many]
    if model is None:
        unit, measure = "characters (--model NAME counts its tokens)", lambda many: [len(text) for text in many]
    else:
        from pipeline.config import ModelConfig
        from pipeline.models import load_tokenizer
        from pipeline.template import text_lengths

        tokenizer = load_tokenizer(ModelConfig(name=model))
        unit, measure = f"tokens of {model}, without its template", lambda many: text_lengths(tokenizer, many)
    print(f"  prompts: {spread(measure(asked))} {unit}")
    if answers:
        print(f"  answers: {spread(measure(answers))}")


def _show_record(record) -> None:
    from data.inspect import texts_of

    asked, answers = texts_of(record)
    ranks = getattr(record, "ranks", None)
    print(f"\n  [{printable(record.id)}] {printable(asked)}")
    for number, answer in enumerate(answers):
        mark = (
            f"rank {ranks[number]}" if ranks else {True: "up", False: "down"}.get(getattr(record, "up", None), "answer")
        )
        print(f"    {mark}: {printable(answer)}")


def _show_config(source: str, format_name: str, records: list) -> None:
    import yaml

    from data.hub import is_hub, pinned_name
    from data.inspect import config_keys

    keys = config_keys(records)
    if not keys:
        print("\nNo setting takes these as they are: rows of several kinds need a file for each.")
        return
    if is_hub(source):
        pinned = pinned_name(source)
        if pinned is None:
            print("\nThe Hub did not answer, so the commit is yours to fill in after @.")
        source = pinned or source
    instead = f", or {keys[1]} instead (one file cannot be both)" if keys[1:] else ""
    print(f"\n{keys[0]}{instead}; paste into the config:\n\ndata:")
    for place, key in enumerate(keys):
        # As one line, however long the path is, and as it is written in its own letters.
        lines = yaml.safe_dump(
            {key: source, f"{key}_format": format_name}, sort_keys=False, allow_unicode=True, width=float("inf")
        ).splitlines()
        # What is pasted as it stands can be trained on: a file that is both is a leak.
        print("".join(f"  {'# ' if place else ''}{line}\n" for line in lines), end="")
    if keys == ["thumbs"]:
        print(
            "\nThumbs are learned from by KTO (learner: kto) and by the reward model where reward.thumbs_weight is above 0. As rankings, "
            "where a prompt has answers of both kinds, format thumbs_ranked reads them."
        )
