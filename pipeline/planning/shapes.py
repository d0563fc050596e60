"""The shape of a base model: what its memory and its work follow from. Read from its `config.json`, no weights and no network."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.errors import UserError


@dataclass(frozen=True)
class Shape:
    """A decoder of `layers` equal layers.

    Attributes:
        hidden, inner: width of the states, and of the layer's feed-forward part.
        heads, kv_heads, head_dim: attention; keys and values are `kv_heads · head_dim` wide.
        vocabulary: rows of the embedding.
        tied: whether the output embedding is the input embedding.
        gated: whether the feed-forward part has a gate (three matrices, SwiGLU) or not (two).
        fused_qkv: whether queries, keys and values come from one matrix.
        biases: whether the linear layers add a bias.
        qk_norm: whether queries and keys go through norms of their own.
        norms: as wide as the states, in a layer.
        fused_gate: whether both halves of the gated part come from one matrix.
        capped_attention: whether the scores of the attention are capped, which no fused kernel does: they are all made.
    """

    layers: int
    hidden: int
    inner: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool
    gated: bool = True
    fused_qkv: bool = False
    biases: bool = False
    qk_norm: bool = False
    norms: int = 2
    fused_gate: bool = False
    capped_attention: bool = False

    @property
    def query(self) -> int:
        """Width of all queries together."""
        return self.heads * self.head_dim

    @property
    def key_value(self) -> int:
        """Width of the keys, which is that of the values."""
        return self.kv_heads * self.head_dim

    @property
    def linears(self) -> tuple[tuple[int, int], ...]:
        """(in, out) of the linear layers of one layer: those that LoRA adapts and that are stored in few bits."""
        h, f, q, kv = self.hidden, self.inner, self.query, self.key_value
        attention = ((h, q + 2 * kv), (q, h)) if self.fused_qkv else ((h, q), (h, kv), (h, kv), (q, h))
        if self.fused_gate:
            return (*attention, (h, 2 * f), (f, h))
        return (*attention, (h, f), (h, f), (f, h)) if self.gated else (*attention, (h, f), (f, h))

    @property
    def linear_parameters(self) -> int:
        """Of one layer."""
        return sum(a * b for a, b in self.linears)

    @property
    def other_parameters(self) -> int:
        """Embeddings, norms and biases of the whole model: what stays in the weights' number format."""
        embeddings = self.vocabulary * self.hidden * (1 if self.tied else 2)
        biases = sum(out for _, out in self.linears) if self.biases else 0
        return embeddings + (self.norms * self.layers + 1) * self.hidden + self.layers * biases

    @property
    def parameters(self) -> int:
        return self.layers * self.linear_parameters + self.other_parameters


# By `model_type`: families with norms on queries and keys, with two more around each half of a layer, without a gate, and with one matrix for
# several.
_QK_NORMED = ("qwen3", "gemma3", "gemma3_text", "gemma4", "gemma4_text", "olmo2", "olmo3", "exaone4")
_FOUR_NORMS = ("gemma2", "gemma3", "gemma3_text", "gemma4", "gemma4_text", "glm4", "hyperclovax")
_NO_GATE = ("gpt_neox", "gpt2", "opt", "bloom", "falcon", "phi", "starcoder2", "nemotron")
_FUSED_QKV = ("gpt_neox", "gpt2", "bloom", "falcon", "phi3")
_FUSED_GATE = ("phi3", "glm", "glm4")
# The models that the shipped configs name, so that a plan needs no network. From each one's published config.json on the Hub.
_SMOL = Shape(30, 576, 1536, 9, 3, 64, 49152, tied=True)
_LLAMA_8B = Shape(32, 4096, 14336, 32, 8, 128, 128256, tied=False)
_QWEN_8B = Shape(36, 4096, 12288, 32, 8, 128, 151936, tied=False, qk_norm=True)
KNOWN = {
    "smollm2-135m-instruct": _SMOL,
    "HuggingFaceTB/SmolLM2-135M-Instruct": _SMOL,
    "tiny-random": Shape(4, 64, 128, 4, 2, 16, 260, tied=True),
    "HuggingFaceTB/SmolLM2-1.7B-Instruct": Shape(24, 2048, 8192, 32, 32, 64, 49152, tied=True),
    "meta-llama/Llama-3.1-8B": _LLAMA_8B,
    "meta-llama/Llama-3.1-8B-Instruct": _LLAMA_8B,
    "meta-llama/Llama-3.2-1B": (_LLAMA_1B := Shape(16, 2048, 8192, 32, 8, 64, 128256, tied=True)),
    "meta-llama/Llama-3.2-1B-Instruct": _LLAMA_1B,
    "Qwen/Qwen3-8B": _QWEN_8B,
    "Qwen/Qwen3-0.6B": Shape(28, 1024, 3072, 16, 8, 128, 151936, tied=True, qk_norm=True),
    "EleutherAI/pythia-1b-deduped": Shape(
        16, 2048, 8192, 8, 8, 256, 50304, tied=False, gated=False, fused_qkv=True, biases=True
    ),
}


def shape_of(name: str) -> Shape:
    """The shape of `model.name`: of its directory's `config.json`, of the table above, or of the Hub's local cache.

    Raises:
        UserError: none of them knows it; the message says how to plan all the same.
    """
    directory = Path(name).expanduser()
    if directory.is_dir():
        return shape_in(directory / "config.json")
    if name in KNOWN:
        return KNOWN[name]
    cached = _cached(name)
    if cached is not None:
        return shape_in(cached)
    raise UserError(
        f"model.name: the shape of '{name}' is not known here. Give a directory that holds its config.json (that one file is enough for "
        "a plan), or run anything that loads it once."
    )


def shape_in(file: Path) -> Shape:
    """The shape that a `config.json` describes.

    Raises:
        UserError: the file cannot be read, or describes no decoder that this knows.
    """
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise UserError(f"{file}: cannot be read as the model's config ({why}).") from None
    if not isinstance(found, dict):
        raise UserError(f"{file}: cannot be read as the model's config (no object of settings).")
    # Models that also read pictures keep the decoder's part apart.
    decoder = {**found, **(found.get("text_config") or {})}
    if (tied := found.get("tie_word_embeddings")) is not None:
        # What is said of the whole counts, as when it is loaded; the part may still have its default.
        decoder["tie_word_embeddings"] = tied
    return _shape_from(decoder, file)


def _shape_from(found: dict[str, Any], file: Path) -> Shape:
    need = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "vocab_size")
    if missing := [key for key in need if not isinstance(found.get(key), int)]:
        raise UserError(f"{file}: no {', '.join(missing)} in it, so the model's memory cannot be planned.")
    if any("expert" in key and value for key, value in found.items()):
        raise UserError(f"{file}: a mixture of experts, whose memory this plan does not know.")
    kinds = {str(kind) for kind in found.get("layer_types") or ()} | {"mamba" for key in found if key.startswith("mamba_")}
    if unlike := sorted(kinds - {"full_attention", "sliding_attention"}):
        raise UserError(f"{file}: layers of the kind {', '.join(unlike)}, whose memory this plan does not know.")
    if found.get("global_head_dim", found.get("head_dim")) != found.get("head_dim"):
        raise UserError(f"{file}: layers of several shapes, whose memory this plan does not know.")
    heads, hidden = found["num_attention_heads"], found["hidden_size"]
    family = found.get("model_type")
    return Shape(
        layers=found["num_hidden_layers"],
        hidden=hidden,
        inner=found["intermediate_size"],
        heads=heads,
        kv_heads=found.get("num_key_value_heads") or heads,
        head_dim=found.get("head_dim") or hidden // heads,
        vocabulary=found["vocab_size"],
        # What `transformers` takes where the file says nothing.
        tied=bool(found.get("tie_word_embeddings", family != "gpt_neox")),
        gated=family not in _NO_GATE,
        fused_qkv=family in _FUSED_QKV,
        biases=family in _NO_GATE and family != "nemotron",
        qk_norm=family in _QK_NORMED,
        norms=4 if family in _FOUR_NORMS else 2,
        fused_gate=family in _FUSED_GATE,
        capped_attention=bool(found.get("attn_logit_softcapping")),
    )


def _cached(name: str) -> Path | None:
    """The `config.json` that an earlier download left, looked up without a network."""
    from huggingface_hub import try_to_load_from_cache

    try:
        found = try_to_load_from_cache(name, "config.json")
    except ValueError:
        return None
    return Path(found) if isinstance(found, str) else None
