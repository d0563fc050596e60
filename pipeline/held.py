"""A stage's gates held against its card, and the verdict that is left beside it: `gates.json`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pipeline.disk import sha256, write_json
from pipeline.errors import GateFailure
from pipeline.evaluation import accepted, gates
from pipeline.evaluation.gates import GateResult
from pipeline.run import Run

CARD = "card.json"


def hold(run: Run, folder: str, say: Callable[[str], None]) -> None:
    """Holds the gates of the evaluation in `folder`, writes the verdict, and tells of gates that only warn or were accepted.

    Raises:
        GateFailure: a gate is missed that neither warns only nor was accepted.
    """
    file = run.path / folder / CARD
    held = _results(run, file)
    accepted.note(run.path, held)
    covered = accepted.covering(run.path, held)
    write_json(file.with_name(gates.VERDICT_FILE), _verdict(file, held, covered))
    missed = [r for r in held if not r.passed]
    for result in missed:
        if result.gate in covered:
            say(f"{result.problem} Accepted: {covered[result.gate]}")
        elif result.warns:
            say(f"warning: {result.problem}")
    stopping = [r for r in missed if r.gate not in covered and not r.warns]
    if stopping:
        raise GateFailure([r.problem + _once_accepted(run, r) for r in stopping], [r.gate for r in stopping])


def _once_accepted(run: Run, result: GateResult) -> str:
    said = accepted.outdated(run.path, result)
    # Of a round, the round itself says how to go on: it is to be decided too.
    way = "." if run.like is not None else f"; `run --accept {result.gate} --why …` if this too may pass."
    return f" {said}{way}" if said else ""


def altered(run: Run, folder: str) -> list[str]:
    """One line where the verdict in `folder` is not what its card and the config's gates come to.

    No manifest seals it, since it is written anew whenever the gates are held, and a person may accept one later.
    """
    card = run.path / folder / CARD
    file = card.with_name(gates.VERDICT_FILE)
    if not card.is_file():
        return []
    try:
        held = _results(run, card)
        expected = _verdict(card, held, accepted.covering(run.path, held))
        found = json.loads(file.read_text(encoding="utf-8"))
        same = _placeless(found) == _placeless(expected)
    except FileNotFoundError:
        return [f"{file}: missing. `run` holds the gates again and writes it."]
    except (AttributeError, KeyError, TypeError, ValueError):
        # A card that cannot be read has a line of its own too, from its manifest's hash.
        return [f"{file}: cannot be read, or its card cannot. `run` holds the gates again and writes it."]
    if same:
        return []
    return [f"{file}: not what the card and the gates of the config come to. `run` holds the gates again and writes it."]


def _placeless(verdict: dict[str, Any]) -> dict[str, Any]:
    """Without the directory that a missed gate's sentence names: runs are moved and copied."""
    lines = [line | {"why": re.sub(rf"\(.*?{re.escape(CARD)}", f"({CARD}", line["why"])} for line in verdict["gates"]]
    return verdict | {"gates": lines}


def _results(run: Run, card: Path) -> list[GateResult]:
    read = json.loads(card.read_text(encoding="utf-8"))
    return gates.results(read, run.config.gates, card.parent.name, str(card), run.config.learner)


def _verdict(card: Path, held: Sequence[GateResult], covered: dict[str, str]) -> dict[str, Any]:
    return {"card_sha256": sha256(card), "gates": [gates.verdict(result, covered) for result in held]}
