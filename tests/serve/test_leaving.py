"""A client that goes away takes its answer with it, and a full queue sends clients away."""

import asyncio
import json

import pytest
from scripted import Scripted

from pipeline.serve.app import create_app
from pipeline.serve.settings import ServeSettings

ASK = {"model": "ppo", "messages": [{"role": "user", "content": "hi"}]}


async def post(app, body, gone: asyncio.Event):
    """One POST to the application itself, of a client that leaves when `gone` is set. Returns what was sent."""
    sent, begun = [], False

    async def receive():
        nonlocal begun
        if not begun:
            begun = True
            return {"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    headers = [(b"host", b"127.0.0.1"), (b"content-type", b"application/json")]
    await app(
        {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": "/v1/chat/completions",
            "raw_path": b"/v1/chat/completions",
            "query_string": b"",
            "root_path": "",
            "headers": headers,
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 8000),
        },
        receive,
        send,
    )
    return sent


def app_with(assistant, store, **settings):
    return create_app(assistant, store, ServeSettings(**settings))


@pytest.mark.parametrize("stream", [True, False])
def test_who_leaves_stops_the_model_and_what_was_said_is_kept(store, stream):
    assistant = Scripted("one two HOLD never")
    app = app_with(assistant, store)

    async def leave_in_the_middle():
        gone = asyncio.Event()
        request = asyncio.create_task(post(app, {**ASK, "stream": stream}, gone))
        await asyncio.to_thread(assistant.held.wait, 10)
        gone.set()
        await asyncio.wait_for(request, 10)

    asyncio.run(leave_in_the_middle())
    app.state.context.desk.queue.close()
    app.state.context.store.close()
    assert assistant.ended == ["stopped"]
    assert store.rows("SELECT content, finish FROM message WHERE author = 'model'") == [("one two ", "stopped")]


def test_who_leaves_while_waiting_is_never_drawn_for(store):
    assistant = Scripted("HOLD first", "second")
    app = app_with(assistant, store, batch_rows=1)

    async def leave_the_queue():
        staying, gone = asyncio.Event(), asyncio.Event()
        first = asyncio.create_task(post(app, ASK, staying))
        await asyncio.to_thread(assistant.held.wait, 10)
        gone.set()
        await asyncio.wait_for(post(app, ASK, gone), 10)
        assistant.release.set()
        await asyncio.wait_for(first, 10)

    asyncio.run(leave_the_queue())
    app.state.context.desk.queue.close()
    app.state.context.store.close()
    assert len(assistant.asked) == 1 and store.stats()["answers"] == 1


def test_a_full_queue_is_429_and_says_when_to_come_back(store):
    assistant = Scripted("HOLD first", "second")
    app = app_with(assistant, store, queue_limit=2, batch_rows=1)

    async def crowd():
        gone = asyncio.Event()
        first = asyncio.create_task(post(app, ASK, gone))
        await asyncio.to_thread(assistant.held.wait, 10)
        # Half of two places: the second of one client waits, the third is one too many.
        second = asyncio.create_task(post(app, ASK, gone))
        third = asyncio.create_task(post(app, ASK, gone))
        done, _ = await asyncio.wait({second, third}, return_when=asyncio.FIRST_COMPLETED, timeout=10)
        assistant.release.set()
        await asyncio.wait_for(asyncio.gather(first, second, third), 10)
        return next(iter(done)).result()

    refused = asyncio.run(crowd())
    app.state.context.desk.queue.close()
    app.state.context.store.close()
    assert refused[0]["status"] == 429 and int(dict(refused[0]["headers"])[b"retry-after"]) >= 1


def test_an_answer_that_takes_too_long_is_cut_off(store):
    app = app_with(Scripted("one HOLD two"), store, answer_seconds=1e-9)
    sent = asyncio.run(post(app, ASK, asyncio.Event()))
    app.state.context.desk.queue.close()
    app.state.context.store.close()
    assert json.loads(sent[1]["body"])["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize("rows", [1, 8])
def test_thirty_two_talks_at_once_are_all_answered_in_turns(store, rows):
    # As many as can be drawn at a time are held until all the others wait.
    assistant = Scripted(*["HOLD go"] * rows, "a few words")
    app = app_with(assistant, store, batch_rows=rows)

    async def crowd():
        gone = asyncio.Event()
        queue = app.state.context.desk.queue
        held = [asyncio.create_task(post(app, {**ASK, "user": f"holder{n}"}, gone)) for n in range(rows)]
        while queue.running < rows:
            await asyncio.sleep(0.001)
        talks = [
            asyncio.create_task(post(app, {**ASK, "user": f"u{n % 8}", "messages": [said(n % 8, n // 8)]}, gone))
            for n in range(32)
        ]
        while queue.waiting < 32:
            await asyncio.sleep(0.001)
        assistant.release.set()
        return await asyncio.gather(*held, *talks)

    sent = asyncio.run(crowd())
    app.state.context.desk.queue.close()
    app.state.context.store.close()
    assert all(messages[0]["status"] == 200 for messages in sent) and store.stats()["answers"] == 32 + rows
    assert assistant.most == rows
    people = [messages[0][1].split()[0] for _, messages, _ in assistant.asked[rows:]]
    # In every round of eight, each person had one turn.
    assert all(len(set(people[n : n + 8])) == 8 for n in range(0, 32, 8))


def test_an_answer_that_fails_in_the_middle_takes_no_other_with_it(store):
    assistant = Scripted("HOLD FAIL", "HOLD one two")
    app = app_with(assistant, store)

    async def two():
        gone = asyncio.Event()
        both = [asyncio.create_task(post(app, ASK, gone)) for _ in range(2)]
        while app.state.context.desk.queue.running < 2:
            await asyncio.sleep(0.001)
        assistant.release.set()
        return await asyncio.gather(*both)

    sent = asyncio.run(two())
    app.state.context.desk.queue.close()
    app.state.context.store.close()
    assert sorted(messages[0]["status"] for messages in sent) == [200, 500]
    assert store.rows("SELECT content, finish FROM message WHERE author = 'model'") == [("one two ", "stop")]


def said(person, turn):
    return {"role": "user", "content": f"person{person} turn{turn}"}
