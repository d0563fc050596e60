"""Some of the answers that a policy gives while it learns, for a person to read along; the report shows a few of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from data.records import read_out
from reward.sources import Answered

FILE = "samples.jsonl"
# Answers of an update of PPO, or of a look at KTO.
KEPT = 4


class Samples:
    """`samples.jsonl` in a stage's folder: a line an answer, with the update before which it was drawn."""

    def __init__(self, folder: Path):
        self._file = folder / FILE
        self.begin()

    def begin(self, text: str = "") -> None:
        """Empty, or what stood there when the checkpoint was written that is gone on from."""
        self._file.write_text(text, encoding="utf-8")

    @property
    def text(self) -> str:
        """What stands there, for a checkpoint."""
        return self._file.read_text(encoding="utf-8")

    def add(self, update: int, answers: Sequence[Answered], scores: Sequence[float] = (), *, by: str = "score") -> None:
        """The first few answers. `by` names the scores: "score" the reward's, "judge" the judge's; there may be none."""
        with self._file.open("a", encoding="utf-8", newline="\n") as file:
            for place, answer in enumerate(answers[:KEPT]):
                row = {"update": update, "prompt": read_out(answer.prompt), "response": answer.response}
                row |= {by: float(scores[place])} if len(scores) else {}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
