"""The `serve` verb."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from pipeline.cli_options import ConfigOption, Overrides, RunOption, open_run


def serve(
    overrides: Overrides = None,
    config: ConfigOption = None,
    run_name: RunOption = None,
    host: Annotated[
        str, typer.Option(help="address to listen on; another than this machine's own needs a token")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="port to listen on; 0 takes a free one")] = 8000,
    token: Annotated[
        str | None, typer.Option(help="secret that clients must show, 'new' draws one; default: $THUMBLOOP_TOKEN")
    ] = None,
) -> None:
    """Talk to a run's models in the browser, or through an OpenAI-compatible API; votes are kept."""
    from pipeline.serve.settings import ServeSettings
    from pipeline.service import follow

    first = open_run(config, run_name, overrides, must_exist=True)
    opened = follow(first, overrides)
    # From the environment too: a command line can be read by everybody on the machine.
    token = token or os.environ.get("THUMBLOOP_TOKEN")
    settings = ServeSettings.of(opened.config.chat, host=host, port=port, token=token)
    from pipeline.serve.server import serve as start

    start(opened, first.path, settings)
