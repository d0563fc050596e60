"""The terminal's way back: versions of the last answer, and earlier conversations."""

import io
import threading

import pytest
from talking import CHAT, Scripted, rows, run

from data.errors import UserError
from data.feedback import FeedbackStore
from pipeline.chat.commands import obey
from pipeline.chat.history import go_back
from pipeline.chat.session import Session
from pipeline.chat.terminal import talk


@pytest.fixture
def store(tmp_path):
    store = FeedbackStore.open(tmp_path / "f.sqlite")
    yield store
    store.close()


def more(session, *lines):
    out = io.StringIO()
    talk(session, iter(lines), out)
    # Without the greeting.
    return out.getvalue().split("\n", 1)[1]


def test_versions_are_gone_through_with_their_place(store):
    session, said = run(store, Scripted("one", "two", "three"), "q", "/retry", "/model sft", "/retry")
    assert "ppo ‹ 2/2 › two" in said and "sft ‹ 3/3 › three" in said and "1/1" not in said
    assert "ppo ‹ 2/3 › two" in more(session, "/previous")
    assert "ppo ‹ 1/3 › one" in more(session, "/PREVIOUS")
    assert "that is the first of 3 answers" in more(session, "/previous")
    assert "ppo ‹ 2/3 › two" in more(session, "/next") and "sft ‹ 3/3 › three" in more(session, "/next")
    assert "that is the last of 3 answers" in more(session, "/next")


def test_there_is_nothing_to_go_through_without_versions(store):
    _, said = run(store, Scripted("one"), "/previous", "q", "/next", "/new", "/previous")
    assert said.count("nothing to go through yet") == 2 and "there is one answer only; /retry draws another" in said


def test_votes_go_to_the_version_shown_and_are_shown_with_it(store):
    session, said = run(
        store, Scripted("one", "two"), "q", "/retry", "/previous", "/bad too long, rambles", "/next", "/good"
    )
    assert "kept: bad ‹ 1/2 ›." in said and "kept: good ‹ 2/2 ›" in said
    found = dict(rows(store, "SELECT content, value FROM rating r JOIN message m ON m.id = r.message"))
    assert found == {"one ": -1, "two ": 1}
    assert "you said: bad · too long · rambles" in more(session, "/previous")
    assert "you said: good" in more(session, "/next")
    assert "you said" not in more(session, "/undo", "/previous", "/next").split("two")[1]


def test_the_talk_goes_on_from_the_version_shown_and_an_edit_is_one_more(store):
    assistant = Scripted("one", "two", "three")
    session, said = run(store, assistant, "q", "/retry", "/previous", "/edit my words", "/previous", "/previous", "on")
    assert "kept: your wording ‹ 3/3 ›" in said and "ppo ‹ 1/3 › one" in said
    assert assistant.asked[2][1] == ["q", "one", "on"]
    assert "your wording" not in more(session, "/previous")


def test_versions_that_the_page_added_meanwhile_are_there(store):
    session, _ = run(store, Scripted("one"), "q")
    sft = store.add_model(run="r", stage="sft", weights_sha256="sft", template_sha256="t")
    of = {"parent": session.turns[0].question_id, "author": "model"}
    store.add_message(session.conversation, content="from the page", model=sft, finish="length", **of)
    said = more(session, "/next")
    assert "sft ‹ 2/2 › from the page" in said and "cut off" in said


def test_an_answer_that_failed_before_its_first_word_is_no_version(store):
    class Failing(Scripted):
        def stream(self, *args, **kwargs):
            if not self.texts:
                raise UserError("no memory")
            yield from super().stream(*args, **kwargs)

    _, said = run(store, Failing("one"), "q", "/retry", "/previous", "/good")
    assert "no memory" in said and "there is one answer only" in said and "kept: good\n" in said
    assert rows(store, "SELECT count(*) FROM message WHERE author = 'model'") == [(1,)]


def test_past_conversations_are_listed_searched_and_taken_up(store):
    run(store, Scripted("flour and water", "an hour"), "/system be brief", "How do I bake bread?", "How long?")
    run(store, Scripted("blue"), "What colour is the sky?")
    assistant = Scripted("rye")
    session, said = run(store, assistant, "/history", "/history WATER", "/open 1", "Which flour?")
    lines = [line.split(maxsplit=3) for line in said.split("\n")]
    assert [line[3] for line in lines if line[:1] in (["1"], ["2"])] == [
        "What colour is the sky?",
        "How do I bake bread?",
        # Found by an answer, whatever its capitals.
        "How do I bake bread?",
    ]
    opened = said[said.index("system prompt: be brief") :]
    shown = ["you  How do I bake bread?", "ppo  flour and water", "you  How long?", "ppo  an hour"]
    assert [opened.index(text) for text in shown] == sorted(opened.index(text) for text in shown)
    asked = ["be brief", "How do I bake bread?", "flour and water", "How long?", "an hour", "Which flour?"]
    assert assistant.asked[0][1] == asked
    assert store.stats()["conversations"] == 2
    assert "(this one)" in next(line for line in more(session, "/history").split("\n") if "bread" in line)
    # The prompt belonged to that conversation: the next has none.
    assistant.texts.append("yes")
    more(session, "/new", "Is it?")
    assert assistant.asked[-1][1] == ["Is it?"]


def test_a_conversation_comes_back_as_it_stood_with_its_versions_and_votes(store):
    run(store, Scripted("one", "two", "three"), "q", "/retry", "/good", "/previous", "and then?", "/bad unsafe")
    assistant = Scripted("four")
    session, said = run(store, assistant, "/open 1")
    # On from the first answer, though the second was written later.
    assert "ppo  one" in said and "two" not in said and "ppo  three" in said and "you said: bad · unsafe" in said
    assert "vote taken back" in more(session, "/undo") and store.stats()["down"] == 0 and store.stats()["up"] == 1
    assert "no vote to take back" in more(session, "/undo")
    assert "ppo ‹ 2/2 › four" in more(session, "/retry")


def test_a_thumb_from_before_stands_again_when_the_new_one_is_taken_back(store):
    run(store, Scripted("one"), "q", "/bad too long")
    session, _ = run(store, Scripted(), "/open 1", "/good", "/undo")
    vote = store.vote(session.shown.id, "ann")
    assert (vote.value, vote.tags) == (-1, ("too long",))


@pytest.mark.parametrize(
    ("key", "of_first", "of_second"),
    [
        ("1", "you chose this one", "you chose another one"),
        ("2", "you chose another one", "you chose this one"),
        ("3", "this one and another: equally good", "this one and another: equally good"),
        ("4", "this one and another: both bad", "this one and another: both bad"),
        ("skipped", "", ""),
    ],
)
def test_a_choice_is_told_with_both_answers(store, key, of_first, of_second):
    session = Session(Scripted("one", "two", "three", "four"), store, CHAT)
    talk(session, iter(["q", key] if key != "skipped" else ["q", "/stats"]), io.StringIO(), share=1.0)
    more(session, "/previous")
    second, first = more(session, "/next"), more(session, "/previous")
    assert "two" in second and "one" in first
    assert of_first in first and of_second in second
    if key == "skipped":
        assert "you chose" not in first + second
    # Another answer has no part in it.
    assert "you chose" not in more(session, "/retry", "/previous", "/next").split("‹ 3/3 ›")[-1]


def test_what_was_voted_elsewhere_is_not_taken_back_from_here(store):
    session, _ = run(store, Scripted("one", "two"), "q", "/bad", "/new", "other q", "/good", "/open 2")
    assert "vote taken back" in more(session, "/undo") and "no vote to take back" in more(session, "/undo")
    assert store.stats()["up"] == 1 and store.stats()["down"] == 0


def test_a_choice_from_before_can_be_taken_back(store):
    out = io.StringIO()
    talk(Session(Scripted("one", "two"), store, CHAT), iter(["q", "1"]), out, share=1.0)
    _, said = run(store, Scripted(), "/open 1", "/undo", "/undo")
    assert "ppo ‹ 1/2 › one" in said and "choice taken back" in said and "no vote to take back" in said
    assert store.stats()["comparisons"] == 0


def test_choices_and_wordings_are_counted_beside_thumbs(store):
    session = Session(Scripted("one", "two"), store, CHAT)
    talk(session, iter(["q", "1"]), io.StringIO(), share=1.0)
    assert "0 good and 0 bad of 2 answers (conversations: 1), 1 choice between two answers, kept in" in more(session, "/stats")
    store.edit(session.shown.id, rater="ann", content="a third")
    assert "1 choice between two answers, 1 answer in other words, kept in" in more(session, "/stats", "/undo")
    assert "of 2 answers (conversations: 1), 1 answer in other words, kept in" in more(session, "/stats")


def test_a_question_that_was_left_without_an_answer_is_answered_or_replaced(store):
    talk_id = store.start_conversation(rater="ann")
    store.add_message(talk_id, parent=None, author="human", content="left alone")
    assistant = Scripted("at last")
    _, said = run(store, assistant, "/open 1", "/good", "/retry")
    assert "[no answer yet: /retry draws one]" in said and "nothing to vote on yet" in said
    assert assistant.asked[0][1] == ["left alone"] and "ppo  at last" in said

    session, _ = run(store, Scripted("one"), "q")
    store.add_message(session.conversation, parent=session.shown.id, author="human", content="left alone")
    assistant = Scripted("yes")
    again, _ = run(store, assistant, "/open 1", "something else")
    assert assistant.asked[0][1] == ["q", "one", "something else"]
    # Versions of one question, as on the page.
    parents = "SELECT parent FROM message WHERE content IN ('left alone', 'something else') AND parent IS NOT NULL"
    assert rows(store, parents) == [(session.shown.id,)] * 2 and len(again.turns) == 2


@pytest.mark.parametrize("number", ["0", "2", "-1", "x", "", "²", "1.0"])
def test_a_number_that_is_not_there_is_told(store, number):
    session, _ = run(store, Scripted("one"), "q")
    with pytest.raises(UserError, match=r"/open takes a number from 1 to 1 of the newest ones \(got"):
        go_back(session, number)
    assert session.turns[0].question == "q"


def test_nobody_elses_conversations_are_there(store):
    theirs = store.start_conversation(rater="bob")
    store.add_message(theirs, parent=None, author="human", content="secret")
    _, said = run(store, Scripted(), "/history", "/history secret", "/open 1")
    assert "no conversation yet" in said and "nothing found that says 'secret'" in said
    assert "and there is none yet" in said


def test_a_long_list_says_what_it_does_not_show(store):
    for n in range(23):
        store.add_message(
            store.start_conversation(rater="ann"), parent=None, author="human", content=f"q{n} " + "x" * 90
        )
    session, said = run(store, Scripted(), "/history")
    assert "q22 x" in said and "q3 x" in said and "q2 x" not in said and "the newest 20 of 23" in said
    assert max(map(len, said.split("\n"))) < 90
    # Those that are not shown have their numbers too.
    assert "you  q0 x" in more(session, "/open 23")


@pytest.mark.parametrize("line", ["more", "/good", "/edit other words", "/retry", "/previous", "/history"])
def test_a_conversation_that_is_deleted_meanwhile_ends_nothing(store, line):
    session, _ = run(store, Scripted("one", "two", "three"), "q")
    store.forget("ann")
    said = more(session, line)
    assert "that conversation was deleted meanwhile; a new one begins" in said
    list(session.ask("again", threading.Event()))
    assert store.stats()["conversations"] == 1


def test_a_conversation_is_deleted_when_that_is_said_twice(store):
    session, said = run(
        store, Scripted("secret one", "secret two", "kept"), "/delete yes", "secret q", "/good", "/retry", "/delete", "/delete no"
    )
    assert "has not begun" in said and said.count("/delete yes does it") == 2
    assert store.stats()["conversations"] == 1 and store.stats()["up"] == 1
    assert "deleted: 3 messages and what was voted on them." in more(session, "/delete yes", "/undo", "q")
    counted = {"conversations": 1, "answers": 1, "up": 0, "down": 0, "comparisons": 0, "wordings": 0}
    assert store.stats() == counted
    for file in store.path.parent.glob("f.sqlite*"):
        assert b"secret" not in file.read_bytes(), file


def test_a_conversation_that_was_listed_and_then_deleted_is_told(store):
    session, _ = run(store, Scripted("one"), "q", "/new", "/history")
    store.forget("ann")
    assert "That conversation was deleted meanwhile" in more(session, "/open 1")
    assert obey(session, "/undo") == "no vote to take back"


def test_a_screen_without_those_signs_shows_others(store):
    session, _ = run(store, Scripted("one", "two"), "q")
    out = io.TextIOWrapper(io.BytesIO(), "ascii")
    talk(session, iter(["/retry"]), out)
    out.flush()
    assert b"ppo < 2/2 > two" in out.buffer.getvalue()
