"""Opening a run's models: the base, and the roles that its stages left behind."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from pipeline.adapters import REWARD, SharedBase
from pipeline.memory import LISTS_AT_ONCE, READ_AT_ONCE, MicroBatch
from pipeline.models import load
from pipeline.reading import check_reading
from reward.ensemble import combine_ensemble
from reward.model import ScalarHead, score, score_all
from reward.scale import Scale

ADAPTER, HEAD, SCALE, MEMBER = "adapter", "head.safetensors", "scale.json", "member-"
# The second reward model, which no policy raises: its folder in the reward stage, and its adapter's role.
TEST_MODEL, TEST_REWARD = "test-model", "test-reward"
SEEN = "training_scores.json"
# What makes the rows shorter that a reward model reads.
_SHORTER = "reward.max_tokens, data.max_prompt_tokens or evaluation.max_new_tokens"
# As reward.model.Encoder, with the adapter role to read with.
RoleEncoder = Callable[..., tuple[Tensor, Tensor]]


def open_base(config) -> SharedBase:
    """The base model of the config, frozen, ready to take adapters.

    Raises:
        UserError: it cannot be loaded, or not be read by the passes that train.
    """
    model, tokenizer = load(config.model)
    base = SharedBase(model, tokenizer, config.lora, recompute=config.model.gradient_checkpointing)
    check_reading(base)
    return base


class RewardModel:
    """Reward adapter, head and scale: ids of conversations → scores in units of the reference answers' spread."""

    def __init__(
        self, base: SharedBase, head: ScalarHead, scale: Scale, role: str = REWARD, seen: Sequence[float] = ()
    ):
        """
        Args:
            seen: scores of the training answers that the scale was measured on, in its units, in their order.
        """
        self.base, self.head, self.scale, self.role, self.seen = base, head, scale, role, tuple(seen)

    @staticmethod
    def open(base: SharedBase, directory: Path, role: str = REWARD) -> RewardModel:
        """The model that the reward stage left in `directory`, frozen."""
        base.load(role, directory / ADAPTER, trainable=False)
        head = ScalarHead(base.hidden_size)
        head.load(directory / HEAD)
        seen = json.loads((directory / SEEN).read_text(encoding="utf-8")) if (directory / SEEN).exists() else ()
        return RewardModel(base, head.to(base.device).requires_grad_(False), Scale.load(directory / SCALE), role, seen)

    def save(self, directory: Path) -> None:
        self.base.save(self.role, directory / ADAPTER)
        self.head.save(directory / HEAD)
        self.scale.save(directory / SCALE)
        if self.seen:
            (directory / SEEN).write_text(json.dumps(self.seen) + "\n", encoding="utf-8")

    def encode(self, sequences: Sequence[Sequence[int]]):
        return self.base.encode(sequences, self.role)

    def score(self, sequences: Sequence[Sequence[int]], encode: RoleEncoder | None = None) -> Tensor:
        """(b,) scores; `encode` stands in where the states below the adapters are already at hand."""
        read = self.encode if encode is None else partial(encode, role=self.role)
        return self.scale(score(read, self.head, sequences))

    def score_all(self, sequences: Sequence[Sequence[int]], on_batch=None) -> list[float]:
        """Scores of any number of conversations, in batches, without gradients."""
        return self.scale(raw_scores(self.encode, self.head, sequences, on_batch=on_batch)).tolist()

    @torch.no_grad()
    def score_lists(
        self, lists: Sequence[tuple[Sequence[int], Sequence[Sequence[int]]]], *, batch_size: int = LISTS_AT_ONCE, on_batch=None
    ) -> list[list[float]]:
        """Scores of (prompt ids, K answers' ids), each prompt read once for all its answers."""
        found: list[list[float]] = []

        def read(part) -> None:
            scores = self.scale(self.head(self.base.encode_lists(part, self.role))).tolist()
            for _, answers in part:
                found.append(scores[: len(answers)])
                del scores[: len(answers)]
            if on_batch:
                on_batch(len(part))

        MicroBatch(batch_size, None, _SHORTER).over(lists, read)
        return found


def raw_scores(encode, head: ScalarHead, sequences: Sequence[Sequence[int]], *, on_batch=None) -> Tensor:
    """(n,) scores before any scale, without gradients, in batches that shrink where memory runs out."""
    micro = MicroBatch(READ_AT_ONCE, None, _SHORTER)
    return score_all(encode, head, sequences, on_batch=on_batch, in_parts=micro.over)


class RewardEnsemble:
    """All reward models of a run, as one. With a single member, its scores are that member's."""

    def __init__(self, members: Sequence[RewardModel], how: str = "mean", coef: float = 1.0):
        self.members, self._how, self._coef = tuple(members), how, coef

    @staticmethod
    def open(base: SharedBase, directory: Path, settings) -> RewardEnsemble:
        """What the reward stage left in `directory`. `settings` is the `ppo` section, which says how scores are combined."""
        members = [
            RewardModel.open(base, folder, member_role(index))
            for index, folder in enumerate([directory, *sorted(directory.glob(f"{MEMBER}*"))])
        ]
        return RewardEnsemble(members, settings.ensemble, settings.ensemble_coef)

    @property
    def base(self) -> SharedBase:
        return self.members[0].base

    def score(self, sequences: Sequence[Sequence[int]], encode: RoleEncoder | None = None) -> Tensor:
        return self.combine(self.member_scores(sequences, encode))

    def member_scores(self, sequences: Sequence[Sequence[int]], encode: RoleEncoder | None = None) -> Tensor:
        """(m, b): what each member says by itself."""
        return torch.stack([m.score(sequences, encode) for m in self.members])

    def seen(self) -> Tensor:
        """(n,) combined scores of training answers; empty where the reward stage kept none."""
        if not all(m.seen for m in self.members):
            return torch.empty(0)
        return self.combine(torch.tensor([m.seen for m in self.members]))

    def score_all(self, sequences: Sequence[Sequence[int]], on_batch=None) -> list[float]:
        return self._combined(self._each(lambda m, seen: m.score_all(sequences, on_batch=seen), on_batch)).tolist()

    def score_lists(self, lists, *, batch_size: int = 8, on_batch=None) -> list[list[float]]:
        each = self._each(lambda m, seen: m.score_lists(lists, batch_size=batch_size, on_batch=seen), on_batch)
        flat = self._combined([[s for row in rows for s in row] for rows in each])
        return [part.tolist() for part in flat.split([len(answers) for _, answers in lists])]

    def _each(self, read, on_batch) -> list:
        """Every member's reading; only the last one's progress is told, so that a bar counts each answer once."""
        last = len(self.members) - 1
        return [read(member, on_batch if index == last else None) for index, member in enumerate(self.members)]

    def _combined(self, scores: Sequence[Tensor | Sequence[float]]) -> Tensor:
        return self.combine(torch.stack([torch.as_tensor(s) for s in scores]))

    def combine(self, member_scores: Tensor) -> Tensor:
        """(m, b) → (b,), in the way that the run's config asks for."""
        return combine_ensemble(member_scores, how=self._how, coef=self._coef)


def open_test_model(base: SharedBase, directory: Path) -> RewardModel:
    """The reward model of `reward.test_share` that the reward stage left in `directory`, frozen."""
    return RewardModel.open(base, directory / TEST_MODEL, TEST_REWARD)


def member_role(index: int) -> str:
    """The adapter role of a reward model: the first is the one that the value model starts from."""
    return REWARD if index == 0 else f"{REWARD}-{index}"


def member_folder(directory: Path, index: int) -> Path:
    """Where the reward stage keeps a member's files."""
    return directory if index == 0 else directory / f"{MEMBER}{index}"
