"""The chat without a model: a scripted assistant stands in."""

import io
import os
import signal
import stat
import sys
import threading
from types import SimpleNamespace

import pytest
from talking import CHAT, Scripted, rows, run

import pipeline.assistant
from data.errors import UserError
from data.feedback import FeedbackStore
from pipeline.chat.commands import obey
from pipeline.chat.prompt import lines
from pipeline.chat.screen import printable
from pipeline.chat.session import Session
from pipeline.chat.terminal import chat, talk


@pytest.fixture
def store(tmp_path):
    store = FeedbackStore.open(tmp_path / "f.sqlite")
    yield store
    store.close()


def test_answers_stream_and_votes_are_kept(store):
    _, said = run(store, Scripted("Hello there.", "Again."), "hi", "/good", "more", "/bad so short, really")
    assert "Hello there." in said and "kept: good" in said
    assert rows(store, "SELECT value, comment FROM rating ORDER BY id") == [(1, None), (-1, "so short, really")]
    assert rows(store, "SELECT author, content, finish FROM message WHERE author = 'model'")[0] == (
        "model",
        "Hello there. ",
        "stop",
    )


def test_an_answer_that_never_came_is_no_turn_and_takes_no_vote(store):
    class Refusing(Scripted):
        def stream(self, messages, **kwargs):
            if messages[-1].content == "too long":
                raise UserError("The last message does not fit.")
            yield from super().stream(messages, **kwargs)

    session, said = run(store, Refusing("fine"), "too long", "/bad", "q", "/good")
    assert "nothing to vote on yet" in said and "kept: good" in said
    assert [t.question for t in session.turns] == ["q"] and session.turns[0].parent is None
    assert store.stats()["up"] == 1 and store.stats()["down"] == 0


def test_changing_the_model_within_a_conversation_says_how_to_compare(store):
    _, said = run(store, Scripted("a"), "/model base", "q", "/model ppo", "/model ppo")
    assert "base answers from now on\n" in said
    assert "ppo answers from now on; /retry asks it the last question too, /new starts afresh" in said
    assert "ppo answers already" in said


def test_retry_adds_a_version_and_keeps_the_old_one(store):
    run(store, Scripted("one", "two"), "q", "/retry")
    ((question,),) = rows(store, "SELECT id FROM message WHERE author = 'human'")
    found = rows(store, "SELECT parent, content FROM message WHERE author = 'model'")
    assert (
        len(found) == 2 and found[0][0] == found[1][0] == question and {c.strip() for _, c in found} == {"one", "two"}
    )


def test_the_next_question_carries_the_conversation_and_new_drops_it(store):
    assistant = Scripted("a1", "a2", "a3")
    run(store, assistant, "q1", "q2", "/new", "q3")
    assert [asked for _, asked, _ in assistant.asked] == [["q1"], ["q1", "a1", "q2"], ["q3"]]
    assert store.stats()["conversations"] == 2


def test_the_most_trained_answers_first_and_model_switches(store):
    assistant = Scripted("a", "b")
    _, said = run(store, assistant, "q", "/model base", "q", "/model gpt")
    assert [c for c, _, _ in assistant.asked] == ["ppo", "base"] and "no model gpt; there are base, sft, ppo" in said


def test_ctrl_c_stops_only_the_answer_and_keeps_what_was_said(store):
    _, said = run(store, Scripted("one two CTRL-C never", "next"), "q", "/bad", "q2", "/bad")
    assert "[stopped]" in said and "next" in said
    # Beside half an answer nothing is set, and nothing is offered.
    assert said.count("kept: bad") == 2 and said.count("/compare sets another answer beside it") == 1
    assert rows(store, "SELECT content, finish FROM message WHERE author = 'model'")[0] == ("one two ", "stopped")


def test_the_signal_ends_the_answer_between_two_tokens_and_is_then_as_before(store):
    before = signal.getsignal(signal.SIGINT)
    assistant = Scripted("one two SIGINT never", "next")
    _, said = run(store, assistant, "q", "q2")
    assert "[stopped]" in said and "never" not in said and "next" in said
    # The model ended its answer itself; nothing struck it half-way.
    assert assistant.ended == ["stopped", "stop"]
    assert rows(store, "SELECT content, finish, token_ids FROM message WHERE author = 'model'") == [
        ("one two ", "stopped", "[1, 1]"),
        ("next ", "stop", "[1]"),
    ]
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_signal_does_not_wait_for_the_next_token(store):
    class Slow(Scripted):
        def stream(self, *args, stop, **kwargs):
            yield SimpleNamespace(text="one ", token_ids=(), logprobs=(), finish=None)
            os.kill(os.getpid(), signal.SIGINT)
            assert stop.is_set()
            os.kill(os.getpid(), signal.SIGINT)
            pytest.fail("the second signal was waited out")

    _, said = run(store, Slow(), "q")
    assert "[stopped]" in said
    assert rows(store, "SELECT content, finish FROM message WHERE author = 'model'") == [("one ", "stopped")]


def test_whoever_leaves_off_reading_closes_the_models_stream(store):
    class Held(Scripted):
        def stream(self, *args, **kwargs):
            # Without this reference, Python itself would close the stream at once.
            self.held = super().stream(*args, **kwargs)
            return self.held

    assistant = Held("one two three")
    session = Session(assistant, store, CHAT)
    pieces = session.ask("q", threading.Event())
    assert next(pieces) == "one "
    pieces.close()
    assert assistant.closed == 1
    assert rows(store, "SELECT content, finish FROM message WHERE author = 'model'") == [("one ", "stopped")]


def test_answers_come_out_as_they_are_drawn(store):
    seen = []

    class Watched(Scripted):
        def stream(self, *args, **kwargs):
            for delta in super().stream(*args, **kwargs):
                seen.append(out.buffer.getvalue().decode())
                yield delta

    out = io.TextIOWrapper(io.BytesIO(), "utf-8")
    talk(Session(Watched("one two"), store, CHAT), iter(["q"]), out)
    assert seen[1].endswith("ppo  one ") and seen[2].endswith("ppo  one two ")


def test_an_answer_cut_off_or_empty_is_told(store):
    _, said = run(store, Scripted("half", finish="length"), "q")
    assert "[cut off after 20 tokens; /set max_new_tokens=N allows more]" in said
    _, said = run(store, Scripted(""), "q")
    assert "[an empty answer]" in said


def test_what_no_model_takes_is_refused_in_words_and_the_talk_goes_on(store):
    assistant = Scripted("fine", "too")
    session, said = run(
        store, assistant, "a\0b", "half \udcff", "/system x\0", "/good", "q", "/bad x\0", "/good", "more"
    )
    assert "the question holds a NUL character at offset 1; nothing was sent." in said
    assert "the question holds a lone surrogate at offset 5" in said and "the system prompt holds" in said
    assert "the comment holds" in said and "ask something first" in said
    assert len(session.turns) == 2 and session.system_prompt is None and store.stats()["up"] == 1


def test_a_nul_that_the_model_drew_does_not_end_the_talk(store):
    assistant = Scripted("a\0b", "fine")
    run(store, assistant, "q", "q2")
    assert assistant.asked[1][1] == ["q", "a\ufffdb", "q2"]
    assert rows(store, "SELECT content FROM message WHERE author = 'model'")[0] == ("a\0b ",)


def test_a_vote_that_cannot_be_saved_is_told_and_the_talk_goes_on(store, monkeypatch):
    def refuse(*args, **kwargs):
        raise UserError("votes.sqlite: not saved: disk is full.")

    session, _ = run(store, Scripted("a", "b"), "q", "/good")
    monkeypatch.setattr(store, "rate", refuse)
    out = io.StringIO()
    talk(session, iter(["/bad", "/undo", "q2"]), out)
    assert out.getvalue().count("not saved: disk is full") == 2 and "ppo  b" in out.getvalue()
    monkeypatch.undo()
    assert obey(session, "/undo") == "vote taken back, on “a”" and store.stats()["up"] == 0


def test_undo_goes_back_to_the_vote_before_and_its_comment(store):
    session, said = run(store, Scripted("a"), "q", "/good so short", "/bad", "/undo")
    assert "vote taken back; good stands again" in said
    answer = session.turns[-1].answer_id
    assert store.rating(answer, "ann") == 1
    assert rows(store, "SELECT comment FROM rating ORDER BY id DESC LIMIT 1") == [("so short",)]
    obey(session, "/undo")
    assert store.rating(answer, "ann") == 0
    assert "no vote" in obey(session, "/undo")


def test_undo_says_on_which_answer_where_it_is_not_the_one_shown(store):
    """After /new nothing is on the screen, and after another question another answer."""
    session, _ = run(store, Scripted("one", "a long answer " * 9, "two"), "q", "/good", "q2", "/bad", "/new")
    assert obey(session, "/undo") == "vote taken back, on “a long answer a long answer a long answ…”"
    list(session.ask("q3", threading.Event()))
    assert obey(session, "/undo") == "vote taken back, on “one”"
    assert store.stats()["up"] == store.stats()["down"] == 0


def test_undo_passes_over_a_vote_that_was_deleted_with_its_answer(store):
    session, _ = run(store, Scripted("one"), "q", "/good")
    store.forget("ann")
    assert obey(session, "/undo") == "no vote to take back"


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
    assert printable("a\x1b[2Jb\x07\x9bc\td\r\n") == "a\ufffd[2Jb\ufffd\ufffdc\td\ufffd\n"
    assert printable("\u202egnp.exe \u2066x\ud800") == "\ufffdgnp.exe \ufffdx\ufffd"
    # A joiner holds one picture together, and steers nothing.
    assert printable("👩\u200d👧 café ה") == "👩\u200d👧 café ה"


def test_a_command_may_be_loud_or_slightly_wrong(store):
    _, said = run(store, Scripted("a"), "q", "/GOOD", "/set temprature=1", "/set temperature = 0.25", "/modle", "/QUIT")
    assert "kept: good" in said and "did you mean temperature?" in said and "did you mean /model?" in said
    assert "temperature is 0.25" in said


def test_the_whole_chat_over_a_pipe(tmp_path, monkeypatch, capsys):
    """From bytes on stdin to rows in the database, with only the model replaced."""
    config = SimpleNamespace(chat=SimpleNamespace(**vars(CHAT), feedback_db=str(tmp_path / "votes" / "f.sqlite")))
    monkeypatch.setattr(
        pipeline.assistant.Assistant, "open", lambda run_dir, config, others: Scripted("Hellö.", "Bye.")
    )
    typed = io.TextIOWrapper(io.BytesIO("salut é\n/good\n\xff\n".encode() + b"\xff\n/stats\n"), "utf-8")
    monkeypatch.setattr(sys, "stdin", typed)
    screen = io.TextIOWrapper(io.BytesIO(), "ascii")
    monkeypatch.setattr(sys, "stdout", screen)
    chat(tmp_path / "r", config)
    screen.flush()
    said = screen.buffer.getvalue().decode("ascii")
    assert "ppo  Hell?." in said and "kept: good" in said and "lone surrogate at offset 0" in said
    assert "1 good and 0 bad of 2 answers" in said
    assert stat.S_IMODE(os.stat(tmp_path / "votes" / "f.sqlite").st_mode) == 0o600


def test_an_error_of_the_model_is_kept_as_such(store):
    class Broken(Scripted):
        def stream(self, *args, **kwargs):
            yield SimpleNamespace(text="half", token_ids=(), logprobs=(), finish=None)
            raise RuntimeError

    session = Session(Broken(), store, CHAT)
    with pytest.raises(RuntimeError):
        list(session.ask("q", threading.Event()))
    assert rows(store, "SELECT content, finish FROM message WHERE author = 'model'") == [("half", "error")]


def test_on_a_terminal_what_was_typed_is_kept_privately_and_there_is_a_way_out(store, tmp_path, monkeypatch, capsys):
    from prompt_toolkit.application import create_app_session
    from prompt_toolkit.input import create_pipe_input
    from prompt_toolkit.output import DummyOutput

    for stream in (sys.stdin, sys.stdout):
        monkeypatch.setattr(stream, "isatty", lambda: True)
    with create_pipe_input() as keys, create_app_session(input=keys, output=DummyOutput()):
        # Ctrl-C at the prompt, two lines, Ctrl-D.
        keys.send_text("\x03hello\r/good\r\x04")
        typed = list(lines(Session(Scripted(), store, CHAT), tmp_path / "f.history"))
    assert typed == ["hello", "/good"] and "+hello\n" in (tmp_path / "f.history").read_text()
    assert "/quit or Ctrl-D leaves" in capsys.readouterr().out
    assert stat.S_IMODE(os.stat(tmp_path / "f.history").st_mode) == 0o600


def test_known_words_after_a_vote_are_tags_and_the_rest_a_comment(store):
    session, _ = run(store, Scripted("a"), "q", "/bad Too long, unsafe, and it rambles, a lot", "/good", "/undo")
    vote = store.vote(session.turns[-1].answer_id, "ann")
    assert (vote.value, vote.tags, vote.comment) == (-1, ("too long", "unsafe"), "and it rambles, a lot")
