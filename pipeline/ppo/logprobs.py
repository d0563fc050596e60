"""Log-probabilities of tokens from final states, without ever holding all logits.

At a vocabulary of 49k one float32 row of logits is 200 kB: the logits, not the weights, fill the memory. They are made chunk by
chunk and made again in the backward pass.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.lm_head import LMHead


def token_logprobs(
    states: Tensor,
    head: LMHead,
    tokens: Tensor,
    *,
    temperature: float,
    with_entropy: bool = False,
    chunk: int = 256,
) -> tuple[Tensor, Tensor | None]:
    """log p(token) under softmax(z / τ), z the logits of the states, in nats.

    The temperature belongs inside: tokens were drawn at τ, so their probability is that at τ (Huang et al. 2024).

    Args:
        states: (n, d) final state of the position before each token.
        head: makes the logits; frozen: it gets no gradient.
        tokens: (n,) token ids.
        temperature: τ > 0.
        with_entropy: also H = −Σ p log p of each position.
        chunk: positions whose logits exist at one time.

    Returns:
        (n,) float32 log-probabilities, and (n,) float32 entropies or None.
    """
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}, must be above 0")
    if states.dim() != 2 or tokens.shape != states.shape[:1]:
        raise ValueError(
            f"states {tuple(states.shape)} and tokens {tuple(tokens.shape)} do not match; expected (n, d) and (n,)"
        )
    logprobs, entropy = _TokenLogprobs.apply(states, head, tokens, temperature, with_entropy, chunk)
    return logprobs, entropy if with_entropy else None


class _TokenLogprobs(torch.autograd.Function):
    """d log p_y / dz = (1_y − p) / τ      dH / dz = −p (log p + H) / τ      d/dstate: `LMHead.states_gradient`"""

    @staticmethod
    def forward(ctx, states, head, tokens, temperature, with_entropy, chunk):
        logprobs = torch.empty(len(states), dtype=torch.float32, device=states.device)
        entropy = torch.zeros_like(logprobs)
        for start in range(0, len(states), chunk):
            part = slice(start, start + chunk)
            logits = head.logits(states[part]) / temperature
            total = logits.logsumexp(-1)
            logprobs[part] = logits.gather(1, tokens[part, None]).squeeze(1) - total
            if with_entropy:
                everything = logits - total[:, None]
                entropy[part] = -(everything.exp() * everything).sum(-1)
        ctx.save_for_backward(states, tokens, entropy)
        ctx.head, ctx.temperature, ctx.with_entropy, ctx.chunk = head, temperature, with_entropy, chunk
        return logprobs, entropy

    @staticmethod
    def backward(ctx, grad_logprobs, grad_entropy):
        states, tokens, entropy = ctx.saved_tensors
        grad = torch.empty_like(states)
        for start in range(0, len(states), ctx.chunk):
            part = slice(start, start + ctx.chunk)
            logits = ctx.head.logits(states[part])
            slope = ctx.head.slope(logits)
            log_p = torch.log_softmax(logits.div_(ctx.temperature), dim=-1)
            del logits
            p = log_p.exp()
            if ctx.with_entropy:
                inner = -grad_entropy[part, None] * p * (log_p + entropy[part, None]) - grad_logprobs[part, None] * p
            else:
                inner = p.mul_(-grad_logprobs[part, None])
            inner.scatter_add_(1, tokens[part, None], grad_logprobs[part, None])
            grad[part] = ctx.head.states_gradient(inner.div_(ctx.temperature), slope)
        return grad, None, None, None, None, None
