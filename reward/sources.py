"""Where rewards come from. A source judges whole conversations, as a person would see them.

To add one, write a function from answers to a (b,) tensor and name it in REWARD_SOURCES; its weight goes under
`ppo.reward_sources` in the config. The trained reward model is the source `model`, which the PPO stage provides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from data.records import Message
from reward.rubric import gold_score


@dataclass(frozen=True)
class Answered:
    """A prompt with an answer to judge.

    Attributes:
        prompt: the conversation up to and including the last user turn.
        response: the answer's text, without markers.
        finished: whether the model ended it itself.
        ids: prompt and answer as the policy's token ids, for sources that read them.
    """

    prompt: tuple[Message, ...]
    response: str
    finished: bool
    ids: tuple[int, ...] = ()


RewardSource = Callable[[Sequence[Answered]], Tensor]


def rubric(answers: Sequence[Answered]) -> Tensor:
    """The gold score itself: for experiments that separate the optimiser from the reward model, never for the recipe."""
    return torch.tensor([gold_score(a.prompt[-1].content, a.response, a.finished) for a in answers])


REWARD_SOURCES: dict[str, RewardSource] = {"rubric": rubric}


def weighted_scores(
    weights: Mapping[str, float], sources: Mapping[str, RewardSource], answers: Sequence[Answered]
) -> Tensor:
    """(b,) float32: Σ weight · source(answers).

    Raises:
        ValueError: a source that does not exist, or that returns another shape than (b,).
        FloatingPointError: a source returns a value that is not finite; the message shows the answer.
    """
    total = torch.zeros(len(answers))
    for name, weight in weights.items():
        if name not in sources:
            raise ValueError(f"ppo.reward_sources: no source '{name}'; there are {', '.join(sorted(sources))}")
        scores = torch.as_tensor(sources[name](answers)).detach().float().cpu()
        if scores.shape != (len(answers),):
            raise ValueError(
                f"reward source '{name}' returned shape {tuple(scores.shape)} for {len(answers)} answers; expected ({len(answers)},)"
            )
        bad = (~scores.isfinite()).nonzero().flatten().tolist()
        if bad:
            answer = answers[bad[0]]
            raise FloatingPointError(
                f"reward source '{name}' gave {scores[bad[0]].item()} to answer {bad[0]} of {len(answers)}: "
                f"{answer.prompt[-1].content[:80]!r} -> {answer.response[:80]!r}"
            )
        total += weight * scores
    return total
