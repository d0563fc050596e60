"""Answers drawn in this process by the library's continuous batching: keys and values lie in pages, all rows are read as one long sequence
without padding, and a waiting prompt takes the place of a row that ended. `paged.py` keeps the library within bounds."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pipeline.adapters import SharedBase
from pipeline.generation import Sample, Sampling, sample
from pipeline.ppo.logprobs import token_logprobs
from pipeline.reading import MOST_APART
from pipeline.rollouts.paged import Cannot, Failed, draw
from pipeline.rollouts.saying import Said

# Rows whose answers are held against what training reads.
CHECKED = 4


class ContinuousEngine:
    """As `InProcess`, but for which row meets which chance."""

    foreign = False

    def __init__(self, *, record: bool | None = None):
        """
        Args:
            record: on a card, whether passes are recorded and played back (CUDA graphs). None leaves it to the library, which does so
                with flash attention alone.
        """
        self._record = record
        # Why the other loop drew the last rollout; None where the library did.
        self.refused: str | None = None
        # A failure that may pass is not kept: a run that is taken up from a checkpoint knows nothing of it, tries the library again, and
        # must come to the answers of a run that nobody stopped.
        self._for_good = False
        self._said = Said()

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
        first rollout on, after one line that says so; a rollout that it fails in, by the other loop too."""
        # Drawn in either case: a run that is taken up tries the library again, and must come to the same chance.
        seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
        ends = {"eos_id": base.tokenizer.eos_token_id, "pad_id": base.tokenizer.pad_token_id}
        rows = min(batch_size, len(prompts))
        if not self._for_good:
            self.refused = None
            try:
                answers = draw(base.causal_lm, prompts, sampling, seed, rows=rows, record=self._record, **ends)
                _check(base, prompts, answers, sampling)
                return answers
            except Cannot as why:
                self.refused, self._for_good = str(why), not isinstance(why, Failed)
                what = "cannot draw for this model ({}); engine hf does." if self._for_good else "failed ({}); engine hf draws this rollout."
                self._said.once(f"the library's continuous batching {what.format(why)}")
        return sample(base.causal_lm, prompts, sampling, generator=generator, batch_size=batch_size, **ends)

    def close(self) -> None:
        """Holds nothing between two rollouts."""


@torch.no_grad()
def _check(base: SharedBase, prompts: Sequence[Sequence[int]], answers: Sequence[Sample], sampling: Sampling) -> None:
    """Holds some answers against the pass that trains: the log-probabilities that were given, or, where the likeliest token is taken, how far
    below the likeliest one those of the answer are.

    Raises:
        Cannot: they are those of another model.
    """
    if sampling.top_k or sampling.top_p < 1:
        # No rollout cuts anything away. A token at the border of a cut is inside by one rounding and outside, at minus infinity, by another.
        return
    rows = range(min(CHECKED, len(prompts)))
    states, _ = base.encode([[*prompts[i], *answers[i].ids] for i in rows], base.active)
    before = [(i, len(prompts[i]) - 1 + j) for i in rows for j in range(len(answers[i].ids))]
    at = tuple(torch.tensor(index, device=base.device) for index in zip(*before, strict=True))
    tokens, given = ([x for i in rows for x in getattr(answers[i], name)] for name in ("ids", "logprobs"))

    def read(of: torch.Tensor, temperature: float) -> torch.Tensor:
        return token_logprobs(states[at], base.lm_head, of, temperature=temperature)[0].cpu()

    drawn = torch.tensor(tokens, device=base.device)
    if sampling.temperature > 0:
        apart = (read(drawn, sampling.temperature) - torch.tensor(given)).abs()
    else:
        likeliest = torch.cat([base.lm_head.logits(part).argmax(-1) for part in states[at].split(256)])
        apart = read(likeliest, 1.0) - read(drawn, 1.0)
    if not float(apart.mean()) <= MOST_APART:
        raise Cannot(f"its log-probabilities are {float(apart.mean()):.2f} nats a token from those that training reads")
