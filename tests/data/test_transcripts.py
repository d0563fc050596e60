"""Where a conversation stands, by trees written down by hand."""

import random
from types import SimpleNamespace

import pytest

from data.feedback import FeedbackStore
from data.records import Message
from data.transcripts import conversations, messages_to, stands_at


def tree(*edges):
    """Nodes in the order in which they were written: "q1", "q1>a1" for a1 under q1."""
    nodes = []
    for edge in edges:
        parent, _, own = edge.rpartition(">")
        nodes.append(SimpleNamespace(id=own, parent=parent or None))
    return nodes


def way(nodes, *made):
    return " ".join(node.id for node in stands_at(nodes, [(n, "?", *one) for n, one in enumerate(made, start=1)]))


@pytest.mark.parametrize(
    ("edges", "made", "expected"),
    [
        ((), (), ""),
        (("q",), (), "q"),
        (("q", "q>a", "q>b"), (), "q b"),
        # Retried, then gone back to the first answer and on from it: that is where the talk stands.
        (("q", "q>a", "q>b", "a>q2", "q2>c"), (), "q a q2 c"),
        (("q", "q>a", "q>b", "a>q2", "q2>c", "q>d"), (), "q d"),
        # A question in other words.
        (("q", "q>a", "r", "r>b"), (), "r b"),
        # The better one, not the one that was written last; of equals the left one.
        (("q", "q>a", "q>b"), (("a", "b", "left"),), "q a"),
        (("q", "q>a", "q>b"), (("b", "a", "right"),), "q a"),
        (("q", "q>a", "q>b"), (("a", "b", "right"),), "q b"),
        (("q", "q>a", "q>b"), (("a", "b", "tie"),), "q a"),
        (("q", "q>a", "q>b"), (("a", "b", "both_bad"),), "q a"),
        # A choice made anew counts, and one about answers from before does not.
        (("q", "q>a", "q>b"), (("a", "b", "left"), ("a", "b", "right")), "q b"),
        (("q", "q>a", "q>b", "q>c"), (("a", "b", "left"),), "q c"),
        (("q", "q>a", "q>b", "q>c"), (("a", "b", "left"), ("c", "a", "right")), "q a"),
        # What had followed the better one follows it still.
        (("q", "q>a", "a>q2", "q2>c", "q>b"), (("a", "b", "left"),), "q a q2 c"),
    ],
)
def test_where_a_conversation_stands(edges, made, expected):
    assert way(tree(*edges), *made) == expected


def test_without_choices_it_is_always_the_chain_that_ends_in_the_newest_message():
    draw = random.Random()
    for _ in range(50):
        nodes = tree(*(f"{draw.randrange(n)}>{n}" if n and draw.random() < 0.9 else str(n) for n in range(12)))
        found = stands_at(nodes, [])
        assert found[0].parent is None and found[-1].id == "11"
        assert [node.parent for node in found[1:]] == [node.id for node in found[:-1]]


def test_what_the_model_is_shown_is_one_way_through_the_tree(tmp_path):
    store = FeedbackStore.open(tmp_path / "f.sqlite")
    talk = store.start_conversation(rater="ann", system_prompt="be brief")
    add = lambda parent, author, text: store.add_message(talk, parent=parent, author=author, content=text)  # noqa: E731
    first = add(None, "human", "q1")
    add(first, "model", "not shown")
    answer = add(first, "human-edit", " mine ")
    question = add(answer, "human", "q2")
    assert messages_to(store, talk, question) == (
        Message("system", "be brief"),
        Message("user", "q1"),
        Message("assistant", "mine"),
        Message("user", "q2"),
    )
    store.close()


def test_all_conversations_are_listed_unless_a_limit_is_asked_for(tmp_path):
    store = FeedbackStore.open(tmp_path / "f.sqlite")
    with store.together():
        for n in range(230):
            talk = store.start_conversation(rater="ann")
            store.add_message(talk, parent=None, author="human", content=f"question {n}, 100% sure_")
    assert [c.title[:12] for c in conversations(store, "ann", limit=2)] == ["question 229", "question 228"]
    assert len(conversations(store, "ann")) == 230 and conversations(store, "bob") == []
    # Signs that mean something to LIKE mean themselves.
    assert len(conversations(store, "ann", search="0% sure_")) == 230
    assert conversations(store, "ann", search="1_0") == [] and len(conversations(store, "ann", search="n 17,")) == 1
    store.close()
