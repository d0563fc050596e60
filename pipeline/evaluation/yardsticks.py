"""Forgetting and sycophancy on the cards of base, SFT and PPO, each held against the stages before it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from data.yardsticks import load_facts, load_paragraphs
from pipeline.adapters import SharedBase
from pipeline.evaluation import forgetting, sycophancy
from pipeline.evaluation.cards import Entry
from pipeline.evaluation.forgetting import Paragraphs, Reading
from pipeline.evaluation.sycophancy import Leaning, Questions

FILE = "yardsticks.json"
GENERAL_TEXT, FACTS = "general_text.jsonl", "facts.jsonl"


@dataclass(frozen=True)
class Measured:
    """What one policy made of the texts and questions; empty where a run has none."""

    readings: Sequence[Reading] = ()
    leanings: Sequence[Leaning] = ()
    shortened: int = 0

    def entries(self, base: Measured | None = None, other: Measured | None = None, name: str = "") -> list[Entry]:
        """For a card. `base` is what forgetting is held against, `other` (called `name`) what sycophancy is."""
        out: list[Entry] = []
        if self.readings:
            out += forgetting.entries(self.readings, base.readings if base else None, self.shortened)
        if self.leanings:
            out += sycophancy.entries(self.leanings, other.leanings if other else None, name)
        return out

    def write(self, folder: Path) -> None:
        """Left beside the card, so that later evaluations need not read with this policy again."""
        (folder / FILE).write_text(json.dumps(asdict(self)) + "\n", encoding="utf-8")

    @staticmethod
    def read(folder: Path) -> Measured:
        raw = json.loads((folder / FILE).read_text(encoding="utf-8"))
        return Measured(
            [Reading(r["id"], tuple(r["nll"]), r["bytes"]) for r in raw["readings"]],
            [Leaning(**row) for row in raw["leanings"]],
            raw["shortened"],
        )


def measure(base: SharedBase, role: str, prepared: Path, config) -> Measured:
    """Reads the texts and asks the questions that the stage `prepare` copied into `prepared`."""
    texts, facts = prepared / GENERAL_TEXT, prepared / FACTS
    paragraphs = Paragraphs(base, load_paragraphs(texts)) if texts.exists() else None
    questions = Questions(base, load_facts(facts), system_prompt=config.model.system_prompt) if facts.exists() else None
    return Measured(
        paragraphs.read(role) if paragraphs else (),
        questions.ask(role) if questions else (),
        paragraphs.shortened if paragraphs else 0,
    )
