"""Whether the passes that train read a model as its own forward pass, which generates, does.

Training runs a model's layers in two parts and makes the logits of their last states itself, as the config says (`pipeline/lm_head.py`). A
model that does more than that (embeddings that are given positions on the way in, logits made in a way of their own) would be trained on
log-probabilities of another model, and nothing else would tell: the ratio of the first step is 1 and KL is 0 all the same.
"""

from __future__ import annotations

import torch

from data.errors import UserError
from pipeline.adapters import BASE, SharedBase

# Of the largest logit. The same arithmetic twice: what is apart is rounding, in bfloat16 and between two kernels of attention.
APART = 0.05
_TOKENS = 24


@torch.no_grad()
def check_reading(base: SharedBase) -> None:
    """Reads some tokens both ways.

    Raises:
        UserError: the logits differ by more than rounding.
    """
    model = base.causal_lm
    vocabulary = min(len(base.lm_head.weight), model.get_input_embeddings().weight.shape[0])
    ids = torch.randint(vocabulary, (_TOKENS,), generator=torch.Generator().manual_seed(0)).to(base.device)
    with base.acting_as(BASE):
        whole = model(input_ids=ids[None], attention_mask=torch.ones_like(ids[None]), use_cache=False).logits[0].float()
        states, _ = base.encode([ids.tolist()], BASE)
    apart = base.lm_head.logits(states[0]) - whole
    largest = float(whole.abs().max())
    if not float(apart.abs().max()) <= APART * largest:
        layers = " Leave out lora.last_layers, with which its layers are run in two parts, or take" if base.trunk_layers else " Take"
        raise UserError(
            f"model.name: {type(model).__name__} makes its logits in a way that training does not know: those that training would read differ from "
            f"its own by up to {float(apart.abs().max()):.2g} where the largest is {largest:.2g}.{layers} another model."
        )
