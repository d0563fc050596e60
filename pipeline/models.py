"""The base model and its tokenizer: the embedded one, a tiny random one, a local directory or a Hub id."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from data.errors import UserError
from data.numbers import many
from pipeline.context import context_of
from pipeline.tokenizing import give_pad, tiny_tokenizer
from pipeline.weights import TINY_RANDOM, locate

_TINY_CONTEXT = 1024
# Of letters that every alphabet's tokenizer has, whatever else it reads.
_SOME_TEXT = "What is 2 + 3?"


def load(settings):
    """Base model (on its device, evaluation mode, all weights frozen) and tokenizer for `config.model`.

    Dropout stays off in every role (Huang et al. 2024, detail 7): a log-probability must not depend on the mode.

    Raises:
        UserError: the path does not exist, the embedded package is missing, or the tokenizer and the embedding do not fit.
    """
    from transformers import AutoModelForCausalLM

    source, device = locate(settings), choose_device(settings.device)
    tokenizer = load_tokenizer(settings, source)
    dtype = choose_dtype(settings.dtype, device)
    if settings.name == TINY_RANDOM:
        model = _tiny_model(len(tokenizer), tokenizer, dtype).to(device)
    else:
        chosen = _quantization(settings, device)
        whole = _config(settings, source)
        with _loading(settings):
            model, found = AutoModelForCausalLM.from_pretrained(
                source,
                **_text_alone(whole),
                revision=settings.revision,
                dtype=dtype,
                trust_remote_code=settings.trust_remote_code,
                use_safetensors=True,
                output_loading_info=True,
                # Told so by the caller, weights of other shapes are an entry of `found`.
                ignore_mismatched_sizes=True,
                # Not even as None: that would take the place of what the checkpoint itself says of its weights.
                **({"quantization_config": chosen} if chosen else {}),
                # Straight to the card, one tensor at a time: the whole base never stands in the machine's own memory.
                device_map={"": device} if device.type != "cpu" else None,
            )
        if other := sorted(found["mismatched_keys"], key=str):
            name, has, wanted = other[0]
            raise UserError(
                f"model.name: in '{settings.name}' {many(len(other), 'weight has', 'weights have')} another shape than its config says, {name} first "
                f"({tuple(has)}, not {tuple(wanted)}): they would be made up at random. Take config and weights of the same model."
            )
        if missing := sorted(found["missing_keys"]):
            raise UserError(
                f"model.name: '{settings.name}' lacks {len(missing)} of the weights that its config names, {missing[0]} first: they would be made up "
                "at random. Fetch it anew, or name the whole model (not an adapter, and not a part of one)."
            )
    rows = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        if tokenizer.pad_token_id >= rows and len(tokenizer) == rows + 1:
            # Its row is drawn, and like every weight it is part of the model's identity and does not follow the run's seed.
            with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
                torch.manual_seed(0)
                model.resize_token_embeddings(len(tokenizer))
        else:
            raise UserError(
                f"model {settings.name}: the tokenizer has {len(tokenizer)} tokens, the embedding {rows} rows. "
                "Use the tokenizer that belongs to the model."
            )
    if device.type == "cpu":
        _keep_gradients(model)
    model.config.pad_token_id = tokenizer.pad_token_id
    model.requires_grad_(False)
    return model.eval(), tokenizer


def _text_alone(config) -> dict:
    """What loads the decoder of a model that also reads pictures or sound, and leaves the rest on the disk; nothing for a model of text."""
    text = config.get_text_config()
    if text is config:
        return {}
    # The outer config says so for the whole, and the inner one may still have its default.
    if hasattr(config, "tie_word_embeddings"):
        text.tie_word_embeddings = config.tie_word_embeddings
    if quantized := getattr(config, "quantization_config", None):
        text.quantization_config = quantized
    return {"config": text, "key_mapping": {r"^(model\.)?language_model\.(model\.)?": "model."}}


def load_tokenizer(settings, source: Path | str | None = None):
    """The tokenizer with a padding token of its own.

    Padding with EOS hides the end of an answer from masks and from sequence-classification heads, in silence.
    """
    if settings.name == TINY_RANDOM:
        return tiny_tokenizer()
    from transformers import AutoTokenizer

    source = source or locate(settings)
    with _loading(settings):
        tokenizer = AutoTokenizer.from_pretrained(
            source, revision=settings.revision, trust_remote_code=settings.trust_remote_code
        )
    # Where the files lack, the library makes an empty one of the model's family, by which all text is one unknown token.
    if not set(tokenizer(_SOME_TEXT, add_special_tokens=False).input_ids) - {tokenizer.unk_token_id}:
        raise UserError(
            f"model {settings.name}: its tokenizer reads no word of {_SOME_TEXT!r}. Where tokenizer.json is missing, fetch it: without it an empty "
            "tokenizer is made."
        )
    if settings.chat_template is not None:
        try:
            tokenizer.chat_template = Path(settings.chat_template).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"model.chat_template: {settings.chat_template} cannot be read ({error}). Name a Jinja file.") from None
    if tokenizer.eos_token_id is None:
        raise UserError(
            f"model {settings.name}: its tokenizer has no end-of-sequence token, so no answer could ever end."
        )
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        give_pad(tokenizer)
    return tokenizer


def context_tokens(settings) -> int | None:
    """Tokens that the model of `config.model` reads at most, from its `config.json` alone; None where it names no limit."""
    if settings.name == TINY_RANDOM:
        return _TINY_CONTEXT
    return context_of(_config(settings, locate(settings)))


def _config(settings, source: Path | str):
    from transformers import AutoConfig

    with _loading(settings):
        return AutoConfig.from_pretrained(source, revision=settings.revision, trust_remote_code=settings.trust_remote_code)


def choose_device(name: str) -> torch.device:
    """`auto` is the GPU where torch sees one. Everything else of a run follows the base: heads, adapters, rollouts, generators.

    Raises:
        UserError: a GPU is asked for and torch sees none.
    """
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError(
            f"model.device: cuda, but torch {torch.__version__} sees no GPU here. Set it to auto or cpu, or install a build of torch "
            "with CUDA and a driver."
        )
    # With its number: a device without one is not equal to that of a tensor which lies there.
    return torch.device("cuda", torch.cuda.current_device())


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 where the processor multiplies it natively (measured twice as fast there), else float32."""
    if name != "auto":
        return getattr(torch, name)
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if native else torch.float32


def _quantization(settings, device: torch.device):
    if settings.quantization == "none":
        return None
    if device.type == "cpu" and not settings.allow_cpu_quantization:
        raise UserError(
            f"model.quantization: '{settings.quantization}' without a GPU is slower than 'none'. Set it to none, or "
            "model.allow_cpu_quantization to true if you want it all the same."
        )
    from transformers import BitsAndBytesConfig

    if settings.quantization == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=choose_dtype(settings.dtype, device),
    )


def _keep_gradients(model) -> None:
    """On processors with AVX-512 BF16, bitsandbytes repacks a 4-bit layer in evaluation mode at its first pass without gradients, and the
    kernel for that packing has no backward: adapters below it would learn from a wrong gradient, in silence."""
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


@contextmanager
def _loading(settings) -> Iterator[None]:
    """What the library says of files that are missing, damaged or of another kind becomes one line; it has many kinds of errors for them."""
    name = settings.name
    try:
        yield
    except ImportError as error:
        if settings.quantization == "none":
            raise UserError(
                f"model.name: '{name}' needs what is not installed here ({_first_line(error)}). Install it, or take another model."
            ) from None
        raise UserError(
            f"model.quantization: {settings.quantization} cannot be had here ({_first_line(error)}). Install bitsandbytes and accelerate, or set "
            "it to none."
        ) from None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, SafetensorError, StrictDataclassError) as error:
        way = "Offline, give a local directory; a Hub id reads 'org/name'."
        if Path(name).expanduser().is_dir():
            way = "Something in that directory is missing, damaged or of another model: fetch it anew."
        raise UserError(f"model.name: '{name}' could not be loaded ({_first_line(error)}). {way}") from None


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]


def _tiny_model(vocabulary: int, tokenizer, dtype: torch.dtype):
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=_TINY_CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    # The weights are part of the model's identity, so they do not follow the run's seed.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LlamaForCausalLM(config).to(dtype)
