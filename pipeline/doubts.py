"""What of a round's reward model a person should know before trusting the round. None of it decides: the gate of the round does."""

from __future__ import annotations

from pathlib import Path

from pipeline.evaluation.cards import read_card

# Share of clean pairs on the frozen held-out rankings by which a new reward model may fall behind the old one.
DROP = 0.02
_FROZEN = "clean_accuracy"


def on_new_votes(before: dict) -> list[str]:
    """The reward model in service on votes that it had not seen (`before.json`): no better than a coin?"""
    low = before.get("ci_low")
    if low is None or low > 0.5:
        return []
    return [
        f"the reward model of {before['run']} may be no better than chance on the new votes ({before['value']:.0%}, from {low:.0%}): these "
        "raters want something else than the earlier ones, or hardly agree; see `feedback stats`"
    ]


def on_old_rankings(new: Path, old: Path) -> list[str]:
    """Did the new reward model forget what the old one knew of the held-out rankings? Nothing where either was not measured on them."""
    now, was = (_clean(run) for run in (new, old))
    if now is None or was is None or was - now <= DROP:
        return []
    return [
        f"the new reward model is right on {now:.1%} of clean held-out pairs, the one of {old.name} on {was:.1%}: the new votes cost "
        "something that was known"
    ]


def _clean(run: Path) -> float | None:
    file = run / "evaluation" / "reward" / "card.json"
    if not file.is_file():
        return None
    entry = read_card(file).get(_FROZEN)
    return entry.value if entry else None
