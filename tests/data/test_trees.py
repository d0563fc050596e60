"""A tree of messages gives the rankings and demonstrations that a reader of the drawing below would write down."""

import json
import warnings
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.errors import UserError
from data.loading import load, load_counted
from data.trees import demonstrations, rankings


def said(text, *replies, rank=None, role=None, **more):
    return {"message_id": f"id-{text}", "text": text, "role": role, "rank": rank, "replies": list(replies), **more}


def roles_given(node, role="prompter"):
    """Speakers take turns, so that the fixtures need not say who speaks."""
    node["role"] = node["role"] or role
    for reply in node["replies"]:
        roles_given(reply, "assistant" if role == "prompter" else "prompter")
    return node


def tree():
    """
    q ─ a0 (best) ─ q1 ─ b (alone)
      │            └ q2 ─ c, d (no ranks)
      ├ a1 (second) ─ q3 ─ e0 (best), e1 (second), e2 (no rank)
      ├ a1' (second too)
      └ a3 (deleted) ─ q4 ─ f (alone)
    """
    return {
        "message_tree_id": "t",
        "tree_state": "ready_for_export",
        "prompt": roles_given(
            said(
                "q",
                said("a1", said("q3", said("e1", rank=1), said("e0", rank=0), said("e2")), rank=1),
                said("a0", said("q1", said("b")), said("q2", said("c"), said("d")), rank=0),
                said("a1'", rank=1),
                said("a3", said("q4", said("f")), rank=3, deleted=True),
            )
        ),
    }


def test_every_question_with_two_ranked_answers_is_a_ranking():
    found = rankings(tree(), "row")
    assert [(r.id, r.responses, r.ranks) for r in found.records] == [
        ("id-q", ("a1", "a0", "a1'"), (1, 0, 1)),
        ("id-q3", ("e1", "e0"), (1, 0)),
    ]
    assert [m.content for m in found.records[1].prompt] == ["q", "a1", "q3"]


def test_what_a_ranking_leaves_out_is_counted():
    # Without a rank: e2, b, c, d. Questions with fewer than two ranks: q1 and q2. Deleted: a3.
    assert rankings(tree(), "row").left_out == {
        "answers without a rank": 4,
        "questions with fewer than two ranked answers": 2,
        "messages deleted or turned down in review, with what follows them": 1,
    }


def test_only_best_answers_lead_to_a_demonstration():
    found = demonstrations(tree(), "row")
    said = [([m.content for m in d.prompt], d.response) for d in found.records]
    # q3 hangs on the second-best answer; q2 has two answers that nobody ranked.
    assert said == [(["q"], "a0"), (["q", "a0", "q1"], "b")]
    assert found.left_out["questions with several answers and no best one"] == 1


def test_two_best_answers_are_a_tie_and_no_demonstration():
    row = {"prompt": roles_given(said("q", said("a", rank=0), said("b", rank=0)))}
    (ranking,) = rankings(row, "row").records
    assert ranking.ranks == (0, 0)
    assert demonstrations(row, "row").records == ()


def test_a_tree_deeper_than_python_can_call_is_read():
    node = said("end")
    for number in range(3000):
        node = said(f"m{number}", node)
    # 3,001 messages speak in turn, so the last answer is the 3,000th and 2,999 turns lead to it.
    last = demonstrations({"prompt": roles_given_slowly(node)}, "row").records[-1]
    assert len(last.prompt) == 2999


def roles_given_slowly(node):
    role, here = "prompter", node
    while here:
        here["role"], role = role, "assistant" if role == "prompter" else "prompter"
        here = here["replies"][0] if here["replies"] else None
    return node


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda t: t.pop("prompt"), "no field 'prompt'"),
        (lambda t: t.update(prompt="q"), "prompt is text, expected a message"),
        (lambda t: t["prompt"].update(role="assistant"), "prompt: role 'assistant', expected 'prompter'"),
        (lambda t: t["prompt"]["replies"][1].update(role="prompter"), r"prompt\.2: role 'prompter', expected 'assist"),
        (lambda t: t["prompt"]["replies"][0].update(text=None), r"prompt\.1: content is null"),
        (lambda t: t["prompt"]["replies"][0].pop("text"), "no field 'text'"),
        (lambda t: t["prompt"]["replies"][0].update(rank="0"), r"prompt\.1\.rank is '0', expected a whole number"),
        (lambda t: t["prompt"]["replies"][0].update(replies={}), r"prompt\.1\.replies is an object, expected a list"),
    ],
)
@pytest.mark.parametrize("name", ["oasst_rankings", "oasst_demonstrations"])
def test_a_broken_tree_says_where(tmp_path, change, problem, name):
    broken = tree()
    change(broken)
    (tmp_path / "t.jsonl").write_text(json.dumps(broken) + "\n")
    with pytest.raises(UserError, match=problem) as caught:
        load(tmp_path / "t.jsonl", name)
    assert caught.value.problems[0].startswith(f"{tmp_path}/t.jsonl row 1: ")


def test_counts_are_those_of_all_rows(tmp_path):
    rows = [tree(), {**json.loads(json.dumps(tree()).replace("id-", "other-"))}]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    loaded = load_counted(tmp_path / "t.jsonl", "oasst_rankings")
    assert len(loaded.records) == 4 and loaded.left_out["answers without a rank"] == 8


def test_a_file_of_trees_that_give_nothing_is_refused(tmp_path):
    (tmp_path / "t.jsonl").write_text(json.dumps({"prompt": roles_given(said("q", said("a")))}) + "\n")
    with pytest.raises(UserError, match="no row gives a record .1 answers without a rank; 1 questions"):
        load(tmp_path / "t.jsonl", "oasst_rankings")


values = st.none() | st.booleans() | st.integers() | st.text(max_size=5)
nodes = st.recursive(
    values | st.fixed_dictionaries({"text": st.text(max_size=5), "role": st.sampled_from(["prompter", "assistant"])}),
    lambda inner: st.fixed_dictionaries(
        {"text": st.text(max_size=5) | values, "role": st.sampled_from(["prompter", "assistant", 3])},
        optional={"rank": values, "replies": st.lists(inner, max_size=3) | values, "message_id": values},
    ),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(nodes, st.sampled_from([demonstrations, rankings]))
def test_any_tree_gives_records_or_a_reason(node, parse):
    try:
        assert isinstance(parse({"prompt": node}, "row").records, tuple)
    except ValueError as error:
        assert len(str(error).splitlines()) == 1 and str(error).encode()


REAL = Path(__file__).resolve().parents[3] / "shared" / "data"


def test_the_rankings_of_real_trees_are_those_that_others_drew_from_them():
    """Beside the trees lie the rankings that another program took out of them."""
    if not (REAL / "oasst_trees.jsonl").is_file():
        warnings.warn(
            "the real trees do not lie beside the checkout: oasst_rankings was not tried on them", stacklevel=1
        )
        pytest.skip("no oasst_trees.jsonl beside the checkout")
    ours = {r.id: r for r in load(REAL / "oasst_trees.jsonl", "oasst_rankings")}
    lines = (REAL / "oasst_rankings.jsonl").read_text(encoding="utf-8").split("\n")
    theirs = {row["message_id"]: row for row in map(json.loads, filter(None, lines))}
    assert len(theirs) == 139
    assert {name: dict(zip(r.responses, r.ranks, strict=True)) for name, r in ours.items()} == {
        name: dict(zip(t["responses"], t["ranks"], strict=True)) for name, t in theirs.items()
    }
    assert all(
        [{"role": m.role, "content": m.content} for m in r.prompt] == theirs[r.id]["prompt"] for r in ours.values()
    )


def test_real_trees_have_a_demonstration_for_each_question_on_a_best_path():
    real = REAL / "oasst_trees.jsonl"
    if not real.is_file():
        warnings.warn("the real trees do not lie beside the checkout: their best paths were not tried", stacklevel=1)
        pytest.skip("no oasst_trees.jsonl beside the checkout")

    def count(question):
        replies = question["replies"]
        best = replies if len(replies) == 1 else [r for r in replies if r.get("rank") == 0]
        return sum(1 + sum(count(next_question) for next_question in r["replies"]) for r in best)

    trees = [json.loads(line) for line in real.read_text(encoding="utf-8").split("\n") if line]
    assert len(load(real, "oasst_demonstrations")) == sum(count(t["prompt"]) for t in trees)


def test_one_ranked_answer_beside_an_unranked_one_is_no_ranking():
    row = {"prompt": roles_given(said("q", said("a", rank=0), said("b")))}
    assert rankings(row, "row").records == ()
    assert [d.response for d in demonstrations(row, "row").records] == ["a"]
