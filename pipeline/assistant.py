"""A finished run to talk to: one base in memory, its checkpoints and those of other rounds as adapters."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from data.errors import UserError
from data.records import Message
from pipeline.adapters import SharedBase
from pipeline.batch import Batch, Delta
from pipeline.context import context_of
from pipeline.lineup import Checkpoint, name_of, of_run
from pipeline.roles import open_base
from pipeline.sampling import Sampling
from pipeline.template import PromptTooLong, prompt_ids, template_sha256

# Tokens that a model without a limit of its own is given to read at most.
NO_LIMIT = 1 << 20


class Assistant:
    """Answers as any of its checkpoints."""

    def __init__(self, base: SharedBase, config, checkpoints: Sequence[Checkpoint]):
        """The last of `checkpoints` answers where nobody is named; their adapters are loaded already."""
        self.base, self.config = base, config
        self._known = {checkpoint.name: checkpoint for checkpoint in checkpoints}

    @staticmethod
    def open(run_dir: Path, config, others: Sequence[Checkpoint] = ()) -> Assistant:
        """Loads the base, every policy that the run has finished, and `others` on the same base.

        Raises:
            UserError: no stage of the run has left a policy yet, or an adapter does not fit.
        """
        own = of_run(run_dir)
        base = open_base(config)
        # The run's own most trained checkpoint stays the last.
        checkpoints = [own[0], *others, *own[1:]]
        for checkpoint in checkpoints:
            if checkpoint.adapter is not None:
                base.load(checkpoint.role, checkpoint.adapter, trainable=False)
        return Assistant(base, config, checkpoints)

    @property
    def checkpoints(self) -> tuple[str, ...]:
        """Their names; the last one answers where nobody is named."""
        return tuple(self._known)

    @property
    def context_tokens(self) -> int:
        """How many tokens the model reads at most, question and answer together; a million where it names no limit."""
        return context_of(self.base.causal_lm.config) or NO_LIMIT

    def describe(self, checkpoint: str) -> dict[str, str]:
        """Identity of a checkpoint, for the record of what a vote was about."""
        known = self._known[checkpoint]
        return {
            "weights_sha256": known.sha256,
            "template_sha256": template_sha256(self.base.tokenizer, self.config.model.system_prompt),
            "stage": known.stage,
            "run": known.run,
        }

    def name_of(self, run: str, stage: str, sha256: str) -> str:
        """What to call the model that wrote an answer of the store."""
        return name_of(tuple(self._known.values()), run, stage, sha256)

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
        return self._known[checkpoint].role

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
