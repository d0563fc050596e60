"""Traces of what was deleted are removed when nobody asks for anything, and before the server has ended."""

import json
import time

import pytest

from data import database, deletion
from data.feedback import FeedbackStore
from pipeline.serve import store_thread


@pytest.fixture
def wiped(monkeypatch):
    """How often the file was written anew."""
    calls = []
    whole = FeedbackStore.wipe
    monkeypatch.setattr(FeedbackStore, "wipe", lambda store: (whole(store), calls.append(time.monotonic())))
    return calls


def set_times(monkeypatch, quiet: float, longest: float) -> None:
    monkeypatch.setattr(store_thread, "QUIET_SECONDS", quiet)
    monkeypatch.setattr(store_thread, "LONGEST_SECONDS", longest)


def delete(client) -> None:
    told = client.post("/api/turn", json={"model": "ppo", "text": "a secret question"}).text
    begun = json.loads(told.split("\n\n")[0].removeprefix("data: "))
    assert client.delete(f"/api/conversations/{begun['conversation']}").status_code == 200


def wait(condition) -> None:
    until = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_the_answer_does_not_wait_for_it_and_a_quiet_while_brings_it(serve, store, wiped, monkeypatch):
    set_times(monkeypatch, 0.2, 60.0)
    client = serve("a secret")
    delete(client)
    delete(client)
    # Overwritten where it stood, and out of the log; the whole file is for later, once for both.
    assert wiped == [] and not any(b"secret" in file.read_bytes() for file in store.path.parent.iterdir())
    wait(lambda: wiped)
    assert not store.has_traces()
    time.sleep(0.5)
    assert len(wiped) == 1


def test_where_somebody_always_asks_it_is_not_put_off_for_ever(serve, store, wiped, monkeypatch):
    set_times(monkeypatch, 0.2, 0.6)
    client = serve("a secret")
    delete(client)
    deleted = time.monotonic()

    def asked() -> bool:
        client.get("/api/conversations")
        return bool(wiped)

    wait(asked)
    assert wiped[0] - deleted > 0.5


def test_a_server_that_ends_leaves_no_traces_and_one_that_begins_wipes_those_of_a_killed_one(serve, store, wiped, monkeypatch):
    set_times(monkeypatch, 60.0, 60.0)
    client = serve("a secret")
    delete(client)
    client.__exit__(None, None, None)
    assert len(wiped) == 1 and not store.has_traces()
    client.__exit__ = lambda *a: None
    # As a process that was killed leaves it.
    store.forget_conversation(store.start_conversation(rater="ann"))
    set_times(monkeypatch, 0.2, 60.0)
    serve("a secret")
    wait(lambda: len(wiped) == 2)


def test_where_somebody_reads_the_file_it_is_tried_again(serve, store, wiped, monkeypatch):
    """A server runs for weeks: what could not be wiped at once would else stay for as long."""
    set_times(monkeypatch, 0.1, 60.0)
    monkeypatch.setattr(store_thread, "AGAIN_SECONDS", 0.3)
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.1)
    monkeypatch.setattr(deletion, "BUSY_SECONDS", 0.1)
    told = []
    monkeypatch.setattr(store_thread.log, "warning", lambda *said: told.append(said))
    client = serve("a secret")
    other = FeedbackStore.open(store.path)
    with other.reading():
        other.stats()
        delete(client)
        wait(lambda: told)
        assert wiped == [] and "another process reads it" in told[0][1]
    other.close()
    wait(lambda: wiped)
    assert not store.has_traces()
