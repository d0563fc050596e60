"""Files that are not what they should be: told with row and reason, never a traceback, and nothing of them is kept."""

import copy
import json

import pytest

from data.errors import UserError
from data.exports import write
from data.feedback import FeedbackStore
from data.imports import import_votes

ROW = {
    "id": "1",
    "user_id": "u",
    "type": "rating",
    "data": {"rating": 1, "comment": "fine", "tags": ["a"], "reason": "b"},
    "meta": {"message_id": "m2"},
    "snapshot": {
        "chat": {
            "chat": {
                "params": {"system": "be brief"},
                "history": {
                    "messages": {
                        "m1": {"id": "m1", "role": "user", "content": "q", "parentId": None, "childrenIds": ["m2"]},
                        "m2": {"id": "m2", "role": "assistant", "content": "a", "parentId": "m1", "model": "m"},
                    }
                },
            }
        }
    },
}
CHAT = ("snapshot", "chat", "chat")
MESSAGES = (*CHAT, "history", "messages")


@pytest.fixture
def store(tmp_path):
    store = FeedbackStore.open(tmp_path / "f.sqlite")
    yield store
    store.close()


def changed(path, value):
    row = copy.deepcopy(ROW)
    inner = row
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    return row


@pytest.mark.parametrize(
    "path, value, told",
    [
        (("data", "rating"), float("inf"), "rating is inf,"),
        (("data", "rating"), float("nan"), "rating is nan,"),
        (("data", "rating"), 1.7, "rating is 1.7,"),
        (("data", "rating"), True, "rating is True,"),
        (("data", "rating"), "good", "rating is good,"),
        (("data", "comment"), 5, "comment is a number"),
        (("data", "comment"), "half \ud800", "comment holds a lone surrogate"),
        (("data", "tags"), "abc", "tags is text, expected a list"),
        (("data", "tags"), [7], "tag is a number"),
        (("data", "reason"), 7, "tag is a number"),
        (("user_id",), "u\ud800", "rater holds a lone surrogate"),
        ((*MESSAGES, "m2", "model"), "m\ud800", "model holds a lone surrogate"),
        ((*MESSAGES, "m2", "content"), "a\0", "holds a NUL"),
        ((*MESSAGES, "m1", "content"), "q\ud800", "holds a lone surrogate"),
        ((*CHAT, "params", "system"), 5, "is a number, expected text"),
        ((*CHAT, "params", "system"), "s\ud800", "holds a lone surrogate"),
        ((*CHAT, "history", "messages"), [1], ""),
        (("data",), [1], ""),
    ],
)
def test_a_row_that_is_not_as_it_should_be_is_told_and_nothing_is_kept(store, tmp_path, path, value, told):
    file = tmp_path / "in.json"
    file.write_text(json.dumps([ROW, changed(path, value)]), encoding="utf-8")
    with pytest.raises(UserError) as refused:
        import_votes(store, "open-webui", file)
    (problem,) = refused.value.problems
    assert "in.json row 2: " in problem and told in problem
    assert store.stats()["up"] == 0


@pytest.mark.parametrize(
    "content, told",
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"[" * 100_000, "no JSON in UTF-8"),
        (b"{" * 2, "row 1: no JSON"),
        (b'{"a":' * 50_000, "row 1: no JSON"),
        (b"{\n}", "row 1: no JSON"),
        (b"\xff\xfe", "no JSON in UTF-8"),
    ],
)
@pytest.mark.parametrize("name", ["open-webui", "fastchat"])
def test_a_file_that_holds_no_rows_is_told(store, tmp_path, content, told, name):
    (tmp_path / "in.json").write_bytes(content)
    with pytest.raises(UserError) as refused:
        import_votes(store, name, tmp_path / "in.json")
    assert told in refused.value.problems[0]


def test_a_mark_of_the_byte_order_is_no_mistake_and_a_blank_comment_is_none(store, tmp_path):
    (tmp_path / "in.json").write_bytes(b"\xef\xbb\xbf" + json.dumps([changed(("data", "comment"), "  ")]).encode())
    assert import_votes(store, "open-webui", tmp_path / "in.json").votes == 1
    assert store.rows("SELECT comment FROM rating") == [(None,)]


def test_an_export_that_breaks_off_leaves_nothing_lying_about(tmp_path):
    def rows():
        yield {"a": 1}
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write(rows(), tmp_path / "out.jsonl")
    assert list(tmp_path.iterdir()) == []
