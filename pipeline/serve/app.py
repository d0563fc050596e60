"""The application: routes behind the guard, one queue, one store."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

from fastapi import FastAPI

from data.feedback import FeedbackStore
from pipeline.serve.answers import AnswerDesk
from pipeline.serve.body_limit import BodyLimit
from pipeline.serve.chat_api import chat_router
from pipeline.serve.context import ServeContext
from pipeline.serve.errors import ERRORS, add_handlers
from pipeline.serve.generation_queue import GenerationQueue
from pipeline.serve.guard import Guard
from pipeline.serve.openai_api import openai_router
from pipeline.serve.page import add_page
from pipeline.serve.settings import ServeSettings
from pipeline.serve.store_thread import StoreThread


def create_app(assistant, store: FeedbackStore, settings: ServeSettings) -> FastAPI:
    """The web application over an assistant (`pipeline.assistant.Assistant`) and a store opened with `one_thread=False`.

    When the server ends, the application stops what is drawn; closing the store is the caller's.
    """
    queue = GenerationQueue(assistant.open_batch, settings.queue_limit, rows=settings.batch_rows)
    thread = StoreThread(store)

    @asynccontextmanager
    async def lifespan(app: FastAPI):
        wiping = asyncio.create_task(thread.keep_wiped())
        yield
        wiping.cancel()
        queue.close()
        thread.close()

    app = FastAPI(
        title="Thumbloop",
        lifespan=lifespan,
        # Their pages load scripts from elsewhere; the schema alone stays.
        docs_url=None,
        redoc_url=None,
        responses=ERRORS,
        # What is said here leaves by no other way, whatever the environment names.
        telemetry={
            "tracing": False,
            "metrics": False,
            "logs": False,
            "operation_spans": False,
            "auto_configure": False,
        },
    )
    context = ServeContext(assistant, thread, AnswerDesk(assistant, thread, queue, settings.answer_seconds), settings)
    app.state.context = context
    add_handlers(app)
    app.include_router(openai_router(context))
    app.include_router(chat_router(context))
    add_page(app)
    app.add_middleware(BodyLimit, limit=settings.max_body_bytes)
    app.add_middleware(Guard, settings=settings)
    return app
