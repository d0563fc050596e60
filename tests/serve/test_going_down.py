"""A server that is told to end: whoever listens hears how far the answer came, and nobody waits for it."""

import json
import threading
import time
from urllib.request import Request, urlopen

import pytest
from scripted import Scripted

from pipeline.serve.app import create_app
from pipeline.serve.server import _quiet, _Server
from pipeline.serve.settings import ServeSettings


def started(app):
    """A server of that app in a thread of its own, on a port that was free."""
    server = _Server(_quiet(app))
    server.config.port = 0
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        thread.join(0.01)
    return server, thread, server.servers[0].sockets[0].getsockname()[1]


@pytest.mark.parametrize(
    ("path", "body", "ending"),
    [
        ("api/turn", {"model": "ppo", "text": "hi"}, {"type": "done", "side": "only", "finish": "stopped"}),
        (
            "v1/chat/completions",
            {"model": "ppo", "stream": True, "messages": [{"role": "user", "content": "hi"}]},
            None,
        ),
    ],
)
def test_an_answer_under_way_is_ended_told_and_kept(store, path, body, ending):
    assistant = Scripted("one two HOLD never")
    server, thread, port = started(create_app(assistant, store, ServeSettings(port=0)))
    asked = Request(
        f"http://127.0.0.1:{port}/{path}", json.dumps(body).encode(), headers={"content-type": "application/json"}
    )
    with urlopen(asked, timeout=10) as answer:
        assert assistant.held.wait(10)
        server.should_exit = True
        # The answer is never released: without the end this waits for the grace of five seconds, and the stream is cut in its middle.
        heard = [line.decode().removeprefix("data: ").strip() for line in answer if line.strip()]
    thread.join(10)
    if ending:
        assert ending.items() <= json.loads(heard[-2]).items() and json.loads(heard[-1]) == {"type": "end"}
    else:
        assert heard[-1] == "[DONE]"
    assert store.rows("SELECT content, finish FROM message WHERE author = 'model'") == [("one two ", "stopped")]


def test_who_waits_for_a_turn_is_told_that_it_does_not_come(store):
    assistant = Scripted("one HOLD never")
    app = create_app(assistant, store, ServeSettings(port=0, batch_rows=1))
    server, thread, port = started(app)

    def turn():
        body = json.dumps({"model": "ppo", "text": "hi"}).encode()
        return urlopen(Request(f"http://127.0.0.1:{port}/api/turn", body, {"content-type": "application/json"}), timeout=10)

    with turn() as drawn:
        assert assistant.held.wait(10)
        with turn() as waits:
            while not app.state.context.desk.queue.waiting:
                thread.join(0.01)
            begun = time.monotonic()
            server.should_exit = True
            heard = [json.loads(line.decode().removeprefix("data: ")) for line in waits if line.strip()]
        drawn.read()
    thread.join(10)
    # Well below the grace of five seconds, after which the connection would be cut without a word.
    assert time.monotonic() - begun < 4
    assert [event["type"] for event in heard[-2:]] == ["failed", "end"] and "going down" in heard[-2]["message"]
