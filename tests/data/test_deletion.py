"""What a deletion leaves in the file, and what it has to walk through."""

import random
import re

import pytest

from data.errors import UserError
from data.feedback import FeedbackStore


@pytest.fixture
def store(tmp_path):
    store = FeedbackStore.open(tmp_path / "feedback.sqlite")
    yield store
    store.close()


def talk(store, text, **of):
    conversation = store.start_conversation(rater=of.get("rater", "ann"))
    asked = store.add_message(conversation, parent=None, author="human", content=text)
    store.add_message(conversation, parent=asked, author="model", content=text, finish="stop")
    return conversation


def left(store) -> set[bytes]:
    """Marked words that stand in the file or beside it, and in no row."""
    rows = {mark for (text,) in store.rows("SELECT content FROM message") for mark in re.findall(rb"secret-\d+", text.encode())}
    return {mark for file in store.path.parent.iterdir() for mark in re.findall(rb"secret-\d+", file.read_bytes())} - rows


def test_after_the_log_is_emptied_a_removed_row_stands_no_more_where_it_stood(store):
    doomed, _ = talk(store, "secret-1"), talk(store, "secret-2")
    store.forget_conversation(doomed)
    # The log of writes still has the page as it was.
    assert left(store) == {b"secret-1"}
    assert store.empty_log() and left(store) == set()


@pytest.mark.parametrize("seed", range(4))
def test_many_deletions_leave_no_word_once_wiped(store, seed):
    """Turns of all lengths and of many talks side by side, so that pages fall empty and SQLite moves the others together: what it copied there
    is not overwritten when the row goes. Without `wipe` SQLite 3.40 leaves a text or two of these."""
    rng = random.Random(seed)
    store._db.execute("PRAGMA synchronous = OFF")
    with store.together():
        talks = [store.start_conversation(rater="ann") for _ in range(300)]
        last: dict[str, str] = {}
        for number in range(1200):
            talk_of = talks[number % len(talks)]
            said = f"secret-{number} " + "x" * rng.choice((0, 50, 400, 1500))
            last[talk_of] = store.add_message(talk_of, parent=last.get(talk_of), author="human", content=said)
    for doomed in rng.sample(talks, 180):
        store.forget_conversation(doomed)
    store.wipe()
    assert left(store) == set() and store.stats()["conversations"] == 120


def test_that_traces_may_be_left_is_known_after_a_kill_and_until_they_are_wiped(store):
    assert not store.has_traces()
    for remove in (lambda: store.forget_conversation(talk(store, "secret-1")), lambda: talk(store, "secret-2", rater="bob") and store.forget("bob")):
        remove()
        store.empty_log()
        other = FeedbackStore.open(store.path)
        assert other.has_traces()
        other.wipe()
        assert not other.has_traces() and not store.has_traces()
        other.close()


def test_what_somebody_else_removes_while_the_file_is_written_anew_stays_noted(store, monkeypatch):
    other = FeedbackStore.open(store.path)
    doomed = talk(store, "secret-2")
    store.forget_conversation(talk(store, "secret-1"))
    whole = store.rows

    def rows(sql, parameters=()):
        found = whole(sql, parameters)
        if "max(id)" in sql:
            # Another process, in the middle.
            other.forget_conversation(doomed)
        return found

    monkeypatch.setattr(store, "rows", rows)
    store.wipe()
    assert other.has_traces()
    other.close()


def test_a_log_that_somebody_reads_is_not_waited_for(store):
    reader = FeedbackStore.open(store.path)
    doomed = talk(store, "secret-1")
    with reader.reading():
        reader.rows("SELECT * FROM message")
        store.forget_conversation(doomed)
        assert not store.empty_log() and store.has_traces()
    # And a later writer waits for others as ever.
    assert store.rows("PRAGMA busy_timeout") == [(10_000,)]
    reader.close()
    store.wipe()
    assert left(store) == set()


def test_whoever_refers_to_a_message_is_found_without_a_walk_over_the_table(store):
    """SQLite asks for each message that is removed: on 100,000 turns a conversation of ten took a second."""
    tables = [name for (name,) in store.rows("SELECT name FROM sqlite_master WHERE type = 'table'")]
    asked = [(table, row[3]) for table in tables for row in store.rows(f"PRAGMA foreign_key_list({table})") if row[2] == "message"]
    assert len(asked) >= 6
    for table, column in asked:
        indexes = [row[1] for row in store.rows(f"PRAGMA index_list({table})")]
        assert column in {store.rows(f"PRAGMA index_info({index})")[0][2] for index in indexes}, (table, column)


def test_a_wipe_that_fails_keeps_the_note(store):
    store.forget_conversation(talk(store, "secret-1"))
    reader = FeedbackStore.open(store.path)
    with reader.reading():
        reader.rows("SELECT * FROM message")
        store._db.execute("PRAGMA busy_timeout = 10")
        with pytest.raises(UserError, match="rows are removed"):
            store.wipe()
    assert store.has_traces()
    reader.close()


def test_a_note_has_a_number_that_none_had_before(store):
    """Of two who wipe at once the slower one would else take the note of a deletion that it has not seen."""
    numbers = []
    for text in ("one", "two"):
        store.forget_conversation(talk(store, text))
        numbers += [row[0] for row in store.rows("SELECT id FROM trace")]
        store.wipe()
    assert numbers == [1, 2]
