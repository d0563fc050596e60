"""Which questions teach the test model: a second reward model, whose scores no policy is trained on.

Bai et al. (2022, section 4.2) train one preference model on each half of their comparisons, raise the score of the one by RL and look at the
other's. Where the first goes on rising and the second does not, the policy has learnt what is wrong with the first.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

from data.records import Demonstration, Message, Ranking, Thumb
from data.splits import is_test

# Of its own, so that it does not follow the split into train and test; and the same in every round, so that an answer that has taught
# one round's reward model never judges another's policy.
_SALT = "test model"
Asked = TypeVar("Asked", Ranking, Thumb, Demonstration)


def sides(records: Iterable[Asked], share: float) -> tuple[list[Asked], list[Asked]]:
    """Rankings, thumbs or demonstrations of the reward model and those of the test model."""
    own, kept = [], []
    for record in records:
        (kept if is_for_test_model(record.prompt, share) else own).append(record)
    return own, kept


def is_for_test_model(prompt: Sequence[Message], share: float) -> bool:
    """Whether a question's rankings and thumbs teach the test model instead of the reward model.

    Args:
        share: of all questions, 0 to 1 (`reward.test_share`).
    """
    return is_test(prompt, share, _SALT)
