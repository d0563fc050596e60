"""Questions for the judge that looks at a policy while it learns: which the failure detectors draw answers to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from data.quality import first_turn_key
from data.records import Message, Prompt, Ranking


def are_asked(config) -> bool:
    """Whether anybody draws answers to them: PPO for its judge, KTO for every look, having no other answers."""
    judged = config.detectors.judge_every and config.judged_by is not None
    return config.detectors.enabled and (bool(judged) or config.learner == "kto")


def untaught(
    rankings: Sequence[Ranking], prompts: Sequence[Prompt], taught: Iterable[Sequence[Message]]
) -> list[Prompt]:
    """Each question of the test side once, the rankings' first, that neither training nor the final evaluation asks.

    Args:
        rankings, prompts: of the test side.
        taught: all conversations that are trained on or evaluated with.
    """
    taken = {first_turn_key(messages) for messages in taught}
    found: dict[str, Prompt] = {}
    for prompt in (*(Prompt(r.id, r.prompt, r.topic) for r in rankings), *prompts):
        if (key := first_turn_key(prompt.messages)) not in taken:
            found.setdefault(key, prompt)
    return list(found.values())
