"""What the policy said while it learned: which of the answers that training kept the report shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.evaluation.cards import is_finite
from pipeline.report import wording
from pipeline.report.facts import Facts

MOMENTS = 4
HEAD = ("After updates", "Question", "Answer", "Score")


def moments(facts: Facts) -> list[Mapping[str, Any]]:
    """The kept answers of a few updates at even steps, the first and the last among them. Nobody chose them by what they say."""
    updates = sorted({row["update"] for row in facts.samples})
    last = len(updates) - 1
    shown = {updates[round(k * last / (MOMENTS - 1))] for k in range(MOMENTS)} if updates else ()
    return [row for row in facts.samples if row["update"] in shown]


def score(row: Mapping[str, Any]) -> str:
    """The reward's score of an answer, or the judge's; a dash where nobody scored it."""
    given = row.get("score", row.get("judge"))
    return wording.number(given) if is_finite(given) else "–"


def note(facts: Facts, shown: Sequence[Mapping[str, Any]]) -> str:
    """Where the answers come from, and who scored them."""
    updates = len({row["update"] for row in facts.samples})
    of = f"{len({row['update'] for row in shown})} of {updates} {facts.drawn_at} at even steps, not by what they say"
    if facts.learner == "KTO":
        who = "The questions are of the test split, the same each time" + (
            "; the score is the judge’s." if any("judge" in row for row in shown) else "; nobody scored the answers."
        )
    else:
        who = "Each update asks other questions; the score is the reward that PPO raises."
    if facts.asked_in_chat:
        who += f" {facts.asked_in_chat} more are to questions that people asked in the chat, whose words no report hands on."
    return f"Answers while {facts.learner} ran: the first few of {of}. {who} All of them: stages/ppo/samples.jsonl."
