"""Answers drawn in this process by the library's continuous batching: keys and values lie in pages, all rows are read as one long sequence
without padding, and a waiting prompt takes the place of a row that ended.

The library runs its loop in a thread, draws from torch's own generators and switches the model's attention. Here the thread ends before
`sample` does, whatever happens; the generators and the attention are given back as they were; and the pages are as many as the rows need,
not all the memory that is free, since training shares it.
"""

from __future__ import annotations

import gc
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields

import torch
from transformers import DynamicCache, GenerationConfig
from transformers.cache_utils import DynamicLayer
from transformers.generation.configuration_utils import ContinuousBatchingConfig
from transformers.utils import is_flash_attn_2_available

from pipeline.adapters import SharedBase
from pipeline.generation import Sample, Sampling, sample
from pipeline.memory import is_out_of_memory
from pipeline.ppo.logprobs import token_logprobs

# Prompt tokens read in one pass, at least: the attention's mask grows with them times the pages.
PASS_TOKENS = 512
# Tokens a page; flash attention's tables of pages want more.
PAGE, FLASH_PAGE = 32, 256
# Nats a token, on average over the answers of `CHECKED` rows, between the library's log-probabilities and those that training reads. Rounding
# in bfloat16 stays far below; a model that the library misreads is nats away.
MOST_APART, CHECKED = 0.25, 4
_SETTINGS = {field.name for field in fields(ContinuousBatchingConfig)}


class _Cannot(Exception):
    """The library does not serve this model; the message says why."""


class ContinuousEngine:
    """As `InProcess`, but for which row meets which chance."""

    foreign = False

    def __init__(self, *, record: bool | None = None):
        """
        Args:
            record: on a card, whether passes are recorded and played back (CUDA graphs). None leaves it to the library, which does so
                with flash attention alone.
        """
        self._record, self._checked = record, False
        # Why the other loop draws; None while the library does.
        self.refused: str | None = None

    def sample(
        self,
        base: SharedBase,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        *,
        generator: torch.Generator,
        batch_size: int,
    ) -> list[Sample]:
        """`batch_size` rows are drawn for at a time. A model that the library cannot serve is drawn from by the other loop, from the
        first rollout on, after one line that says so."""
        # Drawn in either case: a run that is taken up tries the library again, and must come to the same chance.
        seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
        if self.refused is None:
            try:
                answers = _draw(base, prompts, sampling, seed, rows=min(batch_size, len(prompts)), record=self._record)
                if not self._checked:
                    _check(base, prompts, answers, sampling)
                    self._checked = True
                return answers
            except _Cannot as why:
                self.refused = str(why)
                print(
                    f"ppo.rollout: the library's continuous batching cannot draw for this model ({why}); engine hf does.",
                    file=sys.stderr,
                    flush=True,
                )
        ends = {"eos_id": base.tokenizer.eos_token_id, "pad_id": base.tokenizer.pad_token_id}
        return sample(base.causal_lm, prompts, sampling, generator=generator, batch_size=batch_size, **ends)

    def close(self) -> None:
        """Holds nothing between two rollouts."""


def _draw(
    base: SharedBase, prompts: Sequence[Sequence[int]], sampling: Sampling, seed: int, *, rows: int, record: bool | None
) -> list[Sample]:
    """One answer a prompt, `rows` at a time.

    Raises:
        _Cannot: the library refuses the model, or failed with it.
        RuntimeError, MemoryError: memory ran out.
    """
    model, end = base.causal_lm, base.tokenizer.eos_token_id
    if not getattr(model, "_supports_attention_backend", False) or not hasattr(model, "init_continuous_batching"):
        # Not all that lack pages of keys and values refuse them: some would read the rows as one text.
        raise _Cannot(f"{type(model).__name__} does not take its attention from the library")
    if not all(type(layer) is DynamicLayer for layer in DynamicCache(config=model.config).layers):
        raise _Cannot("it keeps windows or recurrent states")
    flash = _flash(model)
    how = GenerationConfig(
        do_sample=sampling.temperature > 0,
        # The tokenizer's end alone: the model's own generation config may name more.
        eos_token_id=end,
        pad_token_id=base.tokenizer.pad_token_id,
        max_new_tokens=sampling.max_new_tokens,
        **({"temperature": float(sampling.temperature), "top_p": float(sampling.top_p), "top_k": sampling.top_k} if sampling.temperature else {}),
    )  # fmt: skip
    with _as_it_was(model), torch.random.fork_rng(_cards()), _quiet(), _little_to_collect():
        try:
            _switch_attention(model, flash)
            manager = model.init_continuous_batching(
                generation_config=how,
                continuous_batching_config=_settings(prompts, sampling, rows, seed, flash=bool(flash), record=record),
            )
        except (ValueError, TypeError, AttributeError, ImportError, NotImplementedError) as error:
            raise _Cannot(_first_line(error)) from None
        found = _run(manager, prompts)
        error = manager.background_thread_status.fatal_error
    if error is not None:
        # Its traceback holds the pages.
        error = error.with_traceback(None)
        if is_out_of_memory(error):
            raise error
    said = error or next((result.error for result in found.values() if result.error), None)
    if said:
        raise _Cannot(_first_line(said))
    if len(found) < len(prompts):
        raise _Cannot(f"{len(found)} answers for {len(prompts)} prompts")
    return [_answer(found[i], sampling, end) for i in range(len(prompts))]


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
    manager.start()
    try:
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


def _settings(
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
    """To the kind that reads pages; up to 5.22 of the library it had a name of its own, and the library's choice was to be forestalled."""
    wanted = flash or model.config._attn_implementation
    if "auto_switch_to_flash" not in _SETTINGS or wanted == "eager":
        wanted = f"paged|{wanted}"
    model.set_attn_implementation(wanted)
    if model.config._attn_implementation != wanted:
        raise _Cannot("its attention cannot be switched")


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


def _answer(found, sampling: Sampling, end: int) -> Sample:
    ids = tuple(found.generated_tokens)
    # One token is certain where nothing is left to chance.
    logprobs = tuple(found.logprobs) if sampling.temperature > 0 else (0.0,) * len(ids)
    if not 1 <= len(ids) <= sampling.max_new_tokens or len(logprobs) != len(ids):
        raise _Cannot(f"{len(ids)} tokens with {len(logprobs)} log-probabilities")
    return Sample(ids, logprobs, ids[-1] == end)


@torch.no_grad()
def _check(base: SharedBase, prompts: Sequence[Sequence[int]], answers: Sequence[Sample], sampling: Sampling) -> None:
    """Holds some answers against the pass that trains.

    Raises:
        _Cannot: their log-probabilities are those of another model.
    """
    if sampling.temperature == 0 or sampling.top_k or sampling.top_p < 1:
        return
    rows = range(min(CHECKED, len(prompts)))
    states, _ = base.encode([[*prompts[i], *answers[i].ids] for i in rows], base.active)
    before = [(i, len(prompts[i]) - 1 + j) for i in rows for j in range(len(answers[i].ids))]
    at = tuple(torch.tensor(index, device=base.device) for index in zip(*before, strict=True))
    tokens, given = ([x for i in rows for x in getattr(answers[i], name)] for name in ("ids", "logprobs"))
    read, _ = token_logprobs(
        states[at], base.head_weight, torch.tensor(tokens, device=base.device), temperature=sampling.temperature
    )
    apart = float((read.cpu() - torch.tensor(given)).abs().mean())
    if not apart <= MOST_APART:
        raise _Cannot(f"its log-probabilities are {apart:.2f} nats a token from those that training reads")


def _first_line(error: object) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
