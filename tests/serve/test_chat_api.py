"""The page's routes over a scripted assistant."""

import json
import secrets
import time

import pytest
from scripted import Scripted

from data.errors import UserError

TOKEN = secrets.token_urlsafe(24)


def turn(client, **body):
    said = client.post("/api/turn", json={"model": "ppo", **body})
    assert said.status_code == 200, said.text
    return [json.loads(line.removeprefix("data: ")) for line in said.text.split("\n\n") if line]


def text(events, side="only"):
    return "".join(e["text"] for e in events if e["type"] == "text" and e["side"] == side)


def whole(client, conversation):
    return client.get(f"/api/conversations/{conversation}").json()


def test_a_turn_streams_and_the_next_one_carries_it(serve):
    client = serve("one", "two")
    first = turn(client, text="q1", system_prompt="be brief")
    assert [e["type"] for e in first] == ["start", "text", "done", "end"] and text(first) == "one "
    assert first[2]["finish"] == "stop" and first[2]["tokens"] == 1
    start = first[0]
    turn(client, text="q2", conversation=start["conversation"], parent=start["answers"]["only"])
    said = [("system", "be brief"), ("user", "q1"), ("assistant", "one"), ("user", "q2")]
    assert client.assistant.asked[1][1] == said
    assert [m["content"] for m in whole(client, start["conversation"])["messages"]] == ["q1", "one ", "q2", "two "]


def test_retry_and_an_edited_question_make_siblings_and_destroy_nothing(serve):
    client = serve("one", "two", "three")
    start = turn(client, text="q1")[0]
    again = turn(client, question=start["question"], model="sft")[0]
    assert again["question"] == start["question"] and again["conversation"] == start["conversation"]
    turn(client, text="q1, better", conversation=start["conversation"])
    found = whole(client, start["conversation"])["messages"]
    assert [(m["content"], m["parent"], m["model"]) for m in found] == [
        ("q1", None, None),
        ("one ", start["question"], "ppo"),
        ("two ", start["question"], "sft"),
        ("q1, better", None, None),
        ("three ", found[3]["id"], "ppo"),
    ]


def test_an_edited_answer_is_a_demonstration_beside_it_and_the_talk_goes_on_from_it(serve, store):
    client = serve("one", "two")
    start = turn(client, text="q1")[0]
    edited = client.post("/api/edit", json={"original": start["answers"]["only"], "text": "mine"}).json()["id"]
    assert store.rows("SELECT message, original, rater FROM edit") == [(edited, start["answers"]["only"], "ann")]
    turn(client, text="q2", conversation=start["conversation"], parent=edited)
    assert client.assistant.asked[1][1][1] == ("assistant", "mine")
    assert client.post("/api/edit", json={"original": start["question"], "text": "x"}).status_code == 404


def test_a_duel_names_the_models_only_after_the_vote(serve, store):
    client = serve("one", "two", comparison_share=1.0)
    events = turn(client, text="q", compare="auto", other_model="sft")
    start = events[0]
    assert start["duel"]["blind"] and {text(events, "left"), text(events, "right")} == {"one ", "two "}
    assert "sft" not in json.dumps(events) and "ppo" not in json.dumps(events)
    said = client.post(f"/api/duels/{start['duel']['id']}", json={"winner": "left"}).json()
    # Drawn from left to right.
    assert list(said["models"].values()) == [checkpoint for checkpoint, _, _ in client.assistant.asked]
    assert sorted(said["models"].values()) == ["ppo", "sft"]
    assert store.rows("SELECT left_message, right_message, winner, blind, rater FROM comparison") == [
        (start["answers"]["left"], start["answers"]["right"], "left", 1, "ann")
    ]
    assert client.post(f"/api/duels/{start['duel']['id']}", json={"winner": "right"}).status_code == 404
    assert client.post(f"/api/comparisons/{said['comparison']}/withdraw").status_code == 200
    assert store.stats()["comparisons"] == 0
    assert client.post(f"/api/comparisons/{said['comparison']}/withdraw").status_code == 404


def test_who_reads_the_names_elsewhere_before_the_vote_does_not_choose_blind(serve, store):
    client = serve("one", "two", "three", "four", comparison_share=1.0)
    named, blind = (turn(client, text="q", compare="auto", other_model="sft")[0] for _ in range(2))
    assert {m["model"] for m in whole(client, named["conversation"])["messages"]} == {None, "ppo", "sft"}
    for start in (named, blind):
        assert client.post(f"/api/duels/{start['duel']['id']}", json={"winner": "left"}).status_code == 200
    assert store.rows("SELECT blind FROM comparison ORDER BY id") == [(0,), (1,)]


def test_the_candidate_stands_beside_the_assistant_in_service_and_beside_no_other(serve, store):
    def sides(*, model="ppo", candidate="sft", **body):
        client = serve("one", comparison_share=1.0, candidate=candidate)
        turn(client, model=model, text="q", compare="auto", **body)
        return sorted(checkpoint for checkpoint, _, _ in client.assistant.asked)

    assert sides() == ["ppo", "sft"]
    assert sides(candidate=None) == ["ppo", "ppo"]
    # Who asks somebody else, or names whom to compare with, gets that.
    assert sides(model="base") == ["base", "base"] and sides(other_model="base") == ["base", "ppo"]


def test_sides_are_shuffled_and_the_order_of_drawing_tells_nothing(serve):
    client = serve("a", comparison_share=1.0)
    drawn = []
    for _ in range(30):
        events = turn(client, text="q", compare="auto", other_model="sft")
        assert [e["side"] for e in events if e["type"] == "text"] == ["left", "right"]
        drawn.append(client.assistant.asked[-2][0])
    # All in one order by chance: 2 in 2^30.
    assert set(drawn) == {"ppo", "sft"}


def test_a_second_answer_beside_one_that_was_seen_is_a_comparison_but_not_blind(serve, store):
    client = serve("one", "two")
    start = turn(client, text="q")[0]
    events = turn(client, question=start["question"], against=start["answers"]["only"])
    assert {text(events, "left"), text(events, "right")} == {"one ", "two "}
    assert client.post(f"/api/duels/{events[0]['duel']['id']}", json={"winner": "both_bad"}).status_code == 200
    assert store.rows("SELECT winner, blind FROM comparison") == [("both_bad", 0)]


def test_a_duel_with_an_answer_that_never_came_takes_no_vote(serve, store):
    client = serve("one", RuntimeError("x"), "three", comparison_share=1.0)
    start = turn(client, text="q", compare="auto")[0]
    assert client.post(f"/api/duels/{start['duel']['id']}", json={"winner": "tie"}).status_code == 409
    assert store.stats()["comparisons"] == 0


def test_chance_decides_on_the_share_of_turns(serve):
    never, always = serve("a", comparison_share=0.0), serve("a", comparison_share=1.0)
    assert turn(never, text="q", compare="auto")[0]["duel"] is None
    assert turn(always, text="q", compare="auto")[0]["duel"] and turn(always, text="q")[0]["duel"] is None


def test_history_is_searched_and_votes_come_back_with_it(serve):
    client = serve("about cats", "about 100% dogs")
    cats, _ = turn(client, text="first\nquestion")[0], turn(client, text="second")
    client.post("/v1/feedback", json={"id": cats["answers"]["only"], "value": -1, "tags": ["unsafe"]})
    listed = client.get("/api/conversations").json()
    assert [c["title"] for c in listed] == ["second", "first question"] and listed[1]["messages"] == 2
    search = lambda word: [c["title"] for c in client.get("/api/conversations", params={"search": word}).json()]  # noqa: E731
    assert search("CATS") == ["first question"] and search("100%") == ["second"] and search("%") == ["second"]
    assert search("_") == [] and search("'; DROP TABLE message; --") == []
    answer = whole(client, cats["conversation"])["messages"][1]
    assert (answer["rating"], answer["tags"]) == (-1, ["unsafe"])


def test_nobody_reads_or_goes_on_with_the_talk_of_another(serve, store):
    client = serve("a", token=TOKEN)
    bearer = {"authorization": f"Bearer {TOKEN}"}
    said = client.post("/api/turn", json={"model": "ppo", "text": "q"}, headers=bearer)
    start = json.loads(said.text.split("\n\n")[0].removeprefix("data: "))
    assert client.post("/api/login", json={"token": "wrong"}).status_code == 401
    login = client.post("/api/login", json={"token": TOKEN})
    assert "HttpOnly" in login.headers["set-cookie"] and "samesite=strict" in login.headers["set-cookie"].lower()
    assert client.get("/api/conversations").json() == []
    assert client.get("/api/state").json()["rater"].startswith("web-")
    assert client.get(f"/api/conversations/{start['conversation']}").status_code == 404
    for body in (
        {"text": "q", "conversation": start["conversation"]},
        {"text": "q", "conversation": start["conversation"], "parent": start["answers"]["only"]},
        {"question": start["question"]},
        {"question": start["question"], "against": start["answers"]["only"]},
    ):
        assert client.post("/api/turn", json={"model": "ppo", **body}).status_code == 404
    assert client.post("/api/edit", json={"original": start["answers"]["only"], "text": "x"}).status_code == 404
    assert client.post("/api/stop", json={"answer": start["answers"]["only"]}).json() == {"stopped": False}
    assert store.stats()["answers"] == 1


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"text": "a", "question": "00000000-0000-0000-0000-000000000000"},
        {"text": "a", "parent": "00000000-0000-0000-0000-000000000000"},
        {"text": "a", "against": "00000000-0000-0000-0000-000000000000"},
        {"text": " "},
        {"text": "a", "temperature": 3.0},
        {"text": "a", "max_new_tokens": 5000},
        {"text": "a", "compare": "always"},
    ],
)
def test_a_turn_of_a_wrong_shape_is_422_and_keeps_nothing(serve, store, body):
    assert serve().post("/api/turn", json={"model": "ppo", **body}).status_code == 422
    assert store.stats()["conversations"] == 0


def test_a_full_queue_is_told_and_the_other_half_of_the_duel_is_given_up(serve):
    client = serve("a", comparison_share=1.0, queue_limit=2)
    taken = client.app.state.context.desk.queue
    taken._line._limit = 0
    said = client.post("/api/turn", json={"model": "ppo", "text": "q", "compare": "auto"})
    assert said.status_code == 429 and "retry-after" in said.headers and taken.waiting == 0


def test_stop_before_the_turn_ends_the_stream_with_nothing_kept(serve, store):
    import threading

    assistant = Scripted("HOLD one", "two")
    client = serve(assistant=assistant, batch_rows=1)
    context = client.app.state.context
    first = threading.Thread(target=turn, args=(client,), kwargs={"text": "q1"})
    first.start()
    assert assistant.held.wait(10)
    got = []
    second = threading.Thread(target=lambda: got.extend(turn(client, text="q2")))
    second.start()
    while context.desk.queue.waiting < 1:
        time.sleep(0.001)
    (waiting,) = [t for own in context.desk.queue._line._waiting.values() for t in own]
    answer = waiting.work.draw.id
    while not client.post("/api/stop", json={"answer": answer}).json()["stopped"]:
        pass
    second.join(10)
    assistant.release.set()
    first.join(10)
    assert got[-2]["finish"] == "stopped" and got[-2]["tokens"] == 0 and store.stats()["answers"] == 1


def test_a_conversation_is_deleted_with_all_that_was_said_of_it_and_no_other(serve, store):
    client = serve("a secret", "another secret", "kept", comparison_share=0.0)
    start = turn(client, text="a secret question")[0]
    doomed, answer = start["conversation"], start["answers"]["only"]
    again = turn(client, question=start["question"], against=answer)[0]
    client.post(f"/api/duels/{again['duel']['id']}", json={"winner": "left"})
    client.post("/v1/feedback", json={"id": answer, "value": -1, "comment": "a secret comment"})
    client.post("/api/edit", json={"original": answer, "text": "a secret wording"})
    other = turn(client, text="q")[0]
    client.post("/v1/feedback", json={"id": other["answers"]["only"], "value": 1})
    store.log_export("out.jsonl", "abc", ["ann"])
    assert client.delete(f"/api/conversations/{doomed}").json() == {"deleted": doomed, "exports": 1}
    assert client.delete(f"/api/conversations/{doomed}").status_code == 404
    assert [c["id"] for c in client.get("/api/conversations").json()] == [other["conversation"]]
    counted = {"conversations": 1, "answers": 1, "up": 1, "down": 0, "comparisons": 0, "wordings": 0}
    assert store.stats() == counted and store.rows("PRAGMA foreign_key_check") == []
    for file in store.path.parent.iterdir():
        assert b"secret" not in file.read_bytes(), file


def test_nobody_deletes_another_persons_conversation(serve, store):
    theirs = store.start_conversation(rater="bob")
    store.add_message(theirs, parent=None, author="human", content="q")
    client = serve("a")
    assert client.delete(f"/api/conversations/{theirs}").status_code == 404
    assert client.delete(f"/api/conversations/{theirs}", headers={"origin": "https://evil.example"}).status_code == 403
    assert store.stats()["conversations"] == 1


def test_consent_is_asked_of_each_of_several_and_not_at_home(serve, store):
    home = serve("a")
    assert home.get("/api/state").json()["consent"] == {"level": "publish", "ask": False}
    assert home.post("/api/consent", json={"level": "local"}).json() == {"level": "local"}
    assert home.get("/api/state").json()["consent"] == {"level": "local", "ask": False}
    several = serve("a", token=TOKEN, consent="train")
    several.post("/api/login", json={"token": TOKEN})
    assert several.get("/api/state").json()["consent"] == {"level": "local", "ask": True}
    assert several.post("/api/consent", json={"level": "publish"}).status_code == 200
    assert several.get("/api/state").json()["consent"] == {"level": "publish", "ask": False}
    assert several.post("/api/consent", json={"level": "everything"}).status_code == 422
    bearer = {"authorization": f"Bearer {TOKEN}"}
    several.cookies.clear()
    # The person at the server's own machine said local above.
    assert several.get("/api/state", headers=bearer).json()["consent"] == {"level": "local", "ask": False}
    assert [level for (level,) in store.rows("SELECT level FROM consent ORDER BY id")] == ["local", "publish"]


def test_a_full_disk_is_the_servers_trouble_and_its_paths_are_nobodys(serve, store, monkeypatch, caplog):
    def refuse(*args, **kwargs):
        raise UserError(f"{store.path}: not saved: database or disk is full.")

    client = serve("one")
    asked = {"model": "ppo", "messages": [{"role": "user", "content": "hi"}]}
    answer = client.post("/v1/chat/completions", json=asked).json()["id"]
    monkeypatch.setattr(store, "rate", refuse)
    said = client.post("/v1/feedback", json={"id": answer, "value": 1})
    assert said.status_code == 503 and said.headers["retry-after"] and "sqlite" not in said.text
    monkeypatch.setattr(store, "add_model", refuse)
    whole = client.post("/v1/chat/completions", json=asked)
    assert whole.status_code == 500 and "could not be kept" in whole.text and "sqlite" not in whole.text
    assert caplog.text.count("disk is full") == 2
