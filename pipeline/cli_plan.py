"""`plan`: what a config will need, before anything is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.errors import UserError


def plan(
    overrides: Annotated[
        list[str] | None, typer.Argument(help="settings as key=value, for example ppo.micro_batch=8")
    ] = None,
    config: Annotated[Path, typer.Option("--config", "-c", help="YAML file")] = Path("configs/quickstart.yaml"),
    memory: Annotated[
        str | None, typer.Option(help="what there is, such as 24GB; default: the card's, or this machine's without one")
    ] = None,
    rate: Annotated[
        list[str] | None, typer.Option(help="drawn=N, read=N, learnt=N: tokens a second, for the hours")
    ] = None,
) -> None:
    """Memory, tokens and hours of a config, and whether it fits. Loads no model and needs no network."""
    from pipeline.config import load_config
    from pipeline.planning import show
    from pipeline.planning.here import this_machine
    from pipeline.planning.plan import make_plan

    loaded = load_config(config, overrides or [])
    rates = show.parse_rates(rate or [])
    there = show.parse_bytes(memory) if memory else None
    on_gpu, bfloat16 = True, True
    if there is None:
        on_gpu, bfloat16, there = this_machine(loaded.model)
    made = make_plan(loaded, on_gpu=on_gpu, bfloat16=bfloat16)
    for line in show.lines(made, there, rates):
        print(line)
    if there is not None and not show.fits(made, there):
        raise UserError("the plan does not fit; nothing was started.")
