"""The reward model: a scalar head on the last real token of a conversation, over an encoder that somebody else owns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

# Token ids of conversations → final states (b, t, d), right-padded, and lengths (b,).
Encoder = Callable[[Sequence[Sequence[int]]], tuple[Tensor, Tensor]]
# Lists of (prompt ids, K answers' ids) → the final state at every answer's last token, (Σ K, d), list by list.
ListEncoder = Callable[[Sequence[tuple[Sequence[int], Sequence[Sequence[int]]]]], Tensor]


class ScalarHead(nn.Linear):
    """(…, d) → (…): a reward or a value from a final state, always in float32.

    Initialised N(0, 1/√(d+1)), bias 0 (Huang et al. 2024, detail 11).
    """

    def __init__(self, hidden_size: int):
        super().__init__(hidden_size, 1, dtype=torch.float32)
        nn.init.normal_(self.weight, std=(hidden_size + 1) ** -0.5)
        nn.init.zeros_(self.bias)

    def forward(self, states: Tensor) -> Tensor:
        return super().forward(states.float()).squeeze(-1)

    def save(self, file: Path) -> None:
        save_file({name: t.detach().contiguous().cpu() for name, t in self.state_dict().items()}, file)

    def load(self, file: Path) -> None:
        self.load_state_dict(load_file(file))


def last_states(states: Tensor, lengths: Tensor) -> Tensor:
    """(b, t, d), (b,) → (b, d): the state of each row's last real token, whatever stands after it."""
    return states[torch.arange(len(states), device=states.device), lengths - 1]


def score(encode: Encoder, head: ScalarHead, sequences: Sequence[Sequence[int]]) -> Tensor:
    """(b,) float32 scores of whole conversations, prompt and answer.

    The score is read at the last real token: EOS where the answer ended, the last word where it was cut off, so that the
    model can tell the two apart (Huang et al. 2024, detail 12).
    """
    states, lengths = encode(sequences)
    return head(last_states(states, lengths))


@torch.no_grad()
def score_all(
    encode: Encoder,
    head: ScalarHead,
    sequences: Sequence[Sequence[int]],
    *,
    in_parts: Callable[[Sequence[int], Callable[[Sequence[int]], None]], None],
    on_batch: Callable[[int], None] | None = None,
) -> Tensor:
    """(n,) scores in the order given; sequences of similar length share a batch, which bounds the padding.

    Args:
        in_parts: goes through rows in batches of its own choice; again with fewer when memory ran out.
    """
    order = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
    scores = torch.empty(len(sequences))

    def read(rows: Sequence[int]) -> None:
        scores[rows] = score(encode, head, [sequences[i] for i in rows]).cpu()
        if on_batch:
            on_batch(len(rows))

    in_parts(order, read)
    return scores
