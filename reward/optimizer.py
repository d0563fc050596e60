"""The optimizer of adapters and heads: torch's AdamW, or the one of bitsandbytes whose moments take a byte each."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

ADAMW, PAGED_8BIT = "adamw", "paged_adamw_8bit"
# What bitsandbytes wraps in a dictionary of its own, so that sharding leaves it alone; unwrapped again when it loads.
_WRAPPED = "__bnb_optimizer_quant_state__"


def make_optimizer(kind: str, parameters: Iterable, **settings) -> torch.optim.Optimizer:
    """AdamW over `parameters` (or groups of them), decoupled weight decay (Loshchilov & Hutter 2019).

    `paged_adamw_8bit` keeps both moments of every tensor of 4096 numbers or more in 8 bits, blockwise (Dettmers et al. 2022), in memory
    that the driver moves to the machine's own when the card is full.
    """
    if kind == ADAMW:
        return torch.optim.AdamW(parameters, **settings)
    from bitsandbytes.optim import PagedAdamW8bit

    return PagedAdamW8bit(parameters, **settings)


def tensors_of(optimizer: torch.optim.Optimizer, prefix: str) -> dict[str, Tensor]:
    """Everything that the next step depends on, as tensors named `prefix` + index/slot."""
    found: dict[str, Tensor] = {}
    memory: set[int] = set()
    for index, slots in optimizer.state_dict()["state"].items():
        for slot, value in {**slots, **slots.get(_WRAPPED, {})}.items():
            if slot != _WRAPPED:
                tensor = torch.as_tensor(value)
                # All tensors share one table of what a byte stands for; a file has no two names for one piece of memory.
                shared = tensor.dim() and tensor.data_ptr() in memory
                found[f"{prefix}{index}/{slot}"] = tensor.clone() if shared else tensor
                memory.add(tensor.data_ptr())
    return found


def load_tensors(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], prefix: str) -> None:
    """Puts back what `tensors_of` gave."""
    ours = isinstance(optimizer, torch.optim.AdamW)
    state: dict[int, dict] = {}
    for name, tensor in tensors.items():
        if name.startswith(prefix):
            index, slot = name.removeprefix(prefix).split("/")
            # The steps taken: a tensor in torch's, a number in the other.
            state.setdefault(int(index), {})[slot] = tensor if ours or tensor.dim() else int(tensor)
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
