"""The chat without a model: a scripted assistant stands in."""

import io
import threading
from types import SimpleNamespace

import pytest

from data.feedback import FeedbackStore
from pipeline.chat.session import Session
from pipeline.chat.terminal import printable, talk

CHAT = SimpleNamespace(temperature=0.7, max_new_tokens=20, rater="ann")


class Scripted:
    """Answers each time with the next text, word by word, and notes what it was asked."""

    checkpoints = ("base", "sft", "ppo")

    def __init__(self, *texts):
        self.texts, self.asked = list(texts), []

    def describe(self, checkpoint):
        return {"run": "r", "stage": checkpoint, "weights_sha256": checkpoint, "template_sha256": "t"}

    def stream(self, messages, *, checkpoint, sampling, stop=None):
        self.asked.append((checkpoint, [m.content for m in messages], sampling))
        for word in self.texts.pop(0).split(" "):
            if stop is not None and stop.is_set():
                break
            if word == "CTRL-C":
                raise KeyboardInterrupt
            yield SimpleNamespace(text=word + " ", token_ids=(1,), logprobs=(-0.1,), finish=None)
        yield SimpleNamespace(text="", token_ids=(), logprobs=(), finish="stop")


@pytest.fixture
def store(tmp_path):
    store = FeedbackStore.open(tmp_path / "f.sqlite")
    yield store
    store.close()


def run(store, assistant, *lines):
    out = io.StringIO()
    session = Session(assistant, store, CHAT)
    talk(session, iter(lines), out)
    return session, out.getvalue()


def rows(store, sql):
    return store._db.execute(sql).fetchall()


def test_answers_stream_and_votes_are_kept(store):
    _, said = run(store, Scripted("Hello there.", "Again."), "hi", "/good", "more", "/bad too short")
    assert "Hello there." in said and "kept: good" in said
    assert rows(store, "SELECT value, comment FROM rating ORDER BY id") == [(1, None), (-1, "too short")]
    assert rows(store, "SELECT author, content, finish FROM message WHERE author = 'model'")[0] == (
        "model",
        "Hello there. ",
        "stop",
    )


def test_retry_adds_a_version_and_keeps_the_old_one(store):
    _, _ = run(store, Scripted("one", "two"), "q", "/retry")
    found = rows(store, "SELECT parent, content FROM message WHERE author = 'model'")
    assert len(found) == 2 and found[0][0] == found[1][0] and {c.strip() for _, c in found} == {"one", "two"}


def test_the_next_question_carries_the_conversation_and_new_drops_it(store):
    assistant = Scripted("a1", "a2", "a3")
    run(store, assistant, "q1", "q2", "/new", "q3")
    assert [asked for _, asked, _ in assistant.asked] == [["q1"], ["q1", "a1", "q2"], ["q3"]]
    assert store.stats()["conversations"] == 2


def test_the_most_trained_answers_first_and_model_switches(store):
    assistant = Scripted("a", "b")
    _, said = run(store, assistant, "q", "/model base", "q", "/model gpt")
    assert [c for c, _, _ in assistant.asked] == ["ppo", "base"] and "there are base, sft, ppo" in said


def test_ctrl_c_stops_only_the_answer_and_keeps_what_was_said(store):
    _, said = run(store, Scripted("one two CTRL-C never", "next"), "q", "q2")
    assert "[stopped]" in said and "next" in said
    assert rows(store, "SELECT content, finish FROM message WHERE author = 'model'")[0] == ("one two ", "stopped")


def test_undo_goes_back_to_the_vote_before(store):
    session, _ = run(store, Scripted("a"), "q", "/good", "/bad", "/undo")
    answer = session.turns[-1].answer_id
    assert store.rating(answer, "ann") == 1
    session.command("/undo")
    assert store.rating(answer, "ann") == 0
    assert "no vote" in session.command("/undo")


def test_set_system_and_wrong_commands_answer_in_words(store):
    assistant = Scripted("a")
    _, said = run(
        store, assistant, "/set temperature=0.1", "/set temperature=hot", "/system be brief", "q", "/goood", "/good"
    )
    assert assistant.asked[0][1] == ["be brief", "q"] and assistant.asked[0][2].temperature == 0.1
    assert "should be a number from 0.0 to 5.0 (got 'hot')" in said and "did you mean /good?" in said


def test_votes_before_an_answer_are_refused_and_quit_leaves(store):
    _, said = run(store, Scripted(), "/good", "/retry", "/quit", "never asked")
    assert "ask something first" in said and store.stats()["answers"] == 0


def test_each_draw_has_a_seed_of_its_own_that_is_kept(store):
    assistant = Scripted("a", "b")
    run(store, assistant, "q", "/retry")
    seeds = [s.seed for _, _, s in assistant.asked]
    assert len(set(seeds)) == 2
    assert f'"seed": {seeds[0]}' in rows(store, "SELECT sampling FROM message WHERE author = 'model'")[0][0]


def test_control_characters_cannot_steer_the_terminal():
    assert printable("a\x1b[2Jb\x07\x9bc\td\n") == "a\ufffd[2Jb\ufffd\ufffdc\td\n"


def test_an_error_of_the_model_is_kept_as_such(store):
    class Broken(Scripted):
        def stream(self, *args, **kwargs):
            yield SimpleNamespace(text="half", token_ids=(), logprobs=(), finish=None)
            raise RuntimeError

    session = Session(Broken(), store, CHAT)
    with pytest.raises(RuntimeError):
        list(session.ask("q", threading.Event()))
    assert rows(store, "SELECT content, finish FROM message WHERE author = 'model'") == [("half", "error")]
