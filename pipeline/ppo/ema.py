"""An exponential moving average of an adapter (Ouyang et al. 2022, appendix C.4: decay 0.992)."""

from __future__ import annotations

from torch import Tensor


class EMA:
    """average ← decay · average + (1 − decay) · current, tensor by tensor; `state` holds the averages by name."""

    def __init__(self, state: dict[str, Tensor], decay: float):
        self.decay = decay
        self.state = {name: tensor.clone() for name, tensor in state.items()}

    def update(self, state: dict[str, Tensor]) -> None:
        for name, average in self.state.items():
            average.lerp_(state[name], 1 - self.decay)

    def load(self, state: dict[str, Tensor]) -> None:
        """Takes up where a saved `state` left off; KeyError where it lacks a tensor."""
        # A checkpoint is read into the machine's own memory; the average lives where the adapter does.
        self.state = {name: state[name].to(own.device, copy=True) for name, own in self.state.items()}
