"""Bodies of the page's own routes."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field, model_validator

from pipeline.serve.fields import Body, Id, Temperature, Text, Tokens, TopP


class LoginRequest(Body):
    token: str = Field(min_length=1, max_length=500)


def _form(*given: str, absent: tuple[str, ...]) -> dict:
    of = {name: {"type": "string"} for name in given} | {name: {"type": "null"} for name in absent}
    return {"required": list(given), "properties": of}


# What `_one_question` holds, in the schema's words: a new talk, its next question, or another answer to an old one.
_FORMS = [
    _form("text", absent=("question", "conversation", "parent", "against")),
    _form("text", "conversation", absent=("question", "system_prompt", "against")),
    _form("question", absent=("text", "conversation", "parent", "system_prompt")),
]


class TurnRequest(Body):
    """A new question (`text`, under the answer `parent`), or another answer to an old one (`question`).

    `compare`: "auto" leaves it to chance whether the turn is answered twice; with `against`, an answer that is there
    already, one more is drawn beside it.
    """

    model_config = ConfigDict(json_schema_extra={"oneOf": _FORMS})

    model: str = Field(min_length=1, max_length=200)
    text: Text | None = None
    conversation: Id | None = None
    parent: Id | None = None
    system_prompt: Text | None = None
    question: Id | None = None
    compare: Literal["auto", "never"] = "never"
    against: Id | None = None
    other_model: str | None = Field(None, min_length=1, max_length=200)
    temperature: Temperature | None = None
    top_p: TopP | None = None
    max_new_tokens: Tokens | None = None

    @model_validator(mode="after")
    def _one_question(self) -> TurnRequest:
        if (self.text is None) == (self.question is None):
            raise ValueError("give either text, a new question, or question, the id of an old one")
        if self.question is not None and (self.parent or self.conversation or self.system_prompt):
            raise ValueError("an old question has its place already; leave parent, conversation and system_prompt out")
        if self.parent is not None and self.conversation is None:
            raise ValueError("parent needs its conversation")
        if self.system_prompt is not None and self.conversation is not None:
            raise ValueError("a system prompt belongs to a new conversation")
        if self.against is not None and self.question is None:
            raise ValueError("against needs the question that it answers")
        return self


class StopRequest(Body):
    answer: Id


class EditRequest(Body):
    original: Id
    text: Text


class ConsentRequest(Body):
    level: Literal["local", "train", "publish"]


class ChoiceRequest(Body):
    winner: Literal["left", "right", "tie", "both_bad", "skip"]
