"""A finished run to talk to: one base in memory, its checkpoints as adapters."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from data.errors import UserError
from data.records import Message
from pipeline.adapters import BASE, POLICY, REFERENCE, SharedBase
from pipeline.batch import Batch, Delta
from pipeline.roles import ADAPTER, open_base
from pipeline.sampling import Sampling
from pipeline.template import PromptTooLong, prompt_ids, template_sha256

# Which adapter role speaks for a checkpoint: in PPO the reference is the SFT policy, and so it is here.
_ROLES = {"base": BASE, "sft": REFERENCE, "ppo": POLICY}


class Assistant:
    """Answers as any checkpoint of one run."""

    def __init__(self, base: SharedBase, run_dir: Path, config, weights: dict[str, str]):
        self.base, self.run_dir, self.config, self._weights = base, run_dir, config, weights

    @staticmethod
    def open(run_dir: Path, config) -> Assistant:
        """Loads the base and every policy that the run has finished.

        Raises:
            UserError: no stage of the run has left a policy yet.
        """
        found = {name: run_dir / "stages" / name / ADAPTER for name in ("sft", "ppo")}
        found = {name: path for name, path in found.items() if (path.parent / "manifest.json").exists()}
        if not found:
            raise UserError(f"{run_dir}: no trained model yet. Run `python run_pipeline.py run` first.")
        base = open_base(config)
        weights = {"base": ""}
        for name, path in found.items():
            base.load(_ROLES[name], path, trainable=False)
            weights[name] = hashlib.sha256((path / "adapter_model.safetensors").read_bytes()).hexdigest()
        return Assistant(base, run_dir, config, weights)

    @property
    def checkpoints(self) -> tuple[str, ...]:
        """From the untrained to the most trained."""
        return tuple(self._weights)

    @property
    def context_tokens(self) -> int:
        """How many tokens the model reads at most, question and answer together."""
        return self.base.causal_lm.config.max_position_embeddings

    def describe(self, checkpoint: str) -> dict[str, str]:
        """Identity of a checkpoint, for the record of what a vote was about."""
        return {
            "weights_sha256": self._weights[checkpoint],
            "template_sha256": template_sha256(self.base.tokenizer, self.config.model.system_prompt),
            "stage": checkpoint,
            "run": self.run_dir.name,
        }

    def open_batch(self) -> Batch:
        """Where answers are drawn side by side; for the one thread that owns the model."""
        return Batch(self)

    def stream(
        self, messages: Sequence[Message], *, checkpoint: str, sampling: Sampling, stop: threading.Event | None = None
    ) -> Iterator[Delta]:
        """One answer by itself, as it is drawn. Oldest turns are left out when the conversation outgrows the model's context."""
        batch = self.open_batch()
        number = batch.join(messages, checkpoint=checkpoint, sampling=sampling)
        while True:
            if stop is not None and stop.is_set():
                yield batch.leave(number)
                return
            for _, delta in batch.step():
                if isinstance(delta, Exception):
                    raise delta
                yield delta
                if delta.finish:
                    return

    def role(self, checkpoint: str) -> str:
        """The adapter role that speaks for a checkpoint."""
        return _ROLES[checkpoint]

    def prompt(self, messages: Sequence[Message], max_new_tokens: int) -> list[int]:
        """The conversation as token ids, without the oldest turns that would leave no room for the answer."""
        context = self.context_tokens
        if max_new_tokens >= context:
            raise UserError(
                f"chat.max_new_tokens: {max_new_tokens}, but the model reads {context} tokens in all. Lower it."
            )
        room, limit = context - max_new_tokens, self.config.chat.max_prompt_tokens
        try:
            return prompt_ids(
                self.base.tokenizer,
                messages,
                system_prompt=self.config.model.system_prompt,
                max_tokens=min(room, limit),
            )
        except PromptTooLong:
            why = (
                f"the model reads {context} tokens, {max_new_tokens} of them kept for the answer (chat.max_new_tokens). "
                "Shorten the message, or lower the setting."
                if room <= limit
                else f"at most {limit} tokens are read (chat.max_prompt_tokens). Shorten the message, or raise the setting."
            )
            raise UserError(f"The last message does not fit: {why}") from None
