"""Which cards of a run no longer say what would be measured now, and why."""

from __future__ import annotations

from pipeline.errors import UserError
from pipeline.run import Run
from pipeline.step import Step


def outdated(run: Run, steps: dict[str, Step]) -> dict[str, str]:
    """Evaluation → why its card is to be measured anew, in the order of `steps`.

    A card is outdated where the code that measures, its settings or what it was measured on are others by now, where it was damaged, and
    where it is held against a card that is outdated itself. One that is not there is none of them.
    """
    found: dict[str, str] = {}
    for name, step in steps.items():
        if step.is_evaluation and (why := _why(run, step, steps, found)):
            found[name] = why
    return found


def _why(run: Run, step: Step, steps: dict[str, Step], before: dict[str, str]) -> str:
    try:
        done = run.manifest(step)
    except UserError:
        return "its manifest is damaged"
    if done is None:
        return ""
    # Before its own differences, which cannot be told from a damaged one of those.
    if builds_on := [name for name in step.needs if name in before]:
        return f"held against {builds_on[0]}, which is measured anew"
    if missing := [name for name in step.needs if steps[name].is_evaluation and run.manifest(steps[name]) is None]:
        return f"held against {missing[0]}, which is missing"
    if reasons := run.differences(step, steps):
        return "; ".join(reasons[:3])
    return "its files are not as they were written" if run.verify(step) else ""
