"""What any request body is made of: strict types, nothing unknown, text that a model can read."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from data.records import check_text
from pipeline.chat.words import TAGS


class Body(BaseModel):
    """A request body: a wrong type or an unknown field is refused, not guessed at."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


def _readable(text: str) -> str:
    check_text("the text", text)
    return text


# The same in the schema's words: no NUL, and something that `str.strip` leaves. Half a surrogate pair is no text there anyway.
_SAYS = "[^\\u0000\\t-\\r\\u001c- \\u0085\\u00a0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000]"
_READABLE = rf"^[^\u0000]*{_SAYS}[^\u0000]*$"


def _whole(number: object) -> object:
    """JSON knows one kind of number: 1.0 is 1. True is none."""
    return int(number) if isinstance(number, float) and number.is_integer() else number


def _text(longest: int):
    told = {"type": "string", "minLength": 1, "maxLength": longest, "pattern": _READABLE}
    limits = Field(min_length=1, max_length=longest)
    return Annotated[str, limits, AfterValidator(_readable), WithJsonSchema(told)]


_UUID = r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"
Text = _text(32_768)
Comment = _text(2_000)
# Behind the limits, or they are missing from the schema.
Whole = BeforeValidator(_whole)
Id = Annotated[str, Field(pattern=_UUID)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
Temperature = Annotated[float, Field(ge=0, le=2)]
TopP = Annotated[float, Field(gt=0, le=1)]
Tokens = Annotated[int, Field(ge=1, le=100_000), Whole]
Seed = Annotated[int, Field(ge=0, lt=2**63), Whole]
Tag = Literal[TAGS]  # type: ignore[valid-type]
