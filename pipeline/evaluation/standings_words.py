"""How the standings are said, in the terminal and in the lines of a round."""

from __future__ import annotations

import math

from data.numbers import many
from pipeline.evaluation.standings import ENOUGH, Pair, Standings
from pipeline.evaluation.statistics import Estimate

NOTE = (
    f"A tie and “both bad” count half. 95 % intervals draw whole people where {ENOUGH} or more voted; with fewer they draw whole conversations, "
    f"if there are {ENOUGH}, and speak for these people alone. p is the exact sign test over questions, corrected for all pairs (Holm)."
)


def summary(found: Standings) -> str:
    """The size of the table in one line."""
    checkpoints = len({name for pair in found.pairs for name in (pair.first, pair.second)})
    return (
        f"{many(found.votes, 'blind vote')} between {many(checkpoints, 'checkpoint')}, of {many(found.people, 'person', 'people')} in "
        f"{many(found.conversations, 'conversation')}"
    )


def preferred(pair: Pair) -> str:
    """One pair in one line, for the list of rounds and the record of who is in service."""
    return f"people preferred {pair.first} over {pair.second} in {share(pair.rate)} of {many(pair.votes, 'blind vote')} ({counts(pair)})"


def counts(pair: Pair) -> str:
    """Won, lost and the rest, and of how many people."""
    return (
        f"{pair.won} won, {pair.lost} lost, {many(pair.tied, 'tie')}, {pair.both_bad} both bad; "
        f"{many(pair.people, 'person', 'people')}, {many(pair.conversations, 'conversation')}"
    )


def share(found: Estimate) -> str:
    """A share with its interval."""
    if math.isnan(found.low):
        return f"{found.value:.0%} (too few for an interval)"
    return f"{found.value:.0%} [{found.low:.0%}, {found.high:.0%}]"


def points(found: Estimate) -> str:
    """Points of Elo with their interval."""
    if math.isnan(found.low):
        return f"{found.value:+.0f} [no interval]"
    return f"{found.value:+.0f} [{found.low:+.0f}, {found.high:+.0f}]"


def p_value(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
