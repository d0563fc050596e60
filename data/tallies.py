"""Thumbs counted by the checkpoint that wrote the answer."""

from __future__ import annotations

from dataclasses import dataclass

from data.feedback import FeedbackStore


@dataclass(frozen=True)
class Tally:
    """Thumbs that stand on the answers of one checkpoint, known by its run, its stage and its weights, and of how many people."""

    run: str
    stage: str
    weights_sha256: str
    up: int
    down: int
    people: int


_TALLIES = """
    SELECT a.run, a.stage, a.weights_sha256, sum(r.value = 1), sum(r.value = -1), count(DISTINCT r.rater)
    FROM rating r JOIN message m ON m.id = r.message JOIN model a ON a.id = m.model
    WHERE r.id IN (SELECT max(id) FROM rating GROUP BY message, rater) AND r.value != 0
    GROUP BY a.run, a.stage, a.weights_sha256
    ORDER BY min(a.rowid)"""


def thumbs_by_checkpoint(store: FeedbackStore) -> list[Tally]:
    """One tally a checkpoint, in the order in which the store met them. Imported votes are on models elsewhere, and count too."""
    return [Tally(*row) for row in store.rows(_TALLIES)]
