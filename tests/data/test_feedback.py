"""Votes: the newest counts, none is lost, and only their owner can read them."""

import multiprocessing
import os
import signal
import sqlite3
import stat
import time

import pytest

from data.errors import UserError
from data.feedback import FeedbackStore
from data.schema import MIGRATIONS


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


def test_what_is_known_of_an_answer_is_kept(store):
    talk = store.start_conversation(rater="ann")
    made = store.add_message(
        talk, parent=None, author="model", content="a", token_ids=[7, 8], logprobs=[-0.123456789, -2.0], finish="stop", first_token_ms=12,
        total_ms=345,
    )  # fmt: skip
    (kept,) = store._db.execute(
        "SELECT token_ids, logprobs, first_token_ms, total_ms FROM message WHERE id = ?", (made,)
    )
    assert tuple(kept) == ("[7, 8]", "[-0.12346, -2.0]", 12, 345)


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
    store.rate(answer, rater="ann", value=1)
    assert store.stats()["up"] == 1


def test_history_holds_every_version_in_order_and_only_of_its_conversation(store):
    conversation = store.start_conversation(rater="ann")
    say = lambda parent, author, text: store.add_message(conversation, parent=parent, author=author, content=text)  # noqa: E731
    question = say(None, "human", "q")
    answers = [say(question, "model", text) for text in ("one", "two")]
    follow_up = say(answers[0], "human", "and?")
    an_answer(store, "bob")
    found = store.history(conversation)
    assert [(m.id, m.parent, m.content) for m in found] == [
        (question, None, "q"),
        (answers[0], question, "one"),
        (answers[1], question, "two"),
        (follow_up, answers[0], "and?"),
    ]


def test_a_vote_comes_back_with_its_tags_and_comment(store):
    answer = an_answer(store)
    assert store.vote(answer, "ann") is None
    store.rate(answer, rater="ann", value=1)
    store.rate(answer, rater="ann", value=-1, tags=["too long"], comment="rambles")
    vote = store.vote(answer, "ann")
    assert (vote.value, vote.tags, vote.comment) == (-1, ("too long",), "rambles")
    assert store.vote(answer, "bob") is None


def test_a_turn_cannot_hang_on_another_conversation(store):
    answer, other = an_answer(store), store.start_conversation(rater="bob")
    for parent in (answer, "no such message"):
        with pytest.raises(ValueError, match="is no message of conversation"):
            store.add_message(other, parent=parent, author="human", content="q")
    assert store.history(other) == []


def test_a_comparison_is_kept_as_it_was_shown(store):
    left, right = an_answer(store), an_answer(store)
    store.compare(left, right, rater="ann", winner="both_bad", blind=True, shown_ms=1500)
    with pytest.raises(sqlite3.IntegrityError):
        store.compare(left, right, rater="ann", winner="upper", blind=True, shown_ms=1500)
    assert store.stats()["comparisons"] == 1


def test_a_database_of_the_first_schema_keeps_its_rows(tmp_path):
    path = tmp_path / "old.sqlite"
    old = sqlite3.connect(path)
    old.executescript(MIGRATIONS[0] + "; PRAGMA user_version = 1;")
    old.execute("INSERT INTO model VALUES ('m', 'r', 'sft', 'w', 't', 0)")
    old.commit()
    old.close()
    store = FeedbackStore.open(path)
    assert store.add_model(run="r", stage="sft", weights_sha256="w", template_sha256="t") == "m"
    assert store.add_model(run="r", stage="ppo", weights_sha256="w", template_sha256="t", adapter="a", step=12) != "m"
    store.close()


def test_the_database_of_another_program_is_left_as_it_was(tmp_path):
    path = tmp_path / "bookmarks.sqlite"
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE bookmark (url TEXT)")
    other.commit()
    other.close()
    before = path.read_bytes()
    with pytest.raises(UserError, match="the database of another program"):
        FeedbackStore.open(path)
    assert path.read_bytes() == before


def mode(path) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


def test_file_and_directory_are_the_owners_alone(tmp_path):
    store = FeedbackStore.open(tmp_path / "new" / "feedback.sqlite")
    an_answer(store)
    assert mode(tmp_path / "new") == 0o700
    beside = sorted((tmp_path / "new").iterdir())
    assert [p.name for p in beside] == [f"feedback.sqlite{end}" for end in ("", "-shm", "-wal")]
    assert all(mode(p) == 0o600 for p in beside)
    store.close()


def test_a_directory_that_was_there_keeps_its_mode(tmp_path):
    (tmp_path / "runs").mkdir(mode=0o755)
    FeedbackStore.open(tmp_path / "runs" / "feedback.sqlite").close()
    assert mode(tmp_path / "runs") == 0o755


def test_a_path_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("x")
    for path in (tmp_path, tmp_path / "file" / "feedback.sqlite"):
        with pytest.raises(UserError, match="cannot be written"):
            FeedbackStore.open(path)


def test_a_writer_that_never_gets_its_turn_says_so_and_may_try_again(store, monkeypatch):
    answer = an_answer(store)
    monkeypatch.setattr("data.database.BUSY_SECONDS", 0.01)
    other = sqlite3.connect(store.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(UserError, match="not saved: another process"):
        store.rate(answer, rater="ann", value=1)
    # Reading waits for nobody.
    reader = FeedbackStore.open(store.path)
    assert reader.stats()["answers"] == 1
    reader.close()
    other.execute("ROLLBACK")
    other.close()
    store.rate(answer, rater="ann", value=1)
    assert store.rating(answer, "ann") == 1


def test_a_full_disk_is_told_and_harms_nothing(store):
    answer = an_answer(store)
    pages = store._db.execute("PRAGMA page_count").fetchone()[0]
    store._db.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(UserError, match="not saved: database or disk is full"):
        store.rate(answer, rater="ann", value=1, comment="x" * 100_000)
    store._db.execute("PRAGMA max_page_count = 1000000")
    assert store.rating(answer, "ann") == 0
    store.rate(answer, rater="ann", value=-1)
    assert store.rating(answer, "ann") == -1


def test_who_opens_while_another_makes_the_file_waits_for_it(tmp_path, monkeypatch):
    path = tmp_path / "feedback.sqlite"
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    # The wait itself lets the other finish, so that the test need not.
    monkeypatch.setattr("data.database.time.sleep", lambda seconds: other.execute("COMMIT"))
    store = FeedbackStore.open(path)
    assert an_answer(store)
    store.close()
    other.close()


def _open_and_vote(path, gate, rater):
    gate.wait()
    store = FeedbackStore.open(path)
    an_answer(store, rater)
    store.close()


def test_processes_that_meet_at_a_new_file_all_get_in(tmp_path):
    context = multiprocessing.get_context("fork")
    gate = context.Barrier(4)
    path = tmp_path / "feedback.sqlite"
    people = [context.Process(target=_open_and_vote, args=(path, gate, f"r{i}")) for i in range(4)]
    for person in people:
        person.start()
    for person in people:
        person.join()
    assert [p.exitcode for p in people] == [0] * 4
    store = FeedbackStore.open(path)
    assert store.stats()["conversations"] == 4
    store.close()


def test_a_newer_or_foreign_file_is_refused_in_one_line(tmp_path, store):
    store._db.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    with pytest.raises(UserError, match="newer version"):
        FeedbackStore.open(store.path)
    foreign = tmp_path / "foreign.sqlite"
    foreign.write_bytes(b"not a database at all" * 100)
    with pytest.raises(UserError, match="no usable feedback database"):
        FeedbackStore.open(foreign)


def _vote(path, answer, rater, acknowledged, index, count):
    """Votes with a number each, and counts it after it is acknowledged; for ever where `count` is below what is counted already."""
    store = FeedbackStore.open(path)
    while acknowledged[index] != count:
        store.rate(answer, rater=rater, value=1, comment=str(acknowledged[index]))
        acknowledged[index] += 1
    store.close()


def _writer(path, answer, acknowledged, index, count):
    # Forked, and so quick to start. No connection is open then: SQLite forbids to carry one into another process.
    context = multiprocessing.get_context("fork")
    writer = context.Process(target=_vote, args=(path, answer, f"r{index}", acknowledged, index, count))
    writer.start()
    return writer


@pytest.fixture
def voted_on(tmp_path):
    """Path of a store with one answer, and the answer; nobody has it open."""
    path = tmp_path / "feedback.sqlite"
    store = FeedbackStore.open(path)
    answer = an_answer(store)
    store.close()
    return path, answer


# Counts without a lock, one writer a place: who is killed while it holds a lock leaves it held for ever.
def test_writers_at_once_lose_no_vote(voted_on):
    path, answer = voted_on
    acknowledged = multiprocessing.RawArray("q", 4)
    writers = [_writer(path, answer, acknowledged, i, count=25) for i in range(4)]
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    store = FeedbackStore.open(path)
    kept = store.rows("SELECT rater, count(*) FROM rating GROUP BY rater")
    assert sorted(kept) == [(f"r{i}", 25) for i in range(4)] and store.stats()["up"] == 4
    store.close()


def test_no_acknowledged_vote_is_lost_when_writers_are_killed(voted_on):
    """Eight writers, killed one after another wherever they are, each with another in its place at once."""
    path, answer = voted_on
    acknowledged = multiprocessing.RawArray("q", 8)
    writers = [_writer(path, answer, acknowledged, i, count=-1) for i in range(8)]
    kills = 0
    while kills < 24 or min(acknowledged) < 3:
        index = kills % 8
        time.sleep(0.02)
        assert all(writer.is_alive() for writer in writers), "a writer gave up"
        os.kill(writers[index].pid, signal.SIGKILL)
        writers[index].join()
        writers[index] = _writer(path, answer, acknowledged, index, count=-1)
        kills += 1
    for writer in writers:
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
    store = FeedbackStore.open(path)
    for i in range(8):
        kept = [int(c) for (c,) in store.rows("SELECT comment FROM rating WHERE rater = ? ORDER BY id", (f"r{i}",))]
        # Killed between the disk and the count, a vote is there though nobody was told; its number is then given once more.
        assert sorted(set(kept) | {acknowledged[i]}) == list(range(acknowledged[i] + 1))
        assert kept == sorted(kept) and len(kept) - len(set(kept)) <= kills
    assert store.rows("PRAGMA integrity_check") == [("ok",)]
    store.close()


def test_nobody_who_votes_without_a_break_keeps_the_others_from_it(voted_on):
    """SQLite alone gives its lock to whoever asks while it is free: mostly the one who has just had it."""
    path, answer = voted_on
    acknowledged = multiprocessing.RawArray("q", 4)
    writers = [_writer(path, answer, acknowledged, i, count=-1) for i in range(4)]
    give_up = time.monotonic() + 5

    def until(enough):
        while not enough() and time.monotonic() < give_up:
            time.sleep(0.01)

    # Counted from when all are there: a process may take longer to begin than another to vote a hundred times.
    until(lambda: min(acknowledged) > 0)
    before = list(acknowledged)
    until(lambda: sum(acknowledged) >= sum(before) + 400)
    votes = [now - then for now, then in zip(acknowledged, before, strict=True)]
    for writer in writers:
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
    assert min(votes) > sum(votes) / 50, votes


def test_a_persons_own_wording_stands_beside_the_answer_and_names_it(store):
    answer = an_answer(store)
    edited = store.edit(answer, rater="ann", content="better")
    assert store.rows("SELECT message, original, rater FROM edit") == [(edited, answer, "ann")]
    (conversation,) = store.rows("SELECT conversation FROM message WHERE id = ?", (answer,))[0]
    question, old, new = store.history(conversation)
    assert (new.id, new.parent, new.author, new.content) == (edited, question.id, "human-edit", "better")
    assert old.content == "a"
    for wrong in (question.id, "no such message"):
        with pytest.raises(ValueError, match="is no answer"):
            store.edit(wrong, rater="ann", content="x")


def test_a_choice_is_withdrawn_once_and_by_its_rater_only(store):
    number = store.compare(an_answer(store), an_answer(store), rater="ann", winner="tie", blind=True, shown_ms=1)
    assert not store.withdraw_comparison(number, rater="bob")
    assert store.withdraw_comparison(number, rater="ann") and not store.withdraw_comparison(number, rater="ann")
    assert store.stats()["comparisons"] == 0
    assert store.rows("SELECT count(*) FROM comparison") == [(1,)]
