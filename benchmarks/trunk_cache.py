"""The trunk's states of ranked lists on disk, so that many reward models are trained above one reading of the texts.

With adapters on the last N layers only, everything below them is the same for every reward model, every fold and every epoch. A list is
a file of its own, named by the sha256 of its token ids, the model and the number of layers, so a reading that was stopped goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline.adapters import Lists, SharedBase

Ids = Sequence[int]
EncodedList = tuple[Ids, Sequence[Ids]]


class TrunkCache:
    """Trunk states of (prompt ids, K answers' ids) from disk, and the upper layers above them."""

    def __init__(self, base: SharedBase, directory: Path, model_name: str):
        self.base, self.directory, self._model = base, directory, model_name
        directory.mkdir(parents=True, exist_ok=True)

    def fill(self, lists: Sequence[EncodedList], on_list: Callable[[int], None] = lambda tokens: None) -> None:
        """Reads what is not on disk yet, one list at a time: no padding, and a stop loses one list."""
        for prompt, answers in lists:
            file = self._file(prompt, answers)
            if file.exists():
                on_list(0)
                continue
            layout = self._layout([(prompt, answers)])
            states = self.base.list_trunk(layout)[0].contiguous().cpu()
            file.parent.mkdir(exist_ok=True)
            partial = file.with_suffix(".partial")
            save_file({"states": states}, partial)
            os.replace(partial, file)
            on_list(len(states))

    def encode(self, lists: Sequence[EncodedList], role: str) -> Tensor:
        """(Σ K, d), as `SharedBase.encode_lists`, differentiable with respect to the adapter of `role`.

        Raises:
            FileNotFoundError: a list was not read before.
        """
        kept = [load_file(self._file(prompt, answers))["states"] for prompt, answers in lists]
        layout = self._layout(lists)
        trunk = kept[0].new_zeros((*layout.ids.shape, kept[0].shape[1]))
        for row, states in zip(trunk, kept, strict=True):
            row[: len(states)] = states
        return self.base.list_states(trunk.to(self.base.device), layout, role)

    def _layout(self, lists: Sequence[EncodedList]) -> Lists:
        return Lists.of(lists, self.base.tokenizer.pad_token_id, self.base.device)

    def _file(self, prompt: Ids, answers: Sequence[Ids]) -> Path:
        said = json.dumps([self._model, self.base.trunk_layers, list(prompt), [list(a) for a in answers]])
        name = hashlib.sha256(said.encode()).hexdigest()
        return self.directory / name[:2] / f"{name}.safetensors"
