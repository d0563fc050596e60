"""How many bytes each part of a stage holds at its fullest moment. Formulas, no measurement; `benchmarks/plan_check.py` holds them
against what a machine really took."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.planning.shapes import Shape

# Positions whose logits exist at one time (pipeline/ppo/logprobs.py).
LOGIT_CHUNK = 256
FLOAT32 = 4


@dataclass(frozen=True)
class Numbers:
    """How numbers are stored.

    Attributes:
        weight: bytes of one frozen weight that is not quantized, and of one element of the states.
        quantization: of the linear layers' weights: none, 8bit or 4bit.
        eight_bit_optimizer: whether Adam's two moments take one byte each.
        recompute: whether a layer's inner states are thrown away and made again in the backward pass.
    """

    weight: int
    quantization: str = "none"
    eight_bit_optimizer: bool = False
    recompute: bool = False


def weights(shape: Shape, numbers: Numbers) -> float:
    """Bytes of the frozen base.

    4 bits: NF4 in blocks of 64, their maxima quantized to a byte in blocks of 256 (Dettmers et al. 2023, section 3): 1/2 + 1/64 +
    4/(64·256) bytes a parameter. 8 bits: a byte, and a float for each row. Embeddings, norms and biases stay as they are.
    """
    linear = shape.layers * shape.linear_parameters
    if numbers.quantization == "4bit":
        stored = linear * (0.5 + 1 / 64 + 4 / (64 * 256))
    elif numbers.quantization == "8bit":
        stored = linear + shape.layers * sum(out for _, out in shape.linears) * FLOAT32
    else:
        stored = linear * numbers.weight
    return stored + shape.other_parameters * numbers.weight


def adapter_parameters(shape: Shape, rank: int, layers: int) -> int:
    """Of one role: A is (rank, in) and B (out, rank) beside every linear layer of the last `layers` (Hu et al. 2022)."""
    return layers * sum(rank * (a + b) for a, b in shape.linears)


def optimizer(trained: int, numbers: Numbers) -> float:
    """Bytes of Adam's two moments and of the gradient, for `trained` float32 parameters (Kingma & Ba 2015).

    In 8 bits: a byte a moment, and a float32 for each block of 256 (Dettmers et al. 2022).
    """
    moments = 2 * (1 + FLOAT32 / 256) if numbers.eight_bit_optimizer else 2 * FLOAT32
    return trained * (moments + FLOAT32)


def layer_activations(shape: Shape, rank: int, numbers: Numbers) -> float:
    """Bytes a token that one adapted layer keeps for its backward pass.

    A frozen matrix needs none of its input. What is kept: the input of every A in float32 (shared where the weights are float32 and
    several matrices read the same states; a copy each where they are not, since A is float32), the output of every A, the
    input of both norms in float32, queries, keys, values and output of the attention, and gate, its activation and the other
    half of the feed-forward part. Counted with torch's hooks on saved tensors in `tests/test_plan.py`.
    """
    h, f = shape.hidden, shape.inner
    # In float32 the output projection's A reads what the attention keeps anyway.
    adapters_in = 2 * h + f if numbers.weight == FLOAT32 else sum(width for width, _ in shape.linears)
    kept = FLOAT32 * (adapters_in + len(shape.linears) * rank + 2 * h)
    attention = 2 * shape.query + 2 * shape.key_value
    inner = 3 * f if shape.gated else 2 * f
    return kept + numbers.weight * (attention + inner)


def backward(shape: Shape, rank: int, layers: int, tokens: int, numbers: Numbers) -> float:
    """Bytes that a pass over `tokens` keeps until its gradient is taken.

    With recomputing (Chen et al. 2016): the input of each layer, and all of one layer at a time.
    """
    one = tokens * layer_activations(shape, rank, numbers)
    if numbers.recompute:
        return layers * tokens * shape.hidden * numbers.weight + one
    return layers * one


def forward(shape: Shape, tokens: int, numbers: Numbers) -> float:
    """Bytes of the one layer that is at work when nothing is kept: states, and gate, activation and product in the wide part."""
    wide = (3 if shape.gated else 2) * shape.inner
    return tokens * (numbers.weight * (wide + 2 * shape.hidden) + FLOAT32 * (shape.inner + shape.hidden))


def logits(shape: Shape, positions: int, numbers: Numbers, *, learning: bool) -> float:
    """Bytes of the logits of one chunk: the product, itself in float32, and what softmax and its gradient make of it."""
    rows = min(positions, LOGIT_CHUNK)
    return rows * shape.vocabulary * (numbers.weight + FLOAT32 * (3 if learning else 2))


def sampling_logits(shape: Shape, rows: int, numbers: Numbers) -> float:
    """Bytes while one token of every row is drawn: logits, in float32, divided by the temperature, log-softmax and its exponential."""
    return rows * shape.vocabulary * (numbers.weight + FLOAT32 * 4)


def cache(shape: Shape, tokens: int, numbers: Numbers) -> float:
    """Bytes of the keys and values of `tokens`, all layers. One layer exists twice while it grows by a token."""
    return 2 * shape.key_value * tokens * numbers.weight * (shape.layers + 1)
