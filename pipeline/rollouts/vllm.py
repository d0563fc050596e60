"""Answers from a vLLM server: the policy's adapter is written to a directory that both sides read and loaded there by name before each
rollout; prompts and answers travel as token ids over the OpenAI-compatible API.

    VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 vllm serve MODEL --enable-lora --max-lora-rank 16 --max-loras 2 --logprobs-mode processed_logprobs

An adapter's name is the hash of its bytes: the server keys its cache of prefixes by the name, so another policy must never come under a
name that was used before, also not after a resume.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import math
import os
import shutil
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from data.errors import UserError
from data.numbers import many
from pipeline.adapters import POLICY, SharedBase
from pipeline.generation import Sample, Sampling

# At the door somebody waits for the answer, and a server that was never started stays so.
_AT_THE_DOOR = 2
# Worth another attempt: busy, cut off, not up yet.
_PASSING = (408, 429, 500, 502, 503, 504)

_HOW = (
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 vllm serve MODEL --enable-lora --max-lora-rank 16 --max-loras 2 --logprobs-mode processed_logprobs"
)


class _Refused(Exception):
    """The server answered, and not with what was asked for."""

    def __init__(self, status: int, text: str):
        self.status, self.text = status, " ".join(text.split())[:300]
        super().__init__(f"status {status}: {self.text}")


# What `_post` raises. A reply that breaks off is no OSError.
_UNANSWERED = (OSError, ValueError, http.client.HTTPException, _Refused)

# Nothing cut away and nothing penalised: what a request leaves out, the server takes from the model's generation_config.json.
_PLAIN = {"top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}


class VllmServer:
    """One server, which holds the same base as this process."""

    foreign = True

    def __init__(self, settings, *, longest: int, temperature: float | None = None):
        """
        Args:
            settings: the `ppo.rollout` section.
            longest, temperature: as in `open_engine`.

        Raises:
            UserError: no server answers, its model is too short for the run, or its log-probabilities are of another distribution.
        """
        self.settings, self.url = settings, settings.url.rstrip("/")
        self._longest, self._temperature = longest, temperature
        self._folder = (
            Path(settings.adapter_dir) if settings.adapter_dir else Path(tempfile.mkdtemp(prefix="thumbloop-"))
        )
        self._own_folder = settings.adapter_dir is None
        self._folder.mkdir(parents=True, exist_ok=True)
        # The server may run as somebody else.
        os.chmod(self._folder, 0o755)
        self._loaded: list[str] = []
        # Many requests find out at one time that the server was started again; one of them looks at it anew.
        self._restarted, self._restarts = threading.Lock(), 0
        try:
            self._check(attempts=_AT_THE_DOOR)
        except UserError:
            self.close()
            raise

    def sample(
        self,
        base: SharedBase,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        *,
        generator: torch.Generator,
        batch_size: int,
    ) -> list[Sample]:
        """`batch_size` is the server's own affair and not used.

        Raises:
            UserError: the server is down, refuses, or gives an answer that cannot be one of the policy.
        """
        name = self._publish(base)
        # A seed for each row: equal prompts under one seed would get equal answers.
        seeds = torch.randint(0, 2**31, (len(prompts),), generator=generator, device=generator.device).tolist()
        eos = base.tokenizer.eos_token_id

        def one(row: int) -> Sample:
            request = {
                "model": name,
                "prompt": list(prompts[row]),
                "max_tokens": sampling.max_new_tokens,
                "temperature": sampling.temperature,
                # A token outside a cut has no probability under the sampler, but one under the loss.
                **_PLAIN,
                "top_p": sampling.top_p,
                "top_k": sampling.top_k or -1,
                "n": 1,
                "seed": seeds[row],
                "logprobs": 0,
                "return_token_ids": True,
                # The tokenizer's end alone: a server also stops at the ends in the model's generation_config.json, some of which
                # are tokens like any other to the loop in this process.
                "ignore_eos": True,
                "stop_token_ids": [eos],
            }
            try:
                found = self._complete(request)
                return _sample(found, prompts[row], sampling.max_new_tokens, eos)
            except (KeyError, IndexError, TypeError, ValueError, _Refused) as error:
                raise UserError(
                    f"ppo.rollout: {self.url} gave an answer that cannot be used ({_named(error)}). It should be a vLLM "
                    f"server over the same base and tokenizer, started as: {_HOW}"
                ) from None

        with ThreadPoolExecutor(self.settings.concurrency) as pool:
            return list(pool.map(one, range(len(prompts))))

    def close(self) -> None:
        """Takes the adapters off the server, as far as it still answers, and removes their files."""
        for name in self._loaded:
            try:
                self._post("/v1/unload_lora_adapter", {"lora_name": name})
            except _UNANSWERED:
                break
        for name in self._loaded:
            shutil.rmtree(self._folder / name, ignore_errors=True)
        self._loaded = []
        if self._own_folder:
            shutil.rmtree(self._folder, ignore_errors=True)

    # -- the adapter ---------------------------------------------------------------------------------------------------------

    def _publish(self, base: SharedBase) -> str:
        """The name under which the server holds the policy as it is now."""
        partial = self._folder / f".partial-{os.getpid()}"
        shutil.rmtree(partial, ignore_errors=True)
        base.save(POLICY, partial)
        self._look_for_a_restart()
        name = "thumbloop-" + hashlib.sha256((partial / "adapter_model.safetensors").read_bytes()).hexdigest()[:24]
        target = self._folder / name
        if name in self._loaded:
            shutil.rmtree(partial)
            return name
        for file in partial.iterdir():
            file.chmod(0o644)
        partial.chmod(0o755)
        shutil.rmtree(target, ignore_errors=True)
        # Whole or not at all: the server reads it whenever it likes.
        partial.rename(target)
        # Before it is taken: whatever happens now, `close` removes its files.
        self._loaded.append(name)
        self._load(name, target)
        # The one before stays loaded for one rollout more: requests that were cut off may still name it.
        for old in self._loaded[:-2]:
            try:
                self._post("/v1/unload_lora_adapter", {"lora_name": old})
            except _UNANSWERED:
                # It is gone already, a restart of the server for example, or the server is: the next request waits for it.
                pass
            shutil.rmtree(self._folder / old, ignore_errors=True)
        self._loaded = self._loaded[-2:]
        return name

    def _look_for_a_restart(self) -> None:
        """A server that was started again between two rollouts takes the next adapter like any other: only what it no longer lists tells."""
        if not self._loaded:
            return
        try:
            listed = [str(model["id"]) for model in self._ask("/v1/models", None)["data"]]
        except (KeyError, TypeError, _Refused):
            listed = []
        if self._loaded[-1] not in listed:
            self._check()

    def _complete(self, request: dict) -> dict:
        for _ in range(self.settings.attempts):
            restarts = self._restarts
            try:
                return self._ask("/v1/completions", request)
            except _Refused as refused:
                if refused.status != 404:
                    raise
            # A server that was started again holds the base alone, and may have been started in another way.
            with self._restarted:
                if self._restarts == restarts:
                    self._check()
                    self._load(request["model"], self._folder / request["model"])
                    self._restarts += 1
        return self._ask("/v1/completions", request)

    def _load(self, name: str, folder: Path) -> None:
        # Not `load_inplace`: the server would read the files again for every request.
        request = {"lora_name": name, "lora_path": str(folder.resolve()), "load_inplace": False}
        try:
            # An adapter that the server cannot take, of too high a rank for example, is its status 500: no attempt would change that.
            self._ask("/v1/load_lora_adapter", request, passing=tuple(s for s in _PASSING if s != 500))
        except _Refused as refused:
            if refused.status == 404 and "adapter" not in refused.text.lower():
                raise UserError(
                    f"ppo.rollout: {self.url} cannot load adapters while it runs. Start it as: {_HOW}"
                ) from None
            if refused.status == 400 and "already" in refused.text.lower():
                # By somebody who had the same bytes: names are hashes.
                return
            raise UserError(
                f"ppo.rollout: {self.url} refused the adapter ({refused}). What can be the cause: it does not see {folder}, which it reads "
                "itself (name a directory that both see in ppo.rollout.adapter_dir); its --max-lora-rank is below lora.rank; it holds another "
                "base, or no room for one more adapter; or it failed at something else, which its log says."
            ) from None

    # -- the wire ------------------------------------------------------------------------------------------------------------

    def _check(self, *, attempts: int | None = None) -> None:
        """What the door asks; asked again of a server that was started again."""
        try:
            models = self._ask("/v1/models", None, attempts=attempts)["data"]
            room = min(int(m["max_model_len"]) for m in models if m.get("max_model_len"))
            model = str(models[0]["id"])
        except (KeyError, IndexError, TypeError, ValueError, _Refused) as error:
            raise UserError(f"ppo.rollout: {self.url} is no vLLM server ({error}). Start one as: {_HOW}") from None
        if room < self._longest:
            raise UserError(
                f"ppo.rollout: {self.url} holds {room} tokens, but prompt and answer may have {self._longest}. Start it with "
                f"--max-model-len {self._longest}, or lower ppo.max_new_tokens."
            )
        self._check_logprobs(model)

    def _check_logprobs(self, model: str) -> None:
        """Whether what the server gives are log-probabilities of the distribution that tokens are drawn from, temperature and all.

        At half the temperature two tokens' log-probabilities are twice as far apart; by vLLM's default those of temperature 1 are given
        whatever is drawn at. That is the same thing for a run that draws at temperature 1, since nothing is cut away or penalised.

        Raises:
            UserError: they are not, or the server gives none.
        """
        try:
            warm = self._likeliest(model, 1.0)
            cold = None if self._temperature == 1 else self._likeliest(model, 0.5)
        except (AttributeError, KeyError, IndexError, TypeError, ValueError, _Refused) as error:
            raise UserError(
                f"ppo.rollout: {self.url} gave no log-probabilities when asked for some ({_named(error)}). Start it as: {_HOW}"
            ) from None
        # Of the likeliest alone, so their probabilities add up to less than 1. Logits do not know that.
        if not sum(math.exp(min(x, 1.0)) for x in warm) <= 1 + 1e-3:
            raise UserError(
                f"ppo.rollout: {self.url} gives numbers that are no log-probabilities (up to {warm[0]:.2f} for one token). Start it with "
                f"--logprobs-mode processed_logprobs, as in: {_HOW}"
            )
        apart, at_half = (None if x is None else x[0] - x[-1] for x in (warm, cold))
        if at_half is not None and not at_half > 1.5 * apart:
            raise UserError(
                f"ppo.rollout: {self.url} gives log-probabilities at another temperature than it draws at (two tokens are {apart:.2f} nats "
                f"apart at temperature 1 and {at_half:.2f} at 0.5). Start it with --logprobs-mode processed_logprobs, as in: {_HOW}"
            )

    def _likeliest(self, model: str, temperature: float) -> list[float]:
        """What it gives for the likeliest five tokens after some words, falling."""
        request = {
            "model": model,
            "prompt": "The weather",
            "max_tokens": 1,
            "temperature": temperature,
            "seed": 0,
            "logprobs": 5,
            **_PLAIN,
        }
        found = self._ask("/v1/completions", request)["choices"][0]["logprobs"]["top_logprobs"][0].values()
        # The token that was drawn comes along where it is none of the five.
        first, second, *more = sorted(map(float, found), reverse=True)[:5]
        return [first, second, *more]

    def _ask(
        self, path: str, body: dict | None, *, passing: Sequence[int] = _PASSING, attempts: int | None = None
    ) -> dict:
        """As `_post`, again after a while where the server was busy, cut off or not up yet.

        Raises:
            UserError: it stayed so.
        """
        attempts = min(attempts or self.settings.attempts, self.settings.attempts)
        for attempt in range(1, attempts + 1):
            try:
                return self._post(path, body)
            except _Refused as refused:
                if refused.status not in passing:
                    raise
                error: Exception = refused
            except (OSError, ValueError, http.client.HTTPException) as failed:
                error = failed
            if attempt < attempts:
                time.sleep(min(2.0 ** (attempt - 1), 30.0) * self.settings.pause_seconds)
        if isinstance(error, _Refused):
            said = f"answered {many(attempts, 'attempt')} with {error}. Look into its log"
        else:
            said = f"did not answer in {many(attempts, 'attempt')} ({getattr(error, 'reason', None) or error}). Start the server"
        raise UserError(
            f"ppo.rollout: {self.url}{path} {said}, or take "
            "ppo.rollout.engine: hf; the run goes on from its last checkpoint."
        ) from None

    def _post(self, path: str, body: dict | None) -> dict:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data=data, headers={"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=self.settings.timeout_seconds) as answer:
                text = answer.read().decode()
        except urllib.error.HTTPError as error:
            raise _Refused(error.code, error.read().decode(errors="replace")) from None
        # Loading and unloading answer with a sentence.
        return json.loads(text) if text.lstrip().startswith(("{", "[")) else {"message": text}


def _named(error: Exception) -> str:
    return str(error) if isinstance(error, _Refused) else f"{type(error).__name__}: {error}"


def _sample(found: dict, prompt: Sequence[int], most: int, eos: int) -> Sample:
    """The answer in the server's reply, held against all that it must be.

    Raises:
        KeyError, IndexError, TypeError, ValueError: it is not.
    """
    choice = found["choices"][0]
    ids = [int(i) for i in choice["token_ids"]]
    logprobs = [float(x) for x in choice["logprobs"]["token_logprobs"]]
    read = choice.get("prompt_token_ids")
    if read is not None and list(read) != list(prompt):
        raise ValueError(f"it read a prompt of {len(read)} tokens where {len(prompt)} were sent")
    if not 1 <= len(ids) <= most:
        raise ValueError(f"{len(ids)} tokens where 1 to {most} were asked for")
    if len(logprobs) != len(ids):
        raise ValueError(f"{len(logprobs)} log-probabilities for {len(ids)} tokens")
    if not all(math.isfinite(x) and x <= 1e-4 for x in logprobs):
        raise ValueError("a log-probability that is no number, or above 0")
    if eos in ids[:-1]:
        raise ValueError("the end of the answer stands inside it")
    finished = ids[-1] == eos
    if not finished and len(ids) < most:
        raise ValueError(
            f"it ended after {len(ids)} tokens with token {ids[-1]}, which is not the end of an answer ({eos})"
        )
    return Sample(tuple(ids), tuple(logprobs), finished)
