"""Rows as Open WebUI and FastChat write them, made here after the code that writes them.

Open WebUI: `feedbackHandler` of the page builds a feedback, `models/feedbacks.py` stores it, and the export is the list of all rows.
FastChat: `vote_last_response` of the arenas and of the single chat appends a line; a state is `Conversation.dict()` and two names.
"""

import json

import pytest

from data.errors import UserError
from data.feedback import FeedbackStore
from data.imports import import_votes


@pytest.fixture
def brought(tmp_path):
    """brought("fastchat", rows): the store after the import, and what the import says of it."""
    store = FeedbackStore.open(tmp_path / "feedback.sqlite")

    def bring(kind, rows):
        lines = kind == "fastchat"
        file = tmp_path / "out.json"
        file.write_text("\n".join(map(json.dumps, rows)) if lines else json.dumps(rows), encoding="utf-8")
        return store, import_votes(store, kind, file)

    yield bring
    store.close()


def webui(rating, answers, *, rated=0, arena=False, annotation=None, **more):
    """One feedback on answer `rated` of (model, text), side by side under one question."""
    history = {"q": {"id": "q", "parentId": None, "childrenIds": [], "role": "user", "content": "Which tea?"}}
    for number, (model, text) in enumerate(answers):
        name = {"model": "arena-model", "selectedModelId": model, "arena": True} if arena else {"model": model}
        message = {"id": f"a{number}", "parentId": "q", "childrenIds": [], "role": "assistant", "content": text}
        history[f"a{number}"] = {**message, "done": True, "modelIdx": number, **name}
        history["q"]["childrenIds"].append(f"a{number}")
    mine = history[f"a{rated}"]
    data = {"rating": rating, **(annotation or {}), "model_id": answers[rated][0]}
    if len(answers) > 1:
        data["sibling_model_ids"] = [model for number, (model, _) in enumerate(answers) if number != rated]
    meta = {"arena": arena, "model_id": mine["model"], "message_id": mine["id"], "message_index": 2, "chat_id": "c"}
    chat = {"id": "c", "user_id": "u", "title": "Tea", "chat": {"models": [], "history": {"messages": history}}}
    times = {"created_at": 1, "updated_at": 2}
    base = {"id": "f", "user_id": "u", "version": 0, "type": "rating", "meta": {**meta, "base_models": {}}}
    return {**base, "data": data, "snapshot": {"chat": chat}, **times, **more}


def choices(store):
    return store.rows(
        """SELECT l.content, a.stage, r.content, b.stage, c.winner FROM comparison c
           JOIN message l ON l.id = c.left_message JOIN model a ON a.id = l.model
           JOIN message r ON r.id = c.right_message JOIN model b ON b.id = r.model ORDER BY c.id"""
    )


TWO = [("small", "Black."), ("large", "Green.")]


@pytest.mark.parametrize("arena", [False, True])
@pytest.mark.parametrize(("rating", "winner"), [(1, "left"), (-1, "right"), (0, "tie"), ("1", "left"), ("0", "tie")])
def test_a_rating_beside_other_answers_is_a_choice_also_in_an_arena(brought, arena, rating, winner):
    store, done = brought("open-webui", [webui(rating, TWO, arena=arena)])
    assert done.votes == 1 and choices(store) == [("Black.", "small", "Green.", "large", winner)]


def test_every_other_answer_was_beaten(brought):
    store, _ = brought("open-webui", [webui(1, [*TWO, ("huge", "White.")], rated=2)])
    assert choices(store) == [
        ("White.", "huge", "Black.", "small", "left"),
        ("White.", "huge", "Green.", "large", "left"),
    ]


def test_a_thumb_keeps_its_words_and_topics(brought):
    more = {"reason": "too_verbose", "comment": "long", "tags": ["tea"], "details": {"rating": 3}}
    store, _ = brought("open-webui", [webui("-1", [TWO[0]], annotation=more)])
    assert store.rows("SELECT value, tags, comment FROM rating") == [(-1, '["tea", "too_verbose"]', "long")]


def test_thoughts_that_were_folded_away_are_no_part_of_the_answer(brought):
    thought = '<details type="reasoning" done="true" duration="3">\n<summary>Thought</summary>\n&gt; hm\n</details>\n'
    store, _ = brought("open-webui", [webui(1, [("small", thought + "Black.")])])
    assert store.rows("SELECT content FROM message WHERE author = 'model'") == [("Black.",)]
    _, done = brought("open-webui", [webui(1, [("small", thought)], id="g")])
    assert done.left_out == {"conversations with an empty turn": 1}


def test_what_holds_no_vote_is_counted_and_what_is_no_rating_is_told(brought):
    rows = [
        webui(None, [TWO[0]]),
        webui(0, [TWO[0]], id="draw"),
        webui(1, TWO, id="bare", snapshot=None),
        webui(1, TWO, id="empty", data=None),
    ]
    _, done = brought("open-webui", rows)
    assert (done.votes, done.left_out) == (
        0,
        {"rows without a rating": 2, "draws without another answer": 1, "ratings without their conversation": 1},
    )
    with pytest.raises(UserError, match="row 1: rating is 5, expected 1, 0 or -1"):
        brought("open-webui", [webui(5, TWO)])


def state(answer, model="small", **more):
    talk = {"template_name": "one_shot", "system_message": "", "roles": ["Human", "Assistant"], "offset": 2}
    messages = [["Human", "shown"], ["Assistant", "before"], ["Human", "Which tea?"], ["Assistant", answer]]
    return {**talk, "messages": messages, "conv_id": f"c-{model}", "model_name": model, **more}


def vote(kind, *states, at=1.5):
    one = {"state": states[0], "model": states[0]["model_name"]}
    two = {"models": ["", ""], "states": list(states)}
    return {"tstamp": at, "type": kind, **(one if len(states) == 1 else two), "ip": "192.0.2.1"}


@pytest.mark.parametrize(
    ("kind", "winner"), [("leftvote", "left"), ("rightvote", "right"), ("tievote", "tie"), ("bothbad_vote", "both_bad")]
)
def test_each_vote_of_an_arena(brought, kind, winner):
    store, done = brought("fastchat", [vote(kind, state("Black."), state("Green.", "large"))])
    assert done.votes == 1 and choices(store) == [("Black.", "small", "Green.", "large", winner)]
    # What stands before the offset is the template's.
    assert store.rows("SELECT content FROM message WHERE author = 'human'") == [("Which tea?",)]


def test_single_votes_flags_errors_and_answers_that_never_came(brought):
    rows = [
        vote("upvote", state("Black.")),
        vote("flag", state("Black.")),
        vote("downvote", state(None), at=2),
        vote("downvote", state("**NETWORK ERROR DUE TO HIGH TRAFFIC. PLEASE REGENERATE OR REFRESH THIS PAGE.**"), at=3),
        vote("leftvote", state("$MODERATION$ YOUR INPUT …"), state("Green.", "large"), at=4),
        vote(
            "upvote", state("Seen.", messages=[["Human", ["Look", ["image"]]], ["Assistant", "Seen."]], offset=0), at=5
        ),
    ]
    store, done = brought("fastchat", rows)
    assert store.rows("SELECT value FROM rating") == [(1,)]
    assert done.left_out == {
        "lines of type 'flag'": 1,
        "conversations without an answer": 1,
        "conversations with an error of the server for an answer": 2,
        "conversations with more than text": 1,
    }


def line(number: int, ip: str) -> dict:
    """The `number`th vote, up, of somebody at an address."""
    return {**vote("upvote", state("Black.")), "state": {**state(f"Black {number}."), "conv_id": f"c{number}"}, "ip": ip}


def raters(store) -> dict[str, str]:
    """Answer → who voted on it."""
    return dict(store.rows("SELECT m.content, r.rater FROM rating r JOIN message m ON m.id = r.message"))


def test_people_of_two_logs_are_not_taken_for_one(brought):
    """Each file has its own first address; before, both were fastchat-1."""
    brought("fastchat", [line(1, "203.0.113.1"), line(2, "203.0.113.2")])
    store, _ = brought("fastchat", [line(3, "203.0.113.3"), line(4, "203.0.113.3"), line(5, "203.0.113.4")])
    found = raters(store)
    assert found["Black 3."] == found["Black 4."] and len(set(found.values())) == 4
    assert sorted(set(found.values())) == [f"fastchat-{n}" for n in (1, 2, 3, 4)]


def test_a_log_that_has_grown_tells_who_is_who_by_the_votes_that_are_known(brought):
    brought("fastchat", [line(0, "203.0.113.9")])
    brought("fastchat", [line(1, "203.0.113.1"), line(2, "203.0.113.2")])
    # Its beginning was cut off, as where logs are rotated: the order of the addresses is another.
    store, done = brought("fastchat", [line(2, "203.0.113.2"), line(3, "203.0.113.1"), line(1, "203.0.113.1"), line(4, "203.0.113.5")])
    found = raters(store)
    assert (done.votes, done.known) == (2, 2)
    assert found["Black 3."] == found["Black 1."] != found["Black 2."]
    assert found["Black 4."] == "fastchat-4" and len(set(found.values())) == 4
