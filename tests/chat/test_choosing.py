"""The terminal's verbs beside thumbs: choosing between two, a wording of one's own, a question in other words."""

import io

import pytest
from talking import CHAT, Scripted, rows, run

import pipeline.chat.terminal as terminal
from data.errors import UserError
from data.feedback import FeedbackStore
from data.said import read_said
from data.votes import learn
from pipeline.chat.session import Session
from pipeline.chat.terminal import talk


@pytest.fixture
def store(tmp_path):
    store = FeedbackStore.open(tmp_path / "f.sqlite")
    yield store
    store.close()


@pytest.mark.parametrize("first", [True, False])
def test_compare_sets_another_models_answer_beside_the_last(store, monkeypatch, first):
    monkeypatch.setattr(terminal, "toss", lambda: first)
    assistant = Scripted("old words", "new words", "on it goes")
    _, said = run(store, assistant, "q", "/compare base", "1", "next")
    assert [c for c, _, _ in assistant.asked] == ["ppo", "base", "ppo"]
    left, right = ("new words", "old words") if first else ("old words", "new words")
    assert said.index(f"A    {left}") < said.index(f"B    {right}") < said.index("kept: A is better")
    assert f"A was {'base, B was ppo' if first else 'ppo, B was base'}" in said
    # The talk goes on from what was chosen, and the round learns the pair.
    assert assistant.asked[2][1] == ["q", left, "next"]
    assert rows(store, "SELECT winner, blind FROM comparison") == [("left", 0)]
    (ranking,) = learn(read_said(store)).rankings
    assert [text.strip() for text in ranking.responses] == [left, right] and ranking.ranks == (0, 1)


def test_a_turn_answered_twice_names_nobody_before_the_choice(store):
    out = io.StringIO()
    talk(Session(Scripted("one", "two"), store, CHAT), iter(["q", "4", "/undo"]), out, share=1.0)
    before, after = out.getvalue().split("Which is better?")
    assert "A    one" in before and "B    two" in before and before.count("ppo") == 1  # the greeting
    assert "kept: both bad; both were ppo" in after and "choice taken back" in after
    assert rows(store, "SELECT blind, winner, withdrawn_ms IS NOT NULL FROM comparison") == [(1, "both_bad", 1)]


def test_a_choice_of_the_talk_before_is_taken_back_by_name(store):
    out = io.StringIO()
    talk(Session(Scripted("one", "two"), store, CHAT), iter(["q", "1", "/new", "/undo"]), out, share=1.0)
    assert "choice taken back, between “one” and “two”" in out.getvalue()


@pytest.mark.parametrize(("typed", "winner"), [("a", "left"), ("B", "right")])
def test_the_letters_that_stand_before_the_answers_choose_as_well(store, typed, winner):
    assistant = Scripted("one", "two", "three")
    run(store, assistant, "q", "/compare", typed)
    assert len(assistant.asked) == 2 and rows(store, "SELECT winner FROM comparison") == [(winner,)]


def test_anything_else_skips_the_choice_and_is_asked(store):
    assistant = Scripted("one", "two", "three")
    session, said = run(store, assistant, "q", "/compare", "and then?")
    assert "anything else is asked" in said and "skipped" in said and assistant.asked[2][1] == ["q", "one", "and then?"]
    assert rows(store, "SELECT winner FROM comparison") == [("skip",)] and session.choice is None


def test_what_cannot_be_compared_is_told(store):
    _, said = run(
        store,
        Scripted("a CTRL-C b", "c", "d CTRL-C e", "f"),
        "/compare",
        "q",
        "/compare",
        "/retry",
        "/compare gpt",
        "/compare",
        "1",
    )
    assert "nothing to compare yet" in said and "only a whole answer" in said and "no model gpt; there are base, sft, ppo" in said
    # The second was stopped: there is nothing to choose from, and 1 is a question.
    assert store.stats()["comparisons"] == 0


def test_a_wording_of_ones_own_is_a_demonstration_and_the_talk_goes_on_from_it(store):
    assistant = Scripted("poor words", "fine")
    _, said = run(
        store,
        assistant,
        "/edit x",
        "q",
        "/edit better words\nin two lines",
        "/good",
        "/edit better words\nin two lines",
        "more",
    )
    assert "nothing to edit yet" in said and "takes no vote" in said and "nothing was changed" in said
    assert assistant.asked[1][1] == ["q", "better words\nin two lines", "more"]
    lesson = learn(read_said(store))
    assert [d.response for d in lesson.demonstrations] == ["better words\nin two lines"] and lesson.pairs == 1


def test_edit_and_ask_alone_put_the_old_words_on_the_line(store):
    session, _ = run(store, Scripted("poor words", "fine"), "a qestion", "/edit")
    assert session.draft == "/edit poor words"
    talk(session, iter(["/ask"]), io.StringIO())
    assert session.draft == "/ask a qestion"


def test_a_question_in_other_words_stands_beside_the_old_one(store):
    assistant = Scripted("a1", "a2", "a3")
    session, said = run(store, assistant, "/ask x", "q1", "q2", "/ask q2, please")
    assert "no question to change yet" in said
    assert assistant.asked[2][1] == ["q1", "a1", "q2, please"] and [t.question for t in session.turns] == [
        "q1",
        "q2, please",
    ]
    parents = rows(store, "SELECT parent FROM message WHERE content LIKE 'q2%'")
    assert len(parents) == 2 and parents[0] == parents[1]


def test_a_question_that_is_refused_leaves_the_old_one(store):
    class Refusing(Scripted):
        def stream(self, messages, **kwargs):
            if messages[-1].content == "too long":
                raise UserError("The last message does not fit.")
            yield from super().stream(messages, **kwargs)

    session, said = run(store, Refusing("a"), "q", "/ask too long", "/good")
    assert "does not fit" in said and [t.question for t in session.turns] == ["q"] and store.stats()["up"] == 1


def test_a_choice_that_cannot_be_saved_still_waits(store, monkeypatch):
    session, _ = run(store, Scripted("one", "two"), "q", "/compare")

    def refuse(*args, **kwargs):
        raise UserError("votes.sqlite: not saved: disk is full.")

    monkeypatch.setattr(store, "compare", refuse)
    out = io.StringIO()
    talk(session, iter(["2"]), out)
    monkeypatch.undo()
    assert "not saved" in out.getvalue() and "kept: B is better" in session.choose("2")


def test_top_p_is_set(store):
    assistant = Scripted("a")
    _, said = run(store, assistant, "/set top_p=0", "/set top_p=0.9", "q")
    assert "from 0.01 to 1.0" in said and assistant.asked[0][2].top_p == 0.9
