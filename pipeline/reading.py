"""Whether the passes that train read a model as its own forward pass, which generates, does.

Training runs a model's layers in two parts and makes the logits of their last states itself, as the config says (`pipeline/lm_head.py`). A
model that does more than that (embeddings that are given positions on the way in, logits made in a way of their own) would be trained on
log-probabilities of another model, and nothing else would tell: the ratio of the first step is 1 and KL is 0 all the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from data.errors import UserError
from pipeline.adapters import BASE, SharedBase
from pipeline.decoder import Decoder
from pipeline.evaluation.likelihood import token_logprobs_of
from pipeline.memory import is_out_of_memory
from pipeline.sampling import Sampling

# Of the largest logit. The same arithmetic twice: what is apart is rounding, between two kernels of attention and, far more, in 16 bits or less. A
# cap above all logits of a text changes them by a hundredth, and where nothing is rounded that is seen.
APART, APART_ROUNDED = 0.005, 0.05
# Nats a token, on average, between a log-probability that was given with a draw and the one that training reads. Rounding in bfloat16 stays far
# below; a model that is misread is nats away.
MOST_APART = 0.25
_TOKENS, _DRAWN = 24, 4


@torch.no_grad()
def check_reading(base: SharedBase) -> None:
    """Reads some tokens both ways and as a ranking, and draws some.

    Raises:
        UserError: the logits differ by more than rounding, the model cannot be read from embeddings, in two parts or with answers side by side
            at all, or it draws from another distribution than it reads.
    """
    model = base.causal_lm
    if getattr(model.config.get_text_config(), "hidden_size_per_layer_input", 0):
        raise UserError(
            f"model.name: every layer of {type(model).__name__} looks tokens up by itself (embeddings per layer), and training hands on states "
            "alone. Take another model, of the same family one without them."
        )
    vocabulary = min(len(base.lm_head.weight), model.get_input_embeddings().weight.shape[0])
    ids = torch.randint(vocabulary, (_TOKENS,), generator=torch.Generator().manual_seed(0)).tolist()
    with base.acting_as(BASE):
        # Side by side, the shorter one padded: what a layer does with padding may differ by its kind.
        texts = [ids, ids[: _TOKENS // 3]]
        whole = [model(input_ids=torch.tensor([text], device=base.device), use_cache=False).logits[0].float() for text in texts]
        with _one_line(base, f"cannot be read the way training does{{}}.{_otherwise(base)}"):
            states, _ = base.encode(texts, BASE)
            apart = [_apart(base, read[: len(own)], own) for read, own in zip(states, whole, strict=True)]
        largest = float(whole[0].abs().max())
        most = (APART_ROUNDED if _rounds(model) else APART) * largest
        if not all(found <= most for found in apart):
            raise UserError(
                f"model.name: {type(model).__name__} makes its logits in a way that training does not know: those that training would read differ "
                f"from its own by up to {max(apart):.2g} where the largest is {largest:.2g}.{_otherwise(base)}"
            )
        # As a ranking is read: both answers behind one prompt, which ends where the shorter text does.
        prompt, answer, other = ids[: _TOKENS // 3], ids[_TOKENS // 3 :], ids[::-1]
        with _one_line(base, "cannot read answers side by side, as the reward model does{}. Take another model."):
            beside = base.encode_lists([(prompt, [other, answer])], BASE)
            off = _apart(base, beside[-1:], whole[0][-1:])
        if not off <= most:
            raise UserError(
                f"model.name: {type(model).__name__} reads an answer otherwise where another one stands beside it, as answers do for "
                f"the reward model: its logits differ by up to {off:.2g} where the largest is {largest:.2g}. Take another model."
            )
    with _one_line(base, "cannot draw tokens for rows that come and go{}. Take another model."):
        _check_drawing(base, texts)


def _apart(base: SharedBase, states: torch.Tensor, own: torch.Tensor) -> float:
    """The largest distance of logits (n, v) that training makes of `states` (n, d) from the model's own."""
    return float((base.lm_head.logits(states) - own).abs().max())


def _rounds(model) -> bool:
    return torch.finfo(model.dtype).bits < 32 or bool(getattr(model, "is_quantized", False))


@contextmanager
def _one_line(base: SharedBase, said: str) -> Iterator[None]:
    """What the library says by an error somewhere within it becomes one line; `{}` in `said` is where it stands."""
    try:
        yield
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        if is_out_of_memory(error):
            raise
        first = (str(error).splitlines() or ["no more is known"])[0]
        raise UserError(f"model.name: {type(base.causal_lm).__name__} {said.format(f' ({type(error).__name__}: {first})')}") from error


def _check_drawing(base: SharedBase, prompts: list[list[int]]) -> None:
    """Draws some tokens in rows of unlike length, of which one leaves before the other. A model that passes over the cache, or minds the padding
    before a short prompt, draws from another distribution than its own, and is read well all the same."""
    decoder = Decoder(base.causal_lm, eos_id=-1, pad_id=base.tokenizer.pad_token_id)
    drawn = [[] for _ in prompts]
    with base.acting_as(BASE):
        # From a generator of its own: the run's chance, of which adapters are made next, is not touched.
        decoder.join(prompts, Sampling(2 * _DRAWN, 1.0, seed=0))
        for left in range(_DRAWN):
            for step in decoder.step():
                drawn[step.row].append(step)
            if left == _DRAWN // 2:
                decoder.leave([0])
    again = token_logprobs_of(base, BASE, prompts, [[step.token for step in row] for row in drawn])
    apart = [abs(s.logprob - own) for row, read in zip(drawn, again, strict=True) for s, own in zip(row, read, strict=True)]
    if not sum(apart) <= MOST_APART * len(apart):
        raise UserError(
            f"model.name: {type(base.causal_lm).__name__} draws otherwise than it reads: the log-probabilities of {len(apart)} tokens, drawn row "
            f"beside row, differ from its own by {sum(apart) / len(apart):.2g} nats on average. Take another model."
        )


def _otherwise(base: SharedBase) -> str:
    if base.trunk_layers:
        return " Leave out lora.last_layers, with which its layers are run in two parts, or take another model."
    return " Take another model."
