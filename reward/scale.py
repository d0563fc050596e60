"""The unit of a reward: mean and standard deviation on reference answers, measured once and frozen with the model.

Without it the same KL coefficient would mean something else each round, since a ranking loss fixes neither level nor scale.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import Tensor


@dataclass(frozen=True)
class Scale:
    """score = (raw − mean) / std, so reference answers have mean 0 and standard deviation 1 (Ziegler et al. 2019, 2.3)."""

    mean: float = 0.0
    std: float = 1.0

    @staticmethod
    def of(raw: Tensor) -> Scale:
        """The scale under which `raw` (n,) has mean 0 and standard deviation 1.

        Raises:
            ValueError: fewer than 2 scores, a score that is not finite, or scores that are all the same.
        """
        std = float(raw.std()) if raw.numel() > 1 else 0.0
        # NaN, of a score that is not finite, is not above anything either.
        if not std > 1e-6:
            raise ValueError(
                f"reward scale: {raw.numel()} reference scores with standard deviation {std:.3g}; the reward model tells no answers apart."
            )
        return Scale(float(raw.mean()), std)

    def __call__(self, raw: Tensor) -> Tensor:
        return (raw - self.mean) / self.std

    def save(self, file: Path) -> None:
        file.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    @staticmethod
    def load(file: Path) -> Scale:
        return Scale(**json.loads(file.read_text(encoding="utf-8")))
