"""How many bytes each part of a stage holds at its fullest moment. Formulas, no measurement; `benchmarks/plan_check.py` holds them
against what a machine really took."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.planning.shapes import Shape

# Positions whose logits exist at one time (pipeline/ppo/logprobs.py).
LOGIT_CHUNK = 256
# Positions and vocabulary of a tile of logits in TRL's trainers (trl 1.16, kernels/chunked_logprob.py and trainer/utils.py), and how many
# float32 copies of one there are at a time where no kernel of a card folds it in place, beside one of truth values.
TILE, TILE_COPIES = (4096, 32768), 7
FLOAT32 = 4


@dataclass(frozen=True)
class Numbers:
    """How numbers are stored.

    Attributes:
        weight: bytes of one frozen weight that is not quantized, and of one element of the states.
        quantization: of the linear layers' weights: none, 8bit or 4bit.
        eight_bit_optimizer: whether Adam's two moments take one byte each.
        recompute: whether a layer's inner states are thrown away and made again in the backward pass.
        on_card: whether the kernels of a card are at hand.
    """

    weight: int
    quantization: str = "none"
    eight_bit_optimizer: bool = False
    recompute: bool = False
    on_card: bool = False


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


def layer_activations(shape: Shape, rank: int, numbers: Numbers, *, length: int, mask_given: bool = False) -> float:
    """Bytes a token that one adapted layer keeps for its backward pass, in a batch with padding.

    A frozen matrix needs none of its input. What is kept: the input of every A in float32 (shared where the weights are float32 and
    several matrices read the same states; a copy each where they are not, since A is float32), the output of every A, the
    input of the norms, queries, keys, values and output of the attention, and gate, its activation and the other half of the
    feed-forward part. Keys and values are as wide as the queries: under a mask each head gets its own copy. The older families keep the
    one matrix that queries, keys and values are cut from, and its three parts. Counted with torch's hooks on saved tensors in
    `tests/test_plan.py`.

    Args:
        length: of a row.
        mask_given: whether a layer gets the mask of its attention ready to be added; else each makes it anew.
    """
    h, f, q = shape.hidden, shape.inner, shape.query
    # In float32 the output projection's A reads what the attention keeps anyway.
    adapters_in = 2 * h + f if numbers.weight == FLOAT32 else sum(width for width, _ in shape.linears)
    kept = FLOAT32 * (adapters_in + len(shape.linears) * rank)
    mask = 0 if mask_given else length
    if shape.capped_attention:
        # The hyperbolic tangent, the softmax in float32, and that in the weights' format where it is another.
        kept += shape.heads * length * (numbers.weight + FLOAT32 + (numbers.weight if numbers.weight != FLOAT32 else 0))
        mask = 0
    if shape.gated:
        norms = FLOAT32 * (shape.norms * h + (q + shape.key_value if shape.qk_norm else 0))
        return kept + norms + numbers.weight * (4 * q + 3 * f + mask)
    # Both norms of a layer read the same states, and keep them as they are.
    attention = 6 * q + (q if numbers.weight == FLOAT32 else 0)
    return kept + numbers.weight * (h + attention + f + mask)


def backward(
    shape: Shape, rank: int, layers: int, tokens: int, numbers: Numbers, *, length: int, mask_given: bool = False
) -> float:
    """Bytes that a pass over `tokens`, in rows of `length`, keeps until its gradient is taken.

    With recomputing (Chen et al. 2016): the input of each layer, and all of one layer at a time.
    """
    one = tokens * layer_activations(shape, rank, numbers, length=length, mask_given=mask_given)
    kept = layers * tokens * shape.hidden * numbers.weight + one if numbers.recompute else layers * one
    return kept + unpacked(shape, numbers)


def forward(shape: Shape, tokens: int, numbers: Numbers, *, length: int) -> float:
    """Bytes of the one layer that is at work when nothing is kept, in its wide part: the states before and within it, one or both halves of the
    wide part, and twice in float32 what an adapter adds to the second, before and after it is scaled. Where scores are capped: at the
    softmax, if that takes more.

    Args:
        length: of a row: what each token looks back on.
    """
    wide = (2 if shape.gated else 1) * shape.inner
    cast = 0 if numbers.weight == FLOAT32 else shape.hidden
    states = tokens * (numbers.weight * (wide + 4 * shape.hidden) + FLOAT32 * (2 * shape.inner + cast))
    if shape.capped_attention:
        scores = tokens * shape.heads * length * (numbers.weight + FLOAT32)
        states = max(states, scores + tokens * numbers.weight * (2 * shape.hidden + 4 * shape.query))
    return states + unpacked(shape, numbers)


def unpacked(shape: Shape, numbers: Numbers) -> float:
    """Bytes of the largest 4-bit matrix as a product over many tokens makes it first, with the maxima of its blocks of 64 in float32."""
    if numbers.quantization != "4bit":
        return 0
    return max(a * b for a, b in shape.linears) * (numbers.weight + FLOAT32 / 64)


def logits(shape: Shape, positions: int, numbers: Numbers, *, learning: bool) -> float:
    """Bytes of the logits of one chunk: the product, itself in float32, and what softmax and its gradient make of it."""
    rows = min(positions, LOGIT_CHUNK)
    return rows * shape.vocabulary * (numbers.weight + FLOAT32 * (3 if learning else 2))


def trainer_logits(shape: Shape, tokens: int, numbers: Numbers) -> float:
    """Bytes of the logits in TRL's trainers: one tile and what its gradient is made of, and the gradient of the states in float32."""
    tile = min(tokens, TILE[0]) * min(shape.vocabulary, TILE[1])
    folded = 0 if numbers.on_card else TILE_COPIES * FLOAT32 + 1
    return tile * (numbers.weight + folded) + FLOAT32 * tokens * shape.hidden


def sampling_logits(shape: Shape, rows: int, numbers: Numbers) -> float:
    """Bytes while one token of every row is drawn: logits, in float32, divided by the temperature, log-softmax and its exponential."""
    return rows * shape.vocabulary * (numbers.weight + FLOAT32 * 4)


def cache(shape: Shape, tokens: int, numbers: Numbers) -> float:
    """Bytes of the keys and values of `tokens`, all layers. One layer exists twice while it grows by a token."""
    return 2 * shape.key_value * tokens * numbers.weight * (shape.layers + 1)
