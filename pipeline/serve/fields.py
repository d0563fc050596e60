"""What any request body is made of: strict types, nothing unknown, text that a model can read."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from data.records import check_text
from pipeline.chat.words import TAGS


class Body(BaseModel):
    """A request body: a wrong type or an unknown field is refused, not guessed at."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


def _readable(text: str) -> str:
    check_text("the text", text)
    return text


_UUID = r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"
Text = Annotated[str, Field(min_length=1, max_length=32_768), AfterValidator(_readable)]
Comment = Annotated[str, Field(min_length=1, max_length=2_000), AfterValidator(_readable)]
Id = Annotated[str, Field(pattern=_UUID)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
Temperature = Annotated[float, Field(ge=0, le=2)]
TopP = Annotated[float, Field(gt=0, le=1)]
Tokens = Annotated[int, Field(ge=1, le=100_000)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Tag = Literal[TAGS]  # type: ignore[valid-type]
