"""The output embedding with everything that stands between its product and the softmax: some families scale their logits, cap them, or add a
bias. Whoever reads log-probabilities goes through here, so that they are those of the model that generates."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# What families of models call the number that their logits are multiplied by, and those that divide by it.
_MULTIPLIERS = ("logit_scale", "output_multiplier", "lm_head_multiplier")
_DIVISOR = "logits_scaling"
# What they are capped by.
_CAPS = ("final_logit_softcapping", "logits_soft_cap")
# Has the divisor's name, and multiplies.
_MULTIPLIES_ALL_THE_SAME = "hyperclovax"


@dataclass(frozen=True)
class LMHead:
    """z = c · tanh(a (W s + b) / c), or a (W s + b) where nothing is capped (Gemma Team 2024, section 2: logit soft-capping).

    Attributes:
        weight: W, (v, d) output embedding, frozen in every role.
        bias: b, (v,) or None.
        scale: a.
        cap: c > 0, or None.
    """

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    cap: float | None = None

    @staticmethod
    def of(model) -> LMHead:
        """What the config of a causal LM says. Whether the model does so is not taken on trust: `pipeline/reading.py`."""
        config, layer = model.config.get_text_config(), model.get_output_embeddings()
        cap = next((found for name in _CAPS if (found := getattr(config, name, None))), None)
        return LMHead(layer.weight, getattr(layer, "bias", None), _scale(config), float(cap) if cap else None)

    def logits(self, states: Tensor) -> Tensor:
        """(…, v) float32 logits of states (…, d). What a plain head leaves out costs nothing."""
        logits = (states @ self.weight.T).float()
        if self.bias is not None:
            logits = logits + self.bias.float()
        if self.scale != 1:
            logits = logits * self.scale
        return logits if self.cap is None else self.cap * torch.tanh(logits / self.cap)

    def slope(self, logits: Tensor) -> Tensor | None:
        """1 − (z/c)², which is dz / d(a (W s + b)); None where nothing is capped and it is 1."""
        return None if self.cap is None else (logits / self.cap).square_().neg_().add_(1)

    def states_gradient(self, gradient: Tensor, slope: Tensor | None) -> Tensor:
        """(n, d) dL/ds = dL/dz · slope · a W. Overwrites `gradient`.

        Args:
            gradient: (n, v) float32 dL/dz.
            slope: of the same positions, from `slope`.
        """
        if slope is not None:
            gradient = gradient.mul_(slope)
        if self.scale != 1:
            gradient = gradient.mul_(self.scale)
        return gradient.to(self.weight.dtype) @ self.weight


def _scale(config) -> float:
    for name in _MULTIPLIERS:
        if (found := getattr(config, name, None)) is not None:
            return float(found)
    found = getattr(config, _DIVISOR, None)
    if found is None:
        return 1.0
    return float(found) if config.model_type == _MULTIPLIES_ALL_THE_SAME else 1 / float(found)
