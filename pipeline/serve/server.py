"""Starting the server: the model loaded, the store opened, the address told."""

from __future__ import annotations

from pathlib import Path

import uvicorn

from data.feedback import FeedbackStore
from pipeline.assistant import Assistant
from pipeline.serve.app import create_app
from pipeline.serve.settings import ServeSettings


def serve(run_dir: Path, config, settings: ServeSettings) -> None:
    """Answers until interrupted."""
    assistant = Assistant.open(run_dir, config)
    store = FeedbackStore.open(Path(config.chat.feedback_db), one_thread=False)
    try:
        app = create_app(assistant, store, settings)
        # The fragment never leaves the browser; the page trades it for a cookie.
        print(f"Chat:   {settings.url}" + (f"#token={settings.token}" if settings.token else ""))
        print(f"OpenAI: {settings.url}v1   models {', '.join(assistant.checkpoints)}", flush=True)
        uvicorn.run(
            app,
            host=settings.host,
            port=settings.port,
            log_level="warning",
            access_log=False,
            server_header=False,
            # Forwarded addresses are anybody's word.
            proxy_headers=False,
            timeout_graceful_shutdown=5,
            h11_max_incomplete_event_size=65_536,
        )
    finally:
        store.close()
