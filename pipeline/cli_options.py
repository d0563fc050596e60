"""What the verbs share: their options, opening the run that is meant, and text of others made fit for a terminal."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.errors import UserError

DEFAULT_CONFIG = Path("configs/quickstart.yaml")
WIDTH = 300
ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="YAML file; default: that of the run, else configs/quickstart.yaml"),
]
RunOption = Annotated[
    str | None, typer.Option("--run", "-r", help="name or directory of the run; default: the config file's name")
]
AcceptOption = Annotated[
    list[str] | None, typer.Option(help="go on although this gate is missed; needs --why; may be given several times")
]
WhyOption = Annotated[str | None, typer.Option(help="the reason for every --accept, kept in the run")]
Overrides = Annotated[list[str] | None, typer.Argument(help="settings as key=value, for example ppo.kl_coef=0.1")]


def wrong_besides(
    raw: Mapping[str, Any], part: Any, *, accept: Collection[str] = (), named: str | None = None
) -> dict[str, str]:
    """What would stop a run whose settings are refused anyway: gates on numbers that no card has, data that are not there.

    Args:
        part: what of the settings is right (`pipeline.config.partial`).
        accept: gates that are let pass now, beside those that were in the run `named`.
    """
    from pipeline.config import DataConfig, source_problems
    from pipeline.config.partial import is_mistaken
    from pipeline.evaluation import accepted
    from pipeline.evaluation.expected import refused

    excused = {*accept}
    if named is not None:
        excused |= accepted.read(Path(named) if "/" in named else Path(getattr(part, "runs_dir", "runs")) / named).keys()
    gates = raw.get("gates")
    found = {}
    for gate, bounds in gates.items() if isinstance(gates, dict) else ():
        try:
            wrong = refused({gate: bounds}, part, excused=excused)
        except AttributeError as error:
            if not is_mistaken(error):
                raise
            # Whether it is measured depends on a setting that is mistaken.
            wrong = refused({gate: bounds})
        found |= {f"gates.{gate}": line for line in wrong.values()}
    try:
        return found | source_problems(DataConfig.model_validate(raw.get("data")))
    except ValueError:
        # The section's own mistakes are told already.
        return found


def open_run(
    config: Path | None,
    run_name: str | None,
    overrides: list[str] | None,
    *,
    must_exist: bool = False,
    to_run: bool = False,
    accept: Collection[str] = (),
):
    """The run meant: an existing one by name with its frozen config, or the one that a config file names.

    Args:
        to_run: where its settings are refused, everything else that would stop a run is told with them.
        accept: gates that are let pass by this call.
    """
    from pipeline.config import RUN_NAME, load_config
    from pipeline.run import Run

    overrides = overrides or []
    if run_name is not None and not re.fullmatch(RUN_NAME, Path(run_name).name):
        raise UserError(
            f"--run: a run's name holds the letters a to z, digits and . _ - and starts with a letter or digit (got '{Path(run_name).name}')."
        )
    also = partial(wrong_besides, accept=accept, named=run_name) if to_run else None
    if run_name is not None and config is None:
        path = Path(run_name) if "/" in run_name else Path("runs") / run_name
        if must_exist or path.exists() or "/" in run_name:
            return Run.load(path, overrides, also=also)
    loaded = load_config(config or DEFAULT_CONFIG, overrides, also=also)
    if run_name is not None:
        path = Path(run_name)
        update = {"run_name": path.name}
        if "/" in run_name:
            update["runs_dir"] = str(path.parent)
        loaded = loaded.model_copy(update=update)
    if not re.fullmatch(RUN_NAME, loaded.run_name):
        raise UserError(
            f"{config}: its name is none for a run, which holds the letters a to z, digits and . _ - and starts with a letter or digit. Name the "
            "run with --run NAME."
        )
    return Run.open(loaded)


def accepting(accept: list[str] | None, why: str | None) -> dict[str, str]:
    """Gate → reason, of the options `--accept` and `--why`, which belong together."""
    if bool(accept) != bool((why or "").strip()):
        raise UserError(
            "--accept and --why belong together: --accept ppo.kl_to_reference --why 'looked at the answers'."
        )
    return dict.fromkeys(accept or (), why)


def printable(text: str) -> str:
    """One line, cut where a screen ends; control characters are shown, not sent to the terminal."""
    shown = "".join(c if c.isprintable() else " " if c.isspace() else repr(c)[1:-1] for c in text)
    return shown if len(shown) <= WIDTH else f"{shown[:WIDTH]}… ({len(text):,} characters)"
