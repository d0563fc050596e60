"""The library's continuous batching for one rollout: what it must be told, and what it must not leave behind.

It runs its loop in a thread, draws from torch's own generators, switches the model's attention and takes what memory is free. Here the thread
ends before `draw` does, whatever happens; generators and attention are given back as they were; and the pages are as many as the rows need.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields

import torch
from transformers import DynamicCache, GenerationConfig
from transformers.cache_utils import DynamicLayer
from transformers.generation.configuration_utils import ContinuousBatchingConfig
from transformers.utils import is_flash_attn_2_available

from pipeline.generation import Sample, Sampling
from pipeline.memory import is_out_of_memory

# Prompt tokens read in one pass, at least: the attention's mask grows with them times the pages.
PASS_TOKENS = 512
# Tokens a page; flash attention's tables of pages want more.
PAGE, FLASH_PAGE = 32, 256
_SETTINGS = {field.name for field in fields(ContinuousBatchingConfig)}


class Cannot(Exception):
    """The library does not serve this model; the message says why."""


class Failed(Cannot):
    """It did not serve it this time, and may the next."""


def draw(
    model,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    seed: int,
    *,
    eos_id: int,
    pad_id: int,
    rows: int,
    record: bool | None,
) -> list[Sample]:
    """One answer a prompt, in the order given, `rows` at a time.

    Args:
        model: a causal LM (adapters already chosen by the caller).
        seed: all chance follows from it.
        record: as in `ContinuousEngine`.

    Raises:
        Cannot: the library refuses the model; or, as Failed, it failed with it.
        RuntimeError, MemoryError: memory ran out.
    """
    if not getattr(model, "_supports_attention_backend", False) or not hasattr(model, "init_continuous_batching"):
        # Not all that lack pages of keys and values refuse them: some would read the rows as one text.
        raise Cannot(f"{type(model).__name__} does not take its attention from the library")
    if not all(type(layer) is DynamicLayer for layer in DynamicCache(config=model.config).layers):
        raise Cannot("it keeps windows or recurrent states")
    flash = _flash(model)
    how = GenerationConfig(
        do_sample=sampling.temperature > 0,
        # The tokenizer's end alone: the model's own generation config may name more.
        eos_token_id=eos_id,
        pad_token_id=pad_id,
        max_new_tokens=sampling.max_new_tokens,
        **({"temperature": float(sampling.temperature), "top_p": float(sampling.top_p), "top_k": sampling.top_k} if sampling.temperature else {}),
    )  # fmt: skip
    with _as_it_was(model), torch.random.fork_rng(_cards()), _quiet(), _little_to_collect():
        try:
            _switch_attention(model, flash)
            manager = model.init_continuous_batching(
                generation_config=how,
                continuous_batching_config=settings(prompts, sampling, rows, seed, flash=bool(flash), record=record),
            )
        except (ValueError, TypeError, AttributeError, ImportError, NotImplementedError) as error:
            raise Cannot(_first_line(error)) from None
        found = _run(manager, prompts)
        error = manager.background_thread_status.fatal_error
    if error is not None:
        # Its traceback holds the pages.
        error = error.with_traceback(None)
        if is_out_of_memory(error):
            raise error
    said = error or next((result.error for result in found.values() if result.error), None)
    if said:
        raise Failed(_first_line(said))
    if len(found) < len(prompts):
        raise Failed(f"{len(found)} answers for {len(prompts)} prompts")
    return [_answer(found[i], sampling, eos_id) for i in range(len(prompts))]


def _run(manager, prompts: Sequence[Sequence[int]]) -> dict[int, object]:
    """What the library gave for each prompt. Its thread is gone when this returns or raises."""
    found = {}

    def take(timeout: float | None) -> bool:
        if (result := manager.get_result(timeout=timeout)) is None:
            return False
        found[int(result.request_id)] = result
        return True

    # Before it starts: which prompts its first pass meets, and so which chance, must not hang on how fast the thread is.
    for i in sorted(range(len(prompts)), key=lambda i: len(prompts[i])):
        manager.add_request(list(prompts[i]), request_id=str(i))
    status, through = manager.background_thread_status, False
    try:
        manager.start()
        # It ends by itself when nothing is left to draw.
        status.request_stop(status.FLUSH_AND_STOP, 0)
        # Not by joining it: up to Python 3.12 a thread whose join was interrupted (Ctrl-C) passes for ended.
        while len(found) < len(prompts) and manager.is_running():
            take(0.1)
        through = True
    finally:
        manager.stop(block=True, hard_stop=not through)
    while take(None):
        pass
    return found


def settings(
    prompts: Sequence[Sequence[int]], sampling: Sampling, rows: int, seed: int, *, flash: bool, record: bool | None
) -> ContinuousBatchingConfig:
    """Pages for the `rows` longest at their full length."""
    page = FLASH_PAGE if flash else PAGE
    # A row may hold a page that it has begun and one that it was given ahead.
    pages = sorted((len(p) + sampling.max_new_tokens) // page + 2 for p in prompts)[-rows:]
    return ContinuousBatchingConfig(
        num_blocks=sum(pages),
        max_batch_tokens=max(rows, PASS_TOKENS),
        max_requests_per_batch=rows,
        # The pages are as many as can be needed, so nothing has to be held back.
        safety_margin=0.0,
        allow_block_sharing=False,
        return_logprobs=True,
        seed=seed,
        use_cuda_graph=record,
        **{"page_size" if "page_size" in _SETTINGS else "block_size": page},
        # Which attention is chosen here: the library would fetch one from the network.
        **({"auto_switch_to_flash": False} if "auto_switch_to_flash" in _SETTINGS else {}),
    )


def _flash(model) -> str | None:
    """The flash attention that is installed, where it can be used: without it every pass masks the pages of all rows for each."""
    half = model.dtype in (torch.bfloat16, torch.float16)
    return "flash_attention_2" if model.device.type == "cuda" and half and is_flash_attn_2_available() else None


def _switch_attention(model, flash: str | None) -> None:
    """To the kind that reads pages; earlier versions of the library have a name for it and choose by themselves where it is not given."""
    wanted = flash or model.config._attn_implementation
    if "auto_switch_to_flash" not in _SETTINGS or wanted == "eager":
        wanted = f"paged|{wanted}"
    model.set_attn_implementation(wanted)
    if model.config._attn_implementation != wanted:
        raise Cannot("its attention cannot be switched")


@contextmanager
def _as_it_was(model) -> Iterator[None]:
    """The attention, which training uses too, and whether the model trains."""
    before, training = model.config._attn_implementation, model.training
    try:
        yield
    finally:
        model.set_attn_implementation(before)
        model.train(training)


@contextmanager
def _quiet() -> Iterator[None]:
    """The library prints the traceback of what it also hands over, and warns of a thread that has yet to start."""
    logger = logging.getLogger("ContinuousBatchingLogger")
    before = logger.disabled
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = before


@contextmanager
def _little_to_collect() -> Iterator[None]:
    """The library has Python look for what is no longer needed, twice at its end: without all that was there before, which takes a second
    on a slow core, this takes none."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _cards() -> list[int]:
    """All whose generators a seed resets."""
    return list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []


def _answer(found, sampling: Sampling, eos_id: int) -> Sample:
    ids = tuple(found.generated_tokens)
    # One token is certain where nothing is left to chance.
    logprobs = tuple(found.logprobs) if sampling.temperature > 0 else (0.0,) * len(ids)
    if not 1 <= len(ids) <= sampling.max_new_tokens or len(logprobs) != len(ids):
        raise Failed(f"{len(ids)} tokens with {len(logprobs)} log-probabilities")
    return Sample(ids, logprobs, ids[-1] == eos_id)


def _first_line(error: object) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
