"""Bodies of the OpenAI-compatible endpoint: what it can do, and what it accepts only at its neutral value."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, model_validator

from pipeline.serve.fields import Body, Comment, Id, Name, Seed, Tag, Temperature, Text, Tokens, TopP, Whole


class TextPart(Body):
    type: Literal["text"]
    text: Text


# What `_says_something` holds, in the schema's words.
_FORMS = [
    {"properties": {"role": {"const": "assistant"}}},
    {
        "properties": {
            "role": {"enum": ["system", "developer", "user"]},
            "content": {"anyOf": [{"type": "string", "minLength": 1}, {"type": "array", "minItems": 1}]},
        }
    },
]


class ChatMessage(Body):
    model_config = ConfigDict(json_schema_extra={"oneOf": _FORMS})

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | list[TextPart] | Literal[""] | None = Field(
        description="text, or parts that are all text; an assistant's may be empty, as of one that was stopped at once"
    )
    name: Name | None = None

    @property
    def text(self) -> str:
        return "\n".join(part.text for part in self.content) if isinstance(self.content, list) else self.content or ""

    @model_validator(mode="after")
    def _says_something(self) -> ChatMessage:
        if not self.content and self.role != "assistant":
            raise ValueError("content is empty")
        return self


Stop = Annotated[str, Field(min_length=1, max_length=200)]


class TextFormat(Body):
    type: Literal["text"]


class StreamOptions(Body):
    include_usage: bool = False


class ChatCompletionRequest(Body):
    """`user` names the person behind an application's request: turns in the queue and votes are counted by it."""

    model: str = Field(min_length=1, max_length=200)
    messages: list[ChatMessage] = Field(min_length=1, max_length=400)
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: Tokens | None = None
    max_completion_tokens: Tokens | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    seed: Seed | None = None
    user: Name | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=16)] | None = Field(
        None, description="words at which the answer ends, before them"
    )
    # Clients send these with every request. Another value would change the answer, so it is refused and not ignored.
    n: Annotated[int, Field(ge=1, le=1), Whole] = 1
    frequency_penalty: float | None = Field(None, ge=0, le=0)
    presence_penalty: float | None = Field(None, ge=0, le=0)
    logit_bias: Annotated[dict, Field(max_length=0)] | None = None
    logprobs: Literal[False] | None = None
    response_format: TextFormat | None = None
    tools: Annotated[list, Field(max_length=0)] | None = None
    tool_choice: Literal["none", "auto"] | None = None
    parallel_tool_calls: bool | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


class FeedbackRequest(Body):
    """A thumb on one answer. 1 is up, -1 is down, 0 takes an earlier one back."""

    id: Id = Field(description="the completion's id")
    # No Literal: that would take true for 1.
    value: Annotated[int, Field(ge=-1, le=1), Whole]
    tags: list[Tag] = Field([], max_length=8)
    comment: Comment | None = None
    user: Name | None = None
