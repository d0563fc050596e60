"""Votes of the page's own routes, counted by hand as verdicts on checkpoints."""

import json

import pytest
from scipy import stats

from data.choices import read_choices
from pipeline.evaluation.standings import standings


@pytest.fixture
def talk(serve):
    """talk(one, other, verdict): a blind turn of two checkpoints, and the vote for the one named, or tie, both_bad, skip."""
    client = serve("an answer", comparison_share=1.0)

    def ask(one, other, verdict):
        body = {"model": one, "other_model": other, "text": "q", "compare": "auto"}
        events = client.post("/api/turn", json=body).text.split("\n\n")
        duel = json.loads(events[0].removeprefix("data: "))["duel"]["id"]
        # Drawn from left to right.
        sides = [checkpoint for checkpoint, _, _ in client.assistant.asked[-2:]]
        winner = ("left", "right")[sides.index(verdict)] if verdict in sides else verdict
        return client.post(f"/api/duels/{duel}", json={"winner": winner}).json()

    ask.client = client
    return ask


def test_wins_ties_and_both_bad_are_counted_and_nothing_else_is(talk, store):
    for verdict in ("ppo", "ppo", "sft", "tie", "ppo", "both_bad"):
        talk("ppo", "sft", verdict)
    withdrawn = talk("sft", "ppo", "ppo")["comparison"]
    assert talk.client.post(f"/api/comparisons/{withdrawn}/withdraw").status_code == 200
    talk("ppo", "sft", "skip")
    talk("ppo", "ppo", "left")
    # A second answer beside one that had been read with its name on it.
    start = json.loads(
        talk.client.post("/api/turn", json={"model": "ppo", "text": "q"}).text.split("\n\n")[0].removeprefix("data: ")
    )
    body = {"model": "sft", "question": start["question"], "against": start["answers"]["only"]}
    duel = json.loads(talk.client.post("/api/turn", json=body).text.split("\n\n")[0].removeprefix("data: "))["duel"]
    talk.client.post(f"/api/duels/{duel['id']}", json={"winner": "left"})

    found = standings(read_choices(store))
    (pair,) = found.pairs
    assert (pair.first, pair.second) == ("ppo", "sft")
    assert (pair.won, pair.lost, pair.tied, pair.both_bad, pair.people, pair.conversations) == (3, 1, 1, 1, 1, 6)
    assert pair.rate.value == pytest.approx((3 + 0.5 * 2) / 6)
    assert pair.p == pair.p_holm == pytest.approx(stats.binomtest(3, 4).pvalue)
    assert found.left_out == {
        "taken back": 1,
        "skipped": 1,
        "between two answers of one checkpoint": 1,
        "not blind: one of the answers had been read with its name on it": 1,
    }
    assert found.votes + sum(found.left_out.values()) == store.rows("SELECT count(*) FROM comparison")[0][0]


def test_what_stays_in_the_chat_decides_about_no_checkpoint(talk, store):
    talk("ppo", "sft", "ppo")
    assert len(read_choices(store).votes) == 1
    assert read_choices(store, unasked="local").left_out.total() == 1
    for level, counted in (("local", 0), ("train", 1)):
        store.set_consent("ann", level)
        assert len(read_choices(store, unasked="local").votes) == counted


def test_an_answer_that_was_stopped_is_no_verdict(talk, store):
    talk.client.assistant.finish = "stopped"
    talk("ppo", "sft", "ppo")
    found = read_choices(store)
    assert found.votes == () and found.left_out == {"on an answer that was stopped or failed": 1}
