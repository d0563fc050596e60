"""What raters allow: who said local stays in the chat, train is learned from, publish leaves too; and all of it is counted."""

import pytest

from data.consent import Consents
from data.feedback import FeedbackStore
from data.said import read_said
from data.votes import learn


@pytest.fixture
def store(tmp_path):
    store = FeedbackStore.open(tmp_path / "feedback.sqlite")
    yield store
    store.close()


def chosen(store, owner, rater=None):
    """A question of `owner`'s, and a choice of `rater`'s between two answers to it."""
    conversation = store.start_conversation(rater=owner)
    asked = store.add_message(conversation, parent=None, author="human", content=f"q of {owner} for {rater}")
    sides = [
        store.add_message(conversation, parent=asked, author="model", content=text, finish="stop") for text in "ab"
    ]
    store.compare(*sides, rater=rater or owner, winner="left", blind=True, shown_ms=1)


def learned(store, use, unasked="publish"):
    """Questions learned from, reasons, and whose words are in it; everything given is used or counted."""
    lesson = learn(read_said(store, use=use, unasked=unasked))
    assert sum(lesson.given.values()) == lesson.used + sum(lesson.left_out.values())
    return {r.prompt[-1].content for r in lesson.rankings}, dict(lesson.left_out), lesson.raters


KEPT = "by raters who keep what they say in the chat (consent)"
STAYS = "by raters who let nothing they say leave (consent)"
UNASKED = "by raters who have not been asked for their consent yet"


def test_each_level_allows_what_the_ones_before_do_and_more(store):
    for rater in ("local", "train", "publish"):
        chosen(store, rater)
        store.set_consent(rater, rater)
    chosen(store, "web-new")
    of = lambda *names: {f"q of {name} for None" for name in names}  # noqa: E731
    assert learned(store, "train") == (of("train", "publish"), {KEPT: 1, UNASKED: 1}, {"train", "publish"})
    assert learned(store, "publish") == (of("publish"), {KEPT: 1, STAYS: 1, UNASKED: 1}, {"publish"})


def test_the_newest_word_counts_and_the_old_ones_stay(store):
    chosen(store, "ann")
    for level in ("publish", "local", "train"):
        store.set_consent("ann", level)
        assert bool(learned(store, "train")[0]) == (level != "local")
        assert bool(learned(store, "publish")[0]) == (level == "publish")
    assert store.rows("SELECT level FROM consent ORDER BY id") == [("publish",), ("local",), ("train",)]


def test_whose_conversation_it_is_must_allow_it_too(store):
    """Bob's vote on an answer in Ann's talk would take her question along."""
    chosen(store, "ann", rater="bob")
    store.set_consent("bob", "publish")
    store.set_consent("ann", "local")
    assert learned(store, "train") == (set(), {KEPT: 1}, set())
    store.set_consent("ann", "train")
    assert learned(store, "train")[0] and learned(store, "train")[2] == {"ann", "bob"}
    assert learned(store, "publish")[1] == {STAYS: 1}


@pytest.mark.parametrize(("unasked", "train", "publish"), [("local", 0, 0), ("train", 1, 0), ("publish", 1, 1)])
def test_who_is_never_asked_is_treated_as_the_setting_says(store, unasked, train, publish):
    chosen(store, "api-bob")
    assert len(learned(store, "train", unasked)[0]) == train and len(learned(store, "publish", unasked)[0]) == publish
    # Who is asked on the page allows nothing before the answer, whatever the setting.
    assert Consents(store, unasked).level("web-x") == "local"


def test_thumbs_edits_and_both_bad_are_kept_back_as_well(store):
    conversation = store.start_conversation(rater="ann")
    asked = store.add_message(conversation, parent=None, author="human", content="q")
    sides = [
        store.add_message(conversation, parent=asked, author="model", content=text, finish="stop") for text in "abc"
    ]
    store.rate(sides[0], rater="ann", value=1)
    store.edit(sides[1], rater="ann", content="better")
    store.compare(sides[1], sides[2], rater="ann", winner="both_bad", blind=True, shown_ms=1)
    store.set_consent("ann", "local")
    assert learned(store, "train") == (set(), {KEPT: 4}, set())


def test_consents_go_with_the_rater(store):
    chosen(store, "ann")
    store.set_consent("ann", "train")
    assert store.forget("ann")["consents"] == 1 and store.rows("SELECT * FROM consent") == []
