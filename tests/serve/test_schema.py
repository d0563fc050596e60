"""The schema says what the fields hold, also where they hold together: both are read here, and must agree on every case."""

import itertools
import json
import re

import pytest
from pydantic import TypeAdapter, ValidationError

from pipeline.serve.chat_fields import TurnRequest
from pipeline.serve.fields import Text
from pipeline.serve.openai_fields import ChatCompletionRequest, ChatMessage, FeedbackRequest

ID = "00000000-0000-4000-8000-000000000000"


def fits(schema, body):
    """As much of JSON Schema as the forms below are written in; another word fails."""
    known = {"required", "properties", "type", "const", "enum", "anyOf", "minLength", "minItems"}
    assert schema.keys() <= known, schema.keys() - known
    if body is None:
        return schema.get("type", "null") == "null" and "anyOf" not in schema
    types = {"string": str, "null": type(None), "array": list}
    return (
        all(name in body for name in schema.get("required", ()))
        and all(fits(of, body[name]) for name, of in schema.get("properties", {}).items() if name in body)
        and ("type" not in schema or isinstance(body, types[schema["type"]]))
        and ("const" not in schema or body == schema["const"])
        and ("enum" not in schema or body in schema["enum"])
        and ("anyOf" not in schema or any(fits(of, body) for of in schema["anyOf"]))
        and len(body) >= max(schema.get("minLength", 0), schema.get("minItems", 0))
    )


def accepted(kind, body):
    try:
        kind.model_validate(body)
    except ValidationError:
        return False
    return True


def test_the_schema_of_a_turn_allows_what_the_server_takes_and_nothing_else():
    forms = TurnRequest.model_json_schema()["oneOf"]
    fields = {"text": "hi", "system_prompt": "hi", "question": ID, "conversation": ID, "parent": ID, "against": ID}
    taken = 0
    # Each field left out, null, or given.
    for how in itertools.product((None, "null", "given"), repeat=len(fields)):
        body = {name: fields[name] if w == "given" else None for name, w in zip(fields, how, strict=True) if w}
        took = accepted(TurnRequest, {"model": "ppo", **body})
        assert sum(fits(form, body) for form in forms) == took, body
        taken += took
    assert taken > 0


@pytest.mark.parametrize("role", ["system", "developer", "user", "assistant"])
def test_the_schema_of_a_message_allows_what_the_server_takes_and_nothing_else(role):
    forms = ChatMessage.model_json_schema()["oneOf"]
    for content in ("hi", "", None, [], [{"type": "text", "text": "hi"}]):
        body = {"role": role, "content": content}
        assert sum(fits(form, body) for form in forms) == accepted(ChatMessage, body), body
    assert accepted(ChatMessage, {"role": role, "content": ""}) == (role == "assistant")


def test_the_schema_of_a_text_holds_for_every_character():
    pattern = re.compile(TypeAdapter(Text).json_schema()["pattern"])
    # Half a surrogate pair stands in no JSON text.
    characters = [chr(c) for c in range(0x110000) if not 0xD800 <= c <= 0xDFFF]
    assert [c for c in characters if pattern.search(c)] == [c for c in characters if c.strip() and c != "\0"]
    for text in ("a\0b", " a\n", "\n", "a\n\n", " \x1f ", "\0"):
        assert bool(pattern.search(text)) == bool(text.strip() and "\0" not in text), text


def test_the_schema_has_the_limits_of_every_number():
    found = 0
    for kind in (TurnRequest, ChatCompletionRequest, FeedbackRequest):
        for name, of in kind.model_json_schema()["properties"].items():
            for one in of.get("anyOf", [of]):
                if one.get("type") in ("integer", "number"):
                    assert one.keys() & {"minimum", "exclusiveMinimum"} and one.keys() & {
                        "maximum",
                        "exclusiveMaximum",
                    }, name
                    found += 1
    assert found > 8


def test_a_whole_number_is_one_however_it_is_written(serve, store):
    client = serve("one two")
    ask = {"model": "ppo", "messages": [{"role": "user", "content": "hi"}]}
    said = client.post("/v1/chat/completions", json={**ask, "n": 1.0, "seed": 3.0, "max_tokens": 5.0})
    assert said.status_code == 200
    sampling = client.assistant.asked[0][2]
    assert (sampling.seed, sampling.max_new_tokens) == (3, 5) and isinstance(sampling.seed, int)
    assert client.post("/v1/feedback", json={"id": said.json()["id"], "value": -1.0}).status_code == 200
    assert store.rating(said.json()["id"], "ann") == -1
    for wrong in (True, "1", 0.5, 1e400):
        body = json.dumps({"id": said.json()["id"], "value": wrong})
        kind = {"content-type": "application/json"}
        assert client.post("/v1/feedback", content=body, headers=kind).status_code == 422, wrong


def test_every_status_that_a_route_may_answer_has_the_shape_of_errors(serve):
    schema = serve().get("/openapi.json").json()
    for path, methods in schema["paths"].items():
        for answer in methods.values():
            for status, told in answer["responses"].items():
                of = told.get("content", {}).get("application/json", {}).get("schema", {})
                assert status == "200" or of == {"$ref": "#/components/schemas/ErrorBody"}, (path, status)


def test_a_method_that_an_address_does_not_know_is_told_all_that_it_does(serve):
    """By the schema: of several methods of one address the framework itself names those of its first route alone."""
    client = serve()
    for path, known in client.get("/openapi.json").json()["paths"].items():
        at = re.sub(r"\{\w+\}", "x", path)
        answer = client.request("PATCH" if "patch" not in known else "TRACE", at, headers={"Content-Type": "application/json"})
        assert answer.status_code == 405, path
        assert {m.lower() for m in answer.headers["allow"].split(", ")} == set(known), path
        assert answer.json()["error"]["message"] == "Method Not Allowed"


def test_what_an_address_answers_stands_among_the_methods_that_it_is_told_to_know(serve):
    """Of the addresses outside the schema too, and of HEAD, which some know beside GET."""
    client = serve()
    for path in ("/", "/openapi.json", "/static/style.css", "/v1/models"):
        told = set(client.request("TRACE", path).headers["allow"].split(", "))
        for method in ("GET", "HEAD", "PUT", "DELETE", "OPTIONS"):
            answers = client.request(method, path, headers={"Content-Type": "application/json"}).status_code != 405
            assert answers == (method in told), (path, method)
