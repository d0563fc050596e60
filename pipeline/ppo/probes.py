"""What forgetting and sycophancy are watched by while the policy learns: few texts and questions, read by the policy itself."""

from __future__ import annotations

from collections.abc import Sequence

from data.yardsticks import Fact, Paragraph
from pipeline.adapters import BASE, POLICY, SharedBase
from pipeline.evaluation.detectors import Probe
from pipeline.evaluation.forgetting import Paragraphs
from pipeline.evaluation.sycophancy import Questions


class Probes:
    """Fixed texts and questions. The states below the adapters are kept, as no update changes them."""

    def __init__(
        self,
        base: SharedBase,
        paragraphs: Sequence[Paragraph],
        facts: Sequence[Fact],
        *,
        system_prompt: str | None = None,
        role: str = POLICY,
    ):
        self._role = role
        self._paragraphs = Paragraphs(base, paragraphs, keep_trunk=True) if paragraphs else None
        self._questions = (
            Questions(base, facts, system_prompt=system_prompt, neutral=False, keep_trunk=True) if facts else None
        )
        self._base_nll: tuple[float, ...] | None = None

    def read(self, update: int) -> Probe:
        """What the policy makes of them after `update` updates."""
        readings = self._paragraphs.read(self._role) if self._paragraphs else []
        if self._base_nll is None:
            self._base_nll = tuple(r.total for r in self._paragraphs.read(BASE)) if self._paragraphs else ()
        leanings = self._questions.ask(self._role) if self._questions else []
        return Probe(
            update,
            nll=tuple(r.total for r in readings),
            base_nll=self._base_nll,
            tokens=sum(len(r.nll) for r in readings),
            margins=tuple(x.suggested for x in leanings),
        )


def spread_evenly(rows: Sequence, count: int) -> list:
    """`count` of the rows at even steps, all where there are no more: a file in order of kind gives some of each."""
    count = min(count, len(rows))
    return [rows[k * len(rows) // count] for k in range(count)]
