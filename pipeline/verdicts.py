"""What people said of a round's assistant beside another, blind: a reason to put it in service, never a condition."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from data.choices import Player, family_of, read_choices
from data.errors import UserError
from data.feedback import FeedbackStore
from pipeline.disk import sha256
from pipeline.learner import called
from pipeline.run import Run
from pipeline.service import InService, names, path_of

Verdict = Callable[[InService, InService], str]


def verdicts(base: Run) -> Verdict:
    """Reads the votes once; the function then says what people preferred, one assistant over another, in a line.

    The line is empty where nobody has compared the two blind. Votes that cannot be read are no reason to refuse anything: the line says so.
    """
    database = Path(base.config.chat.feedback_db)
    if not database.exists():
        return lambda one, other: ""
    family = family_of(base.path.name)[0]
    try:
        store = FeedbackStore.open(database)
        try:
            choices = read_choices(store, unasked=base.config.chat.consent, family=family, formerly=names(base.path))
        finally:
            store.close()
    except UserError as error:
        unread = f"people's votes could not be read: {error.problems[0]}"
        return lambda one, other: unread
    if not choices.votes:
        # Nor are there weights to be hashed for.
        return lambda one, other: ""

    def said(one: InService, other: InService) -> str:
        from pipeline.evaluation.standings import between
        from pipeline.evaluation.standings_words import preferred

        sides = [_player(base.path, family, assistant) for assistant in (one, other)]
        if None in sides or sides[0] == sides[1]:
            return ""
        both = tuple(f"{side.run} ({called(path_of(base.path, side), side.stage)})" for side in (one, other))
        found = between(choices, *sides, called=both)
        return preferred(found) if found is not None else ""

    return said


def _player(base: Path, family: str, assistant: InService) -> Player | None:
    """The assistant as the store knows it, by its weights as they are now; None where they are gone."""
    file = path_of(base, assistant) / "stages" / assistant.stage / "adapter" / "adapter_model.safetensors"
    if not file.is_file():
        return None
    return Player(family, sha256(file))
