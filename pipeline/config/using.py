"""The chat, the server, and what rounds make of votes."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pipeline.config.section import Section


class ChatConfig(Section):
    max_new_tokens: int = Field(256, ge=1, description="tokens an answer")
    temperature: float = Field(0.7, ge=0, description="of sampling; 0 is greedy")
    feedback_db: str = Field("runs/feedback.sqlite", description="where votes are kept")
    rater: str = Field("local", min_length=1, description="pseudonym of whoever votes")
    consent: Literal["local", "train", "publish"] = Field(
        "publish", description="what raters allow whom nobody asks: stays in the chat, rounds learn, exports too"
    )
    max_prompt_tokens: int = Field(
        2048, ge=16, description="tokens of a conversation that are read; older turns are left out"
    )
    max_answer_tokens: int = Field(1024, ge=1, description="tokens that a web request may ask for at most")
    comparison_share: float = Field(
        0.2, ge=0, le=1, description="share of web turns answered twice, blind side by side"
    )
    compare_with_candidate: bool = Field(
        False, description="of these, the second answer is the newest round's that is not in service, if there is one"
    )
    queue_limit: int = Field(64, ge=2, description="web requests that may wait; half of them of one client")
    other_rounds: int = Field(4, ge=0, description="assistants of other rounds in the web menu, the newest ones")
    batch_rows: int = Field(8, ge=1, le=256, description="web answers drawn side by side; 1 draws one after another")
    answer_seconds: float = Field(300.0, gt=0, description="seconds after which a web answer is cut off")
    max_body_bytes: int = Field(262_144, ge=1024, description="size of a web request at most, in bytes")
    allowed_hosts: list[str] = Field([], description="names, beside its address, under which the server may be reached")


class RoundsConfig(Section):
    min_pairs: int = Field(20, ge=1, description="new pairs, from votes that no earlier round had, that a round needs")
    rater_share: float = Field(
        1.0,
        gt=0,
        le=1,
        description="share of the judgements used that one rater may give; with few raters, equal shares",
    )
    demonstrations: bool = Field(
        False, description="SFT too learns from edits and good answers, and so starts elsewhere"
    )
    continue_policy: bool = Field(
        False,
        description="PPO starts as the policy in service instead of SFT's; KL is charged against SFT all the same",
    )
    min_gain: float = Field(
        0.0, description="points by which the lower end of the 95 % interval must lie above the assistant in service"
    )
