"""Starting the server: the address taken, the model loaded, the store opened, and only then the address told."""

from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path

import uvicorn

from data.errors import UserError
from data.feedback import FeedbackStore
from pipeline.assistant import Assistant
from pipeline.lineup import candidate, of_rounds
from pipeline.run import Run
from pipeline.serve.app import create_app
from pipeline.serve.settings import ServeSettings


def serve(run: Run, first: Path, settings: ServeSettings) -> None:
    """Answers until interrupted.

    Args:
        run: the run of the assistant in service.
        first: the run that its rounds started from.

    Raises:
        UserError: the address is taken or not this machine's, the run has no model, or the store cannot be opened.
    """
    with listen(settings) as listening:
        settings = replace(settings, port=listening.getsockname()[1])
        config = run.config
        others, left_out = of_rounds(first, run, config.chat.other_rounds)
        for line in left_out:
            print(f"not offered: {line}")
        if config.chat.compare_with_candidate:
            settings = replace(settings, candidate=candidate(others, first, run.path))
        assistant = Assistant.open(run.path, config, others)
        store = FeedbackStore.open(Path(config.chat.feedback_db), one_thread=False)
        try:
            app = create_app(assistant, store, settings)
            # From here on a client waits for the first turn of the loop and is not refused.
            listening.listen(socket.SOMAXCONN)
            # The fragment never leaves the browser; the page trades it for a cookie.
            print(f"Chat:   {settings.url}" + (f"#token={settings.token}" if settings.token else ""))
            if settings.elsewhere:
                print(f"        {settings.elsewhere}")
            print(f"OpenAI: {settings.url}v1   models {', '.join(assistant.checkpoints)}", flush=True)
            _Server(_quiet(app)).run(sockets=[listening])
        finally:
            store.close()


class _Server(uvicorn.Server):
    """Ends the answers under way before it waits for their readers: each is kept, told as stopped, and its connection closes by itself."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.config.app.state.context.desk.queue.end()
        await super().shutdown(sockets)


def listen(settings: ServeSettings) -> socket.socket:
    """A socket on the address, before minutes go into loading a model."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    taken = socket.socket(family, socket.SOCK_STREAM)
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        taken.bind((settings.host.strip("[]"), settings.port))
    except OSError as error:
        taken.close()
        raise UserError(
            f"{settings.host}:{settings.port}: cannot listen there ({error.strerror or error}). Try another --port or --host."
        ) from None
    taken.set_inheritable(True)
    return taken


def _quiet(app) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        log_level="warning",
        # Addresses hold what somebody searched for.
        access_log=False,
        server_header=False,
        # Forwarded addresses are anybody's word.
        proxy_headers=False,
        timeout_graceful_shutdown=5,
    )
