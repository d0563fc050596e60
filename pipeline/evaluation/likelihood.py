"""How probable a role finds given texts."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pipeline.adapters import Batch, SharedBase
from pipeline.memory import READ_AT_ONCE, MicroBatch
from pipeline.ppo.logprobs import token_logprobs


class Texts:
    """Continuations of given openings, to be read by one role after another."""

    def __init__(
        self,
        base: SharedBase,
        openings: Sequence[Sequence[int]],
        continuations: Sequence[Sequence[int]],
        *,
        keep_trunk: bool = False,
    ):
        """
        Args:
            openings, continuations: token ids, each at least one.
            keep_trunk: hold the states below the adapters, which no training changes, from one reading to the next.
        """
        self.base, self.keep_trunk = base, keep_trunk
        self._openings, self._continuations = list(openings), list(continuations)
        # Batches of like length, which bounds the padding.
        self._order = sorted(range(len(self._openings)), key=lambda i: len(openings[i]) + len(continuations[i]))
        self._micro = MicroBatch(READ_AT_ONCE, None, "data.max_prompt_tokens or evaluation.max_new_tokens")
        self._trunks: dict[tuple[int, ...], torch.Tensor] = {}

    @torch.no_grad()
    def logprobs(self, role: str, temperature: float = 1.0) -> list[list[float]]:
        """Per text: log π of the continuation's tokens in nats, in the order given."""
        found: list[list[float]] = [[] for _ in self._openings]

        def read(rows: Sequence[int]) -> None:
            ids = [[*self._openings[i], *self._continuations[i]] for i in rows]
            batch = Batch.of(ids, self.base.tokenizer.pad_token_id, self.base.device)
            trunk = self._trunks.get(tuple(rows))
            if trunk is None:
                trunk = self.base.trunk(batch)
                if self.keep_trunk:
                    self._trunks[tuple(rows)] = trunk
            states = self.base.states(trunk, batch.mask, role)
            for j, i in enumerate(rows):
                # The state before a token predicts it.
                first = len(self._openings[i]) - 1
                said = self._continuations[i]
                found[i] = token_logprobs(
                    states[j, first : first + len(said)],
                    self.base.lm_head,
                    torch.tensor(said, device=states.device),
                    temperature=temperature,
                )[0].tolist()

        size = self._micro.size
        self._micro.over(self._order, read)
        if self._micro.size != size:
            # Of batches that will not come again.
            self._trunks.clear()
        return found


def token_logprobs_of(
    base: SharedBase,
    role: str,
    openings: Sequence[Sequence[int]],
    continuations: Sequence[Sequence[int]],
    temperature: float = 1.0,
) -> list[list[float]]:
    """`Texts` read once."""
    return Texts(base, openings, continuations).logprobs(role, temperature)
