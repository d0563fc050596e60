"""A server over a scripted assistant, in this process."""

import pytest
from scripted import Scripted
from starlette.testclient import TestClient

from data.feedback import FeedbackStore
from pipeline.serve.app import create_app
from pipeline.serve.settings import ServeSettings


@pytest.fixture
def store(tmp_path):
    store = FeedbackStore.open(tmp_path / "f.sqlite", one_thread=False)
    yield store
    store.close()


@pytest.fixture
def serve(store):
    """A client of a server whose assistant says these texts: serve("one", "two", queue_limit=4)."""
    opened = []

    def make(*texts, assistant=None, **settings):
        assistant = assistant or Scripted(*texts or ("Hello there.",))
        app = create_app(assistant, store, ServeSettings(**{"rater": "ann", **settings}))
        client = TestClient(app, base_url="http://127.0.0.1:8000", raise_server_exceptions=False)
        client.__enter__()
        opened.append(client)
        client.assistant = assistant
        return client

    yield make
    for client in opened:
        client.assistant.release.set()
        client.__exit__(None, None, None)
