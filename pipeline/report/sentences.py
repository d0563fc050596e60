"""What the report says in words: the verdict, and the notes beside tables and charts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from data.numbers import many
from pipeline.evaluation.cards import is_finite
from pipeline.evaluation.standings_words import summary as standings_summary
from pipeline.report.facts import WAITING, Facts, Gate
from pipeline.report.tables import of_estimate
from pipeline.report.wording import estimate, figure, interval, number
from reward.rubric import PART_MEANINGS, PART_WEIGHTS

GOLD_NOTE = (
    "The gold score is a fixed rubric that stands in for people. Answers are to held-out prompts; "
    "every interval is a 95 % interval over questions."
)
TEST_MODEL_NOTE = (
    "The gold score is the test model's: a second reward model, taught by questions that the first one never saw, and raised by no policy "
    "(reward.test_share). Its unit is the spread of its training answers. Answers are to held-out prompts; every interval is a 95 % "
    "interval over questions and leaves out that another test model would judge otherwise."
)
BEST_OF_NOTE = (
    "Best-of-n: draw n SFT answers, keep the one that the reward model likes best. "
    "It needs no training, so whatever was trained has to stand beside it."
)
BESIDE_NOTE = (
    "What nobody paid for: ordinary text that no stage trains on, and questions with a known answer. Perplexity above the base "
    "model's is forgetting; preferring a wrong answer more often because the person suggested it is sycophancy; answers to different "
    "prompts that grow alike are collapse."
)
ACCURACY_NOTE = (
    "How often the reward model scores the better of two answers higher, on pairs it was not trained on. "
    "Guessing is right in half of them."
)


def verdict(facts: Facts) -> str:
    """The run in one sentence: did the last policy beat SFT, by how much, and did the gates hold?"""
    judged = _judgement(facts)
    gates = _gate_sentence(facts.gates)
    return f"{judged}; {gates}." if gates else f"{judged}."


def _judgement(facts: Facts) -> str:
    for stage, metric, new, old in (
        ("ppo", "gold_minus_sft", facts.learner, "SFT"),
        ("sft", "gold_minus_base", "SFT", "the base model"),
    ):
        entry = facts.entry(stage, metric)
        if entry is None:
            continue
        so_far = "" if stage == "ppo" else "So far: "
        size = figure(entry, signed=False, absolute=True)
        if not (is_finite(entry.ci_low) and is_finite(entry.ci_high)):
            side = "above" if entry.value > 0 else "below"
            return f"{so_far}{new} scores {size} {side} {old} on the gold score, without an interval"
        around = f"95 % interval {interval(entry)}, {many(entry.n, 'held-out question')}"
        if entry.ci_low > 0:
            return f"{so_far}{new} beats {old} by {size} on the gold score ({around})"
        if entry.ci_high < 0:
            return f"{so_far}{new} is worse than {old} by {size} on the gold score ({around})"
        return f"{so_far}{new} cannot be told apart from {old} on the gold score: {figure(entry)} ({around})"
    done = ", ".join(facts.stage_name(s) for s in facts.stages if s in facts.manifests)
    return (
        f"Finished so far: {done}; no comparison on the gold score yet"
        if done
        else "Nothing has finished in this run yet"
    )


def _gate_sentence(gates: Sequence[Gate]) -> str:
    reached = [g for g in gates if g.state not in WAITING]
    if not reached:
        return ""
    missed = [g.name for g in reached if g.state == "missed"]
    accepted = [g.name for g in reached if g.state == "accepted"]
    waiting = "".join(f", {n} {state}" for state in WAITING if (n := sum(g.state == state for g in gates)))
    warned = sum(g.state == "warned" for g in reached)
    if not missed and not accepted and not warned:
        said = f"all {len(reached)} gates passed" if len(reached) > 1 else "the one gate passed"
        return said + waiting
    passed = len(reached) - len(missed) - len(accepted) - warned
    said = f"{passed} of {len(reached)} gates passed"
    said += f", missed: {', '.join(missed)}" if missed else ""
    said += f", accepted although missed: {', '.join(accepted)}" if accepted else ""
    return said + (f", {warned} warned" if warned else "") + waiting


# Above the tables of all numbers.
COUNTED = (
    "n is how many stand behind a number: the questions of held-out prompts, of demonstrations or of rankings, or what else it is read from "
    "(answers, questions with a known answer). An interval is over these; where none stands, none was made."
)


def floor_note(facts: Facts) -> str:
    """How far the reward model is above what needs no language model; empty where that was not measured."""
    for label, pairs in (("clean", "pairs without noise"), ("observed", "pairs as labelled")):
        if entry := facts.entry("reward", f"{label}_accuracy_minus_best_floor"):
            floor, _, levels = entry.note.removeprefix("above ").partition(", the best floor on these pairs: ")
            # What a card adds to its notes where there is no interval stands behind a semicolon.
            floor, levels = floor.partition(";")[0], levels.partition(";")[0]
            said = f"On the {pairs}, the reward model minus the best rule without a language model, {floor}, is {estimate(entry)}."
            return f"{said} The rules: {levels}." if levels else said
    return ""


def detectors_note(facts: Facts) -> str:
    """What the table of the failure detectors shows."""
    return (
        f"While {facts.learner} ran, each detector held what it saw against SFT. "
        f"One that crosses its bound stops {facts.learner} or warns; the others were quiet."
    )


def judge_note(facts: Facts) -> str:
    """What the looks of the independent judge are."""
    prompts = len(facts.watched["looks"][0]["judge"])
    whose = "test model" if getattr(facts.config, "judged_by", None) == "test_model" else "gold rubric"
    paid = any(look["proxy"] is not None for look in facts.watched["looks"])
    return (
        f"While {facts.learner} ran, the {whose}, which {facts.learner} does not raise, judged answers to the same {many(prompts, 'prompt')} of the "
        "test split, with 95 % intervals over these prompts."
        + (" A reward that rises while the judge falls is being gamed." if paid else "")
    )


def parts_note(facts: Facts) -> str:
    """What the parts of the rubric ask for, with the points that each is worth; empty where something else is the gold score."""
    parts = dict.fromkeys(part for policy in facts.cards for part in facts.parts(policy, "gold_"))
    if by_test_model(facts) or not parts or not parts.keys() <= PART_MEANINGS.keys():
        return ""
    said = "; ".join(f"{part} ({PART_MEANINGS[part]}, {PART_WEIGHTS[part]:g})" for part in parts)
    return f"Its parts, with what earns each its full points: {said}. In all {sum(PART_WEIGHTS[part] for part in parts):g} points."


def by_test_model(facts: Facts) -> bool:
    """Whether the gold score is the test model's."""
    return getattr(getattr(facts.config, "evaluation", None), "gold", None) == "test_model"


def gold_note(facts: Facts) -> str:
    """What the gold score is, and what PPO was paid by: the comparison means less where that held the rubric."""
    sources = getattr(getattr(facts.config, "ppo", None), "reward_sources", None)
    if by_test_model(facts):
        return TEST_MODEL_NOTE
    if facts.learner == "KTO":
        return f"{GOLD_NOTE} KTO learnt from thumbs alone and never saw the rubric."
    if not sources:
        return GOLD_NOTE
    if set(sources) == {"model"}:
        return f"{GOLD_NOTE} PPO was paid by the reward model alone and never saw the rubric."
    return f"{GOLD_NOTE} PPO was paid by {', '.join(f'{weight:g} × {name}' for name, weight in sources.items())}."


def answer_note(row: Mapping[str, Any]) -> str:
    """What stands beside an answer: gold 4.52, 23 tokens, cut off."""
    said = [f"gold {number(row['gold'])}"] if is_finite(row.get("gold")) else []
    said += [f"{row['tokens']} tokens"] if is_finite(row.get("tokens")) else []
    return ", ".join([*said, *([] if row.get("finished", True) else ["cut off"])])


def people_note(facts: Facts) -> str:
    """Whose votes these are, and of when."""
    found, counted = facts.people
    told = [f"{standings_summary(found)}, counted {counted} UTC."]
    if found.first_side is not None:
        left = of_estimate("left", found.first_side, found.decisive, "share")
        told.append(
            f"The left side was chosen in {figure(left)} ({interval(left)}) of {many(found.decisive, 'choice')} of a side."
        )
    if found.agreement is not None:
        same = of_estimate("agreement", found.agreement, found.judged_twice, "share")
        told.append(
            f"Two people agreed in {figure(same)} ({interval(same)}) of {many(found.judged_twice, 'verdict')} on the same answers."
        )
    left_out = sum(found.left_out.values())
    told += [f"{many(left_out, 'more choice is no such vote', 'more choices are no such votes')}; “feedback standings” says why."] if left_out else []
    return " ".join([*told, *(f"No places: {why}" for why in found.unplaced)])
