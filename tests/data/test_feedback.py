"""Votes: the newest counts, none is lost, and only their owner can read them."""

import multiprocessing
import os
import signal
import sqlite3
import stat
import time

import pytest

from data.errors import UserError
from data.feedback import MIGRATIONS, FeedbackStore


@pytest.fixture
def store(tmp_path):
    store = FeedbackStore.open(tmp_path / "feedback.sqlite")
    yield store
    store.close()


def an_answer(store, rater="ann"):
    conversation = store.start_conversation(rater=rater)
    question = store.add_message(conversation, parent=None, author="human", content="q")
    model = store.add_model(run="r", stage="sft", weights_sha256="w", template_sha256="t")
    return store.add_message(
        conversation,
        parent=question,
        author="model",
        content="a",
        model=model,
        token_ids=[1, 2],
        logprobs=[-0.5, -1.0],
        finish="stop",
    )


def test_the_newest_rating_counts_and_zero_takes_it_back(store):
    answer = an_answer(store)
    for value in (1, -1):
        store.rate(answer, rater="ann", value=value)
    store.rate(answer, rater="bob", value=1)
    assert (store.rating(answer, "ann"), store.rating(answer, "bob")) == (-1, 1)
    assert (store.stats()["up"], store.stats()["down"]) == (1, 1)
    store.rate(answer, rater="ann", value=0)
    assert store.stats()["down"] == 0


def test_a_model_is_known_by_what_it_is(store):
    one = store.add_model(run="r", stage="sft", weights_sha256="w", template_sha256="t")
    assert store.add_model(run="r", stage="sft", weights_sha256="w", template_sha256="t") == one
    assert store.add_model(run="r", stage="sft", weights_sha256="other", template_sha256="t") != one


def test_what_cannot_be_is_refused(store):
    answer = an_answer(store)
    with pytest.raises(ValueError):
        store.rate(answer, rater="ann", value=5)
    with pytest.raises(sqlite3.IntegrityError):
        store.rate("no such message", rater="ann", value=1)
    assert store.stats()["up"] == 0


def test_the_file_is_the_owners_alone(store):
    assert stat.S_IMODE(os.stat(store.path).st_mode) == 0o600


def test_a_newer_or_foreign_file_is_refused_in_one_line(tmp_path, store):
    store._db.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    with pytest.raises(UserError, match="newer version"):
        FeedbackStore.open(store.path)
    foreign = tmp_path / "foreign.sqlite"
    foreign.write_bytes(b"not a database at all" * 100)
    with pytest.raises(UserError, match="no usable feedback database"):
        FeedbackStore.open(foreign)


def _vote(path, answer, rater, acknowledged):
    store = FeedbackStore.open(path)
    while True:
        store.rate(answer, rater=rater, value=1)
        with acknowledged.get_lock():
            acknowledged.value += 1


def test_no_acknowledged_vote_is_lost_when_writers_are_killed(store):
    answer = an_answer(store)
    context = multiprocessing.get_context("fork")
    acknowledged = context.Value("i", 0)
    writers = [context.Process(target=_vote, args=(store.path, answer, f"r{i}", acknowledged)) for i in range(4)]
    for writer in writers:
        writer.start()
    time.sleep(1.0)
    for writer in writers:
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
    again = FeedbackStore.open(store.path)
    kept = again._db.execute("SELECT count(*) FROM rating").fetchone()[0]
    # At most the one vote that each writer had under way may be there without having been counted.
    assert acknowledged.value > 0 and acknowledged.value <= kept <= acknowledged.value + len(writers)
    assert again._db.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
    again.close()
