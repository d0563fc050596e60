"""Where data lies and how it is split."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path

from pydantic import Field

from data.formats import FORMATS
from data.yardsticks import BUILT_IN
from data.yardsticks import source as yardstick_file
from pipeline.config.section import Section, rule


class DataConfig(Section):
    demonstrations: str = Field(
        description="file, directory or hub:owner/name@commit:split of prompts with answers to imitate"
    )
    demonstrations_format: str = Field("messages", description="a name in data/formats.py")
    rankings: str = Field(description="file, directory or hub:owner/name@commit:split of prompts with ranked answers")
    rankings_format: str = Field("ranked", description="a name in data/formats.py")
    prompts: str | None = Field(None, description="file of prompts for PPO; None takes those of the training rankings")
    prompts_format: str = Field("prompts", description="a name in data/formats.py")
    heldout_prompts: str = Field(description="file of prompts for evaluation, asked nowhere in training")
    heldout_prompts_format: str = Field("prompts", description="a name in data/formats.py")
    heldout_rankings: str | None = Field(
        None, description="file of ranked answers to held-out prompts, for the reward model"
    )
    heldout_rankings_format: str = Field("ranked", description="a name in data/formats.py")
    thumbs: str | None = Field(None, description="file of answers with a thumb, for reward.thumbs_weight and KTO")
    thumbs_format: str = Field("thumbs", description="a name in data/formats.py")
    general_text: str | None = Field(
        BUILT_IN,
        description="file of ordinary text that shows what training made the model forget; None measures nothing",
    )
    facts: str | None = Field(
        BUILT_IN, description="file of questions with a right and a wrong answer, for sycophancy; None measures nothing"
    )
    max_overlap: float = Field(
        0.0, ge=0, le=1, description="share of held-out rows that may have 13 words in a row in common with training"
    )
    test_share: float = Field(0.1, gt=0, le=0.5, description="share of questions kept out of training")
    max_prompt_tokens: int = Field(64, ge=4, description="tokens; longer training prompts are left out and counted")
    limit: int | None = Field(None, ge=1, description="first N rows of every file")

    def sources(self) -> list[tuple[str, str]]:
        """(key, what it names) for every source that is given."""
        keys = (name.removesuffix("_format") for name in type(self).model_fields if name.endswith("_format"))
        return [(key, source) for key in keys if (source := getattr(self, key))]

    def yardsticks(self) -> list[tuple[str, Path]]:
        """(key, file) for the texts and questions that a policy is measured on besides the held-out prompts."""
        return [(key, yardstick_file(key, name)) for key in ("general_text", "facts") if (name := getattr(self, key))]

    @rule
    def _formats_exist(self) -> Iterator[str]:
        for name in (n for n in type(self).model_fields if n.endswith("_format")):
            # One that is no text has been told already.
            if (value := getattr(self, name, None)) is not None and value not in FORMATS:
                near = difflib.get_close_matches(value, FORMATS, n=1)
                guess = f"; did you mean '{near[0]}'?" if near else ""
                yield f"'{name}' should be one of {', '.join(FORMATS)} (got '{value}'){guess}"
