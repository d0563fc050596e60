"""Holds the cards of a finished run against what the program says beforehand that they will hold."""

import json
from pathlib import Path

from pipeline.config import load_config
from pipeline.evaluation.expected import NUMBERS, refused

# The n of best-of-n in every config that is run here.
N = 2


def hold_against_the_table(run: Path) -> None:
    config = load_config(run / "config.yaml")
    for stage in ("base", "sft", "reward", "ppo"):
        entries = json.loads((run / "evaluation" / stage / "card.json").read_text(encoding="utf-8"))["entries"]
        names = {e["metric"] for e in entries}
        ends = {f"{e['metric']}.ci_low" for e in entries if e["ci_low"] is not None}
        # A gate on any number that is there, or on the end of an interval that is there, is let in.
        assert refused({f"{stage}.{name}": {"min": 0} for name in names | ends}, config) == {}
        groups = [g for g in NUMBERS if stage in g.stages]
        promised = {name for g in groups if not g.lacks(config, N) for name in g.examples}
        assert promised <= names, f"{stage}: not on the card: {promised - names}"
        # Another group may hold the same name under other conditions.
        switched_off = {name for g in groups if g.lacks(config, N) for name in g.examples} - promised
        assert not switched_off & names, f"{stage}: on the card all the same: {switched_off & names}"
        point = {name for g in groups if not g.interval for name in g.examples}
        assert not {f"{name}.ci_low" for name in point} & ends
