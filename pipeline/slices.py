"""Parts of a decoder, which share every weight with it and run by its own forward pass."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from data.errors import UserError

# What families of models call the norm after their last layer.
_FINAL_NORMS = ("norm", "final_layer_norm", "final_layernorm", "ln_f", "norm_f", "embedding_norm")
# What Granite and those after it multiply whatever comes into their layers by: once, not at the door of every part.
_ENTRY_SCALE = "embedding_multiplier"


def layers_of(decoder: nn.Module, first: int, end: int) -> nn.Module:
    """A view of the decoder that runs layers `first` to `end` on given states; it shares every weight with the original.

    A shallow copy with its own list of layers, so that the architecture's own forward (masks, rotary embedding) is used as it
    is. The final norm belongs to the upper part alone.
    """
    part = copy.copy(decoder)
    part._modules = dict(decoder._modules)
    part.config = copy.copy(decoder.config)
    part.config.num_hidden_layers = end - first
    # The forward pass looks up each layer's kind of attention by its place among those that it runs. Where the kinds are no field of the
    # config but follow from others, `pipeline/reading.py` finds out whether they still fit.
    if vars(decoder.config).get("layer_types"):
        part.config.layer_types = decoder.config.layer_types[first:end]
    part.layers = nn.ModuleList(decoder.layers[first:end])
    if first and hasattr(part, _ENTRY_SCALE):
        setattr(part, _ENTRY_SCALE, 1.0)
    if end < len(decoder.layers):
        name = next((name for name in _FINAL_NORMS if hasattr(decoder, name)), None)
        if name is None:
            raise UserError(
                f"lora.last_layers: {type(decoder).__name__} has its final norm under another name than {', '.join(_FINAL_NORMS)}, so its "
                "lower layers cannot be run by themselves. Leave the setting out to adapt all layers."
            )
        setattr(part, name, nn.Identity())
    return part


class Recomputed(nn.Module):
    """A layer that keeps its input alone for the backward pass, and runs again there, in the role that it ran in."""

    def __init__(self, layer: nn.Module, base):
        super().__init__()
        self.layer = layer
        # Past nn.Module's registry: the base holds this module, and would be part of itself.
        object.__setattr__(self, "base", base)

    def __getattr__(self, name: str):
        # The decoder asks its layers which kind of attention they are.
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.layer, name)

    def forward(self, *args, **kwargs):
        if not torch.is_grad_enabled():
            return self.layer(*args, **kwargs)
        role = self.base.active

        def run(*args, **kwargs):
            # The backward pass comes when the block that chose the role has ended: another adapter would be read, in silence.
            with self.base.acting_as(role):
                return self.layer(*args, **kwargs)

        # Dropout is off in every role that comes here, so no chance has to be repeated.
        return checkpoint(run, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)
