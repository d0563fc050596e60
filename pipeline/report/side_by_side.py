"""The same prompts, answered by every policy: which of them the report shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipeline.report.facts import POLICIES, Facts


@dataclass(frozen=True)
class SideBySide:
    """One prompt and an answer of each policy to it (the first sample)."""

    prompt: str
    topic: str
    answers: tuple[tuple[str, dict[str, Any]], ...]
    shown: bool


def side_by_side(facts: Facts) -> list[SideBySide]:
    """The held-out prompts that every evaluated policy answered, in their order; `shown` ones are spread evenly.

    Nobody chose them by their answers: of N prompts the first of each of k equal stretches is shown.
    """
    first: dict[str, dict[str, dict[str, Any]]] = {}
    for policy in POLICIES:
        for row in facts.answers.get(policy, ()):
            known = first.setdefault(policy, {})
            best = known.get(row["prompt_id"])
            if best is None or row.get("sample", 0) < best.get("sample", 0):
                known[row["prompt_id"]] = row
    if not first:
        return []
    common = [p for p in next(iter(first.values())) if all(p in rows for rows in first.values())]
    wanted = min(facts.config.evaluation.side_by_side, len(common))
    shown = {k * len(common) // wanted for k in range(wanted)}
    out = []
    for place, prompt_id in enumerate(common):
        rows = tuple((policy, rows[prompt_id]) for policy, rows in first.items())
        asked = rows[0][1]
        out.append(SideBySide(asked.get("prompt", ""), asked.get("topic") or "", rows, place in shown))
    return out


def side_by_side_note(facts: Facts) -> str:
    found = side_by_side(facts)
    shown = sum(pair.shown for pair in found)
    return (
        f"{shown} of {len(found)} held-out prompts, taken at even steps from the list and not by their answers; "
        "the first answer drawn from each model."
    )
