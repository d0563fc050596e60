"""One batch of experience: answers of the current policy with everything the update needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from data.records import Prompt
from pipeline.adapters import POLICY, REFERENCE, REWARD, VALUE, Batch, SharedBase
from pipeline.generation import Sample, Sampling
from pipeline.memory import MicroBatch
from pipeline.ppo.logprobs import token_logprobs
from pipeline.ppo.masking import response_mask
from pipeline.rollouts.engine import InProcess, RolloutEngine
from reward.model import ScalarHead
from reward.sources import Answered


@dataclass(frozen=True)
class PromptIds:
    """A prompt and its token ids, rendered once for the whole run."""

    prompt: Prompt
    ids: tuple[int, ...]


@dataclass(frozen=True)
class Rollout:
    """b answers of at most t tokens.

    Attributes:
        batch: prompts and answers, right-padded, (b, p+t).
        trunk: (b, p+t, d) states below the adapters; the same for every role and every epoch.
        starts: (b,) position of the first answer token.
        tokens: (b, t) answer ids, anything where the mask is False.
        mask: (b, t) bool, True on answer tokens up to and including EOS.
        finished: (b,) bool, True where the answer ended with EOS.
        logprobs, ref_logprobs: (b, t) nats, log π and log π_ref of the tokens at the sampling temperature.
        values: (b, t) V of the state before each token, in reward units.
        scores: (b,) what the reward source said, in reward units.
        entropy: mean over answer tokens, nats; of the distributions when they were read again, else estimated from the tokens drawn.
        sampler_gap: largest |log π while generating − log π when read again|, nats; None when they were not.
        generated: (b, t) nats, log π as whoever drew the tokens gave it.
    """

    batch: Batch
    trunk: Tensor
    starts: Tensor
    tokens: Tensor
    mask: Tensor
    finished: Tensor
    logprobs: Tensor
    ref_logprobs: Tensor
    values: Tensor
    scores: Tensor
    entropy: float
    sampler_gap: float | None
    answers: tuple[Answered, ...]
    generated: Tensor


Scorer = Callable[[Sequence[Answered], Callable], Tensor]


def collect(
    base: SharedBase,
    value_head: ScalarHead,
    prompts: Sequence[PromptIds],
    settings,
    scorer: Scorer,
    *,
    generator: torch.Generator,
    micro_batch: int,
    at_once: MicroBatch | None = None,
    engine: RolloutEngine | None = None,
) -> Rollout:
    """Samples one answer a prompt with the policy and reads it with all four roles.

    Args:
        settings: the `ppo` section of the config.
        scorer: (answers, encode) → (b,) scores, where `encode` gives the reward role's states from the rollout's own trunk.
        generator: the only source of chance in here.
        micro_batch: answers a forward pass when they are read.
        at_once: how many are drawn at a time; all when not given.
        engine: who draws; this process when not given.
    """
    before = generator.get_state()

    def draw_from_the_start(rows: int) -> tuple[list[Sample], tuple[Answered, ...]]:
        generator.set_state(before)
        return draw(base, prompts, settings, generator, batch_size=rows, engine=engine)

    samples, answers = (at_once.attempt if at_once else lambda work: work(len(prompts)))(draw_from_the_start)
    device = base.device
    batch = Batch.of([a.ids for a in answers], base.tokenizer.pad_token_id, device)
    starts = torch.tensor([len(p.ids) for p in prompts], device=device)
    lengths = torch.tensor([len(s.ids) for s in samples], device=device)
    mask = response_mask(lengths)
    tokens = _padded([s.ids for s in samples], mask).long()
    generated = _padded([s.logprobs for s in samples], mask)

    passes = _chunks(len(samples), micro_batch, device)
    trunk = torch.cat([base.trunk(Batch(batch.ids[r], batch.mask[r])) for r in passes])
    scores = scorer(
        answers, lambda sequences, role=REWARD: _encode(base, role, batch, trunk, sequences, answers, micro_batch)
    )
    logprobs, ref_logprobs, values = (torch.zeros(mask.shape, device=device) for _ in range(3))
    again = settings.old_logprobs == "recompute"
    entropy = 0.0
    with torch.no_grad():
        for rows in passes:
            view = View.of(batch, trunk, starts, tokens, mask, rows)
            if again:
                found, seen = view.policy_logprobs(base, POLICY, settings.temperature, entropy=True)
                logprobs[rows, : view.width] = found
                entropy += float(seen[view.mask].sum())
            ref_logprobs[rows, : view.width], _ = view.policy_logprobs(base, REFERENCE, settings.temperature)
            values[rows, : view.width] = view.values(base, value_head)
    if not again:
        # Without the second reading: the entropy's unbiased estimate from the tokens that were drawn.
        logprobs, entropy = generated, -float(generated[mask].sum())
    return Rollout(
        batch=batch,
        trunk=trunk,
        starts=starts,
        tokens=tokens,
        mask=mask,
        finished=torch.tensor([s.finished for s in samples], device=device),
        logprobs=logprobs,
        ref_logprobs=ref_logprobs,
        values=values,
        scores=scores.to(device),
        entropy=entropy / int(mask.sum()),
        sampler_gap=float((generated - logprobs)[mask].abs().max()) if again else None,
        answers=answers,
        generated=generated,
    )


def draw(
    base: SharedBase,
    prompts: Sequence[PromptIds],
    settings,
    generator: torch.Generator,
    *,
    batch_size: int | None = None,
    engine: RolloutEngine | None = None,
    role: str = POLICY,
) -> tuple[list[Sample], tuple[Answered, ...]]:
    """One answer of the policy to each prompt, as ids with their log-probabilities and as a person would see it."""
    tokenizer = base.tokenizer
    with base.acting_as(role):
        samples = (engine or InProcess()).sample(
            base,
            [p.ids for p in prompts],
            Sampling(settings.max_new_tokens, settings.temperature),
            generator=generator,
            batch_size=batch_size or len(prompts),
        )
    return samples, tuple(_answered(tokenizer, p, s) for p, s in zip(prompts, samples, strict=True))


@dataclass(frozen=True)
class View:
    """Some rows of a rollout, cut to the longest of them: what one forward pass reads."""

    trunk: Tensor
    mask_all: Tensor
    before: Tensor
    tokens: Tensor
    mask: Tensor

    @staticmethod
    def of(batch: Batch, trunk: Tensor, starts: Tensor, tokens: Tensor, mask: Tensor, rows) -> View:
        width = int(mask[rows].sum(1).max())
        length = int(batch.mask[rows].sum(1).max())
        # The state at position i gives the distribution of token i+1: hence one before the answer's first token.
        before = (starts[rows][:, None] - 1 + torch.arange(width, device=starts.device)).clamp(max=length - 1)
        return View(trunk[rows, :length], batch.mask[rows, :length], before, tokens[rows, :width], mask[rows, :width])

    @property
    def width(self) -> int:
        return self.mask.shape[1]

    def policy_logprobs(
        self, base: SharedBase, role: str, temperature: float, *, entropy: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """(b, t) log-probabilities in nats and, if asked, entropies; 0 where the mask is False.

        Only states that predict an answer token meet the vocabulary: the logits, not the weights, fill the memory.
        """
        states = self._states(base, role)
        found, seen = token_logprobs(
            states[self.mask], base.lm_head, self.tokens[self.mask], temperature=temperature, with_entropy=entropy
        )
        logprobs = found.new_zeros(self.mask.shape).masked_scatter(self.mask, found)
        return logprobs, seen.new_zeros(self.mask.shape).masked_scatter(self.mask, seen) if entropy else None

    def values(self, base: SharedBase, head: ScalarHead) -> Tensor:
        """(b, t) V of the state before each token; 0 where the mask is False."""
        return head(self._states(base, VALUE)).masked_fill(~self.mask, 0.0)

    def _states(self, base: SharedBase, role: str) -> Tensor:
        states = base.states(self.trunk, self.mask_all, role)
        return states.gather(1, self.before[..., None].expand(-1, -1, states.shape[-1]))


def _answered(tokenizer, prompt: PromptIds, answer: Sample) -> Answered:
    text = tokenizer.decode(answer.ids[:-1] if answer.finished else answer.ids, skip_special_tokens=True)
    return Answered(prompt.prompt.messages, text, answer.finished, (*prompt.ids, *answer.ids))


def _encode(base: SharedBase, role: str, batch: Batch, trunk: Tensor, sequences, answers, micro_batch: int):
    """As `SharedBase.encode`, for answers of this rollout, from the trunk that is at hand."""
    known = {a.ids: i for i, a in enumerate(answers)}
    rows = torch.tensor([known[tuple(s)] for s in sequences], device=base.device)
    passes = _chunks(len(rows), micro_batch, base.device)
    states = torch.cat([base.states(trunk[rows[r]], batch.mask[rows[r]], role) for r in passes])
    return states, batch.mask[rows].sum(1)


def _chunks(n: int, size: int, device: torch.device) -> list[Tensor]:
    return [torch.arange(start, min(n, start + size), device=device) for start in range(0, n, size)]


def _padded(rows: Sequence[Sequence[float]], mask: Tensor) -> Tensor:
    # Filled here and sent in one piece: a copy to a GPU for every row would cost more than the rows.
    out = torch.zeros(mask.shape)
    for i, row in enumerate(rows):
        out[i, : len(row)] = torch.tensor(row, dtype=torch.float32)
    return out.to(mask.device)
