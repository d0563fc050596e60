"""Who gets in: host, origin, token; what is too big, too strange or too secret."""

import json
import logging
import secrets

import pytest

from data.errors import UserError
from pipeline.config import ChatConfig
from pipeline.serve.guard import COOKIE, PUBLIC, new_session, read_session
from pipeline.serve.settings import ServeSettings, is_loopback

TOKEN = secrets.token_urlsafe(24)
ASK = {"model": "ppo", "messages": [{"role": "user", "content": "hi"}]}
OTHER = {"host": "evil.example", "origin": "http://127.0.0.1:8000"}


def routes(client):
    """Every path and method of the application, whatever kind of route it is."""
    found = []

    def walk(these):
        for route in these:
            if hasattr(route, "path"):
                found.extend((route.path, method) for method in getattr(route, "methods", None) or ("GET",))
            else:
                walk(route.original_router.routes)

    walk(client.app.routes)
    assert client.app.openapi()["paths"].keys() <= {path for path, _ in found}
    return found


def test_no_route_answers_without_the_token(serve):
    client = serve(token=TOKEN)
    found = routes(client)
    assert len(found) > 4
    for path, method in found:
        if path in PUBLIC:
            continue
        for headers in ({}, {"authorization": "Bearer " + "x" * 32}, {"cookie": f"{COOKIE}={'a' * 16}.{'0' * 64}"}):
            said = client.request(method, path.replace("{", "").replace("}", ""), headers=headers)
            assert said.status_code == 401, (path, method)


def test_no_route_answers_to_another_name_or_another_site(serve):
    client = serve()
    for path, method in routes(client):
        assert client.request(method, path, headers={"host": "evil.example"}).status_code == 400, path
        assert client.request(method, path, headers={"origin": "http://evil.example"}).status_code == 403, path
        assert client.request(method, path, headers={"origin": "null"}).status_code == 403, path
        assert client.request(method, path, headers={"sec-fetch-site": "cross-site"}).status_code == 403, path
        assert client.request(method, path, headers={"sec-fetch-site": "same-site"}).status_code == 403, path
        # A form elsewhere that is sent here: a navigation, but no link.
        form = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
        assert (client.request(method, path, headers=form).status_code == 403) == (method not in ("GET", "HEAD")), path


def test_the_token_opens_and_its_own_page_may_post(serve):
    client = serve(token=TOKEN)
    bearer = {"authorization": f"Bearer {TOKEN}"}
    assert client.get("/v1/models", headers=bearer).status_code == 200
    own = {**bearer, "origin": "http://127.0.0.1:8000", "sec-fetch-site": "same-origin"}
    assert client.post("/v1/chat/completions", json=ASK, headers=own).status_code == 200


@pytest.mark.parametrize("host", ["127.0.0.1:9", "localhost", "[::1]:8000", "chat.home:80"])
def test_names_of_this_machine_and_those_allowed_are_known(serve, host):
    assert serve(allowed_hosts=("chat.home",)).get("/v1/models", headers={"host": host}).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "[", "a@127.0.0.1.evil", "192.168.1.7"])
def test_other_names_are_not(serve, host):
    assert serve().get("/v1/models", headers={"host": host}).status_code == 400


def test_a_bare_address_is_known_where_others_may_come(serve):
    client = serve(host="0.0.0.0", token=TOKEN)
    bearer = {"authorization": f"Bearer {TOKEN}"}
    assert client.get("/v1/models", headers={"host": "192.168.1.7:8000", **bearer}).status_code == 200
    assert client.get("/v1/models", headers={"host": "evil.example", **bearer}).status_code == 400


def test_a_session_holds_only_with_the_token_that_sealed_it():
    session = new_session(TOKEN)
    assert read_session(TOKEN, f"{COOKIE}={session}") == session.split(".")[0]
    forged = ("b" + session[1:]) if session[0] != "b" else ("c" + session[1:])
    for cookies in ("", f"{COOKIE}={forged}", f"{COOKIE}=", "\x00;=;", f"other={session}"):
        assert read_session(TOKEN, cookies) is None
    assert read_session(secrets.token_urlsafe(24), f"{COOKIE}={session}") is None


@pytest.mark.parametrize("token", [None, "", "hunter2", "a" * 64, "with space " * 4, "ü" * 30])
def test_another_host_refuses_to_start_without_a_strong_token(token):
    with pytest.raises(UserError, match="--host 0.0.0.0|--token"):
        ServeSettings.of(ChatConfig(), host="0.0.0.0", port=8000, token=token)


def test_a_token_can_be_drawn_and_this_machine_needs_none():
    drawn = ServeSettings.of(ChatConfig(), host="0.0.0.0", port=8000, token="new")
    assert len(drawn.token) == 32 and drawn.url == "http://127.0.0.1:8000/"
    home = ServeSettings.of(ChatConfig(), host="::1", port=1, token=None)
    assert home.url == "http://[::1]:1/" and home.elsewhere == ""
    # Where it listens on every address, the one that is told is this machine's own, and others are told what to put there.
    everywhere = ServeSettings.of(ChatConfig(), host="[::]", port=1, token=TOKEN)
    assert everywhere.url == "http://[::1]:1/" and "in place of ::1" in everywhere.elsewhere
    assert is_loopback("127.8.9.1") and not is_loopback("example.org") and not is_loopback("0.0.0.0")


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/feedback", "/api/turn", "/nowhere"])
@pytest.mark.parametrize("told", [True, False])
def test_a_body_that_is_too_big_is_413_with_and_without_its_length(serve, path, told):
    big = b'{"model": "' + b"x" * 3000 + b'"}'
    chunks = (big[i : i + 500] for i in range(0, len(big), 500))
    client = serve(max_body_bytes=2000)
    said = client.post(path, content=big if told else chunks, headers={"content-type": "application/json"})
    if path == "/nowhere" and not told:
        # Nobody reads what has no route.
        assert said.status_code == 404
        return
    assert said.status_code == 413
    error = said.json()["error"]
    assert error.keys() == client.get("/nowhere").json()["error"].keys()
    assert "at most 2000 bytes" in error["message"] and "Shorten" in error["message"]
    assert "chat.max_body_bytes" in error["message"] and error["code"] == "body_too_large"


def test_a_body_that_just_fits_is_read_and_one_byte_more_is_not(serve):
    client, just = serve(max_body_bytes=300), ASK | {"messages": [{"role": "user", "content": "hi"}]}
    body = json.dumps(just).encode()
    kind = {"content-type": "application/json"}
    for size, status in ((300, 200), (301, 413)):
        padded = body + b" " * (size - len(body))
        assert client.post("/v1/chat/completions", content=padded, headers=kind).status_code == status
        halves = (padded[i : i + 150] for i in range(0, size, 150))
        assert client.post("/v1/chat/completions", content=halves, headers=kind).status_code == status


def feedback(**more):
    return {"id": "00000000-0000-0000-0000-000000000000", "value": 1, **more}


@pytest.mark.parametrize(
    "body",
    [
        feedback(value=5),
        feedback(value=True),
        feedback(value=0.5),
        feedback(value=2.0),
        feedback(value="1"),
        feedback(value=10**30),
        feedback(value=None),
        feedback(id="%00"),
        feedback(id=3),
        feedback(extra=1),
        feedback(tags=["no such tag"]),
        feedback(tags="too long"),
        feedback(comment="x" * 2001),
        feedback(comment="a\0b"),
        feedback(comment=""),
        feedback(user="../x"),
        [],
        None,
    ],
)
def test_feedback_of_a_wrong_shape_is_422(serve, body):
    said = serve().post("/v1/feedback", json=body)
    assert said.status_code == 422 and said.json()["error"]["message"]


def test_of_what_is_too_long_the_limit_and_the_length_are_told(serve):
    client = serve(max_body_bytes=10**7)
    said = client.post("/v1/feedback", json=feedback(comment="é" * 2001)).json()["error"]
    assert said["message"] == "body.comment: Too long: at most 2000 characters, got 2001. Shorten it."
    many = client.post("/v1/chat/completions", json={**ASK, "messages": ASK["messages"] * 401}).json()["error"]
    assert many["message"] == "body.messages: Too long: at most 400 items, got 401. Shorten it."
    assert many["param"] == "messages"


@pytest.mark.parametrize(
    "raw",
    [
        b'{"model": "ppo", "messages": [{"role": "user", "content": "\\ud800"}]}',
        b'{"model": "ppo\\udfff", "messages": [{"role": "user", "content": "a"}]}',
        b'{"model": "ppo", "messages": [{"role": "user", "content": "a"}], "\\ud800": 1}',
        b'{"model": "ppo", "messages": [{"role": "user", "content": "a"}], "temperature": 1e999}',
        b'{"model": "ppo", "messages": [{"role": "user", "content": "a"}], "temperature": NaN}',
        b'{"model": "ppo", "messages": [{"role": "user", "content": "a"}], "n": 2}',
        b'{"model": "ppo", "messages": [{"role": "user", "content": "a"}], "max_tokens": 1025}',
        b'{"model": "ppo", "messages": [{"role": "user", "content": "a"}], "tools": [{}]}',
        b'{"model": "ppo", "messages": [{"role": "tool", "content": "a"}]}',
        b'{"model": "ppo", "messages": [{"role": "user", "content": [{"type": "image_url"}]}]}',
        b'{"model": "ppo", "messages": []}',
        b"[" * 5000,
        b'{"model": ' + b"9" * 5000 + b"}",
        b"\xff\xfe",
        b"",
    ],
)
def test_strange_bodies_are_a_mistake_of_the_client(serve, raw):
    said = serve().post("/v1/chat/completions", content=raw, headers={"content-type": "application/json"})
    assert said.status_code in (400, 422, 404) and "error" in said.json(), said.text


def test_a_form_or_plain_text_of_another_page_is_no_body(serve):
    for kind in ("text/plain", "application/x-www-form-urlencoded"):
        said = serve().post("/v1/feedback", content=b'{"id": "x", "value": 1}', headers={"content-type": kind})
        assert said.status_code == 422


def test_every_answer_carries_the_policy_and_is_not_kept(serve):
    client = serve()
    for path, headers in (("/v1/models", {}), ("/nowhere", {}), ("/v1/models", OTHER)):
        found = client.get(path, headers=headers).headers
        assert found["content-security-policy"].startswith("default-src 'none'")
        assert found["x-content-type-options"] == "nosniff" and found["cache-control"] == "no-store"
        assert "access-control-allow-origin" not in found


def test_no_word_of_a_talk_and_no_token_is_logged(serve, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    client = serve(RuntimeError("canary-answer"), token=TOKEN)
    bearer = {"authorization": f"Bearer {TOKEN}"}
    talk = {**ASK, "messages": [{"role": "user", "content": "canary-question"}]}
    assert client.post("/v1/chat/completions", json=talk, headers=bearer).status_code == 500
    assert client.post("/v1/chat/completions", json={**talk, "canary-key": 1}, headers=bearer).status_code == 422
    client.app.state.context.desk.take = None
    assert client.post("/v1/chat/completions", json=talk, headers=bearer).status_code == 500
    # The test's own client logs addresses, of which it holds no words.
    said = caplog.text + "".join(capfd.readouterr())
    assert "the model failed: RuntimeError" in said and "a request failed: TypeError" in said
    assert "canary" not in said and TOKEN not in said
