"""What to doubt in a run, read off its own cards: the weak points that a table of passed gates does not show."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from pipeline.report import sentences, tables, wording
from pipeline.report.facts import POLICIES, Facts

# Below this share of finished answers, a policy's scores say more about the limit on tokens than about the policy.
MOSTLY_CUT = 0.5
# The share of a gain in reward that should be there between answers of like length, and the points of win rate that may come with
# length (Singhal et al. 2023; Dubois et al. 2024).
SMALL_GAIN = 0.3
MUCH_LENGTH = 0.05
PROBE_RIGHT = 0.7


def caveats(facts: Facts) -> list[str]:
    """One sentence for each weak point that the numbers show; those that hold for every run come last."""
    return [said for look in LOOKS for said in look(facts)]


def _alarmed(facts: Facts) -> Iterator[str]:
    if facts.watched.get("said"):
        yield f"A failure detector stopped {facts.learner}: {facts.watched['said']}"
    for alarm in facts.watched.get("alarms", ()):
        if not alarm["stops"]:
            yield f"A failure detector warned, and {facts.learner} went on: {alarm['sentence']}."


def _length_rule(facts: Facts) -> Iterator[str]:
    """Of cards that know no better floor."""
    if facts.entry("reward", "clean_accuracy_minus_best_floor"):
        return
    model, rule = facts.entry("reward", "clean_accuracy"), facts.entry("reward", "length_rule_accuracy")
    if model and rule and rule.value >= (model.ci_low if model.ci_low is not None else model.value):
        yield (
            f"The rule “the shorter answer is better” is right on {wording.figure(rule)} of the clean pairs, the reward model on "
            f"{wording.figure(model)}: on these pairs it is not measurably better than that rule."
        )


def _best_floor(facts: Facts) -> Iterator[str]:
    said = {"clean": "pairs without noise", "observed": "pairs as labelled"}
    for label, pairs in said.items():
        entry = facts.entry("reward", f"{label}_accuracy_minus_best_floor")
        if entry is None:
            continue
        if (entry.ci_low if entry.ci_low is not None else entry.value) <= 0:
            floor = re.search("“(.+?)”", entry.note)
            yield (
                f"On the {pairs} the reward model is not measurably better than the best rule without a language model"
                f"{f', “{floor[1]}”' if floor else ''}: {wording.estimate(entry)}."
            )
        return


def _chance_parts(facts: Facts) -> Iterator[str]:
    if facts.learner != "PPO":
        return
    for part in facts.parts("reward", "clean_accuracy_"):
        entry = facts.entry("reward", f"clean_accuracy_{part}")
        if entry and entry.ci_low is not None and entry.ci_low <= 0.5:
            yield (
                f"On pairs that differ in “{part}”, the reward model is right on {wording.figure(entry)} ({wording.interval(entry)}): "
                "chance is not excluded, so nothing shows that PPO was paid for that part."
            )


def _lost_parts(facts: Facts) -> Iterator[str]:
    card = facts.cards.get("ppo")
    for name in card.names if card else ():
        if name.startswith("gold_") and name.endswith("_minus_sft") and name != "gold_minus_sft":
            entry = facts.entry("ppo", name)
            if entry and entry.value < 0:
                lost = "lost" if entry.ci_high is not None and entry.ci_high < 0 else "may have lost"
                part = name.removeprefix("gold_").removesuffix("_minus_sft")
                yield f"{facts.learner} {lost} in “{part}”: {wording.figure(entry)} against SFT ({wording.interval(entry) or 'no interval'})."


def _no_better_than_picking(facts: Facts) -> Iterator[str]:
    for n, _, _ in facts.best_of():
        entry = facts.entry("ppo", f"gold_minus_best_of_{n}")
        if entry and entry.ci_low is not None and entry.ci_low <= 0:
            yield (
                f"Picking the best of {n} SFT answers does about as well as {facts.learner} ({wording.figure(entry)}, {wording.interval(entry)}), "
                "without any training."
            )


def _bought_by_length(facts: Facts) -> Iterator[str]:
    gain, drop = facts.entry("ppo", "normalised_reward_gain"), facts.entry("ppo", "lc_minus_raw_win_rate")
    if facts.learner == "PPO" and gain and gain.value < SMALL_GAIN:
        yield (
            f"Between answers of like length only {wording.figure(gain)} of the reward that PPO gained is left ({wording.interval(gain)}): the "
            "rest comes with other lengths. Right where raters want that, and a hole in the reward model where they do not."
        )
    if drop and drop.value < -MUCH_LENGTH:
        lower = wording.figure(drop, signed=False, absolute=True)
        yield f"At equal length {facts.learner}'s win rate against SFT would be {lower} lower: part of its wins comes with length."


def _forgot(facts: Facts) -> Iterator[str]:
    for policy in ("sft", "ppo"):
        entry = facts.entry(policy, "general_perplexity_ratio")
        if entry and entry.ci_low is not None and entry.ci_low > 1:
            yield (
                f"{facts.stage_name(policy)} predicts ordinary text worse than the base model: perplexity {wording.figure(entry)} times as high "
                f"({wording.interval(entry)})."
            )


def _flatters(facts: Facts) -> Iterator[str]:
    entry = facts.entry("ppo", "wrong_suggested_minus_sft")
    if entry and entry.ci_low is not None and entry.ci_low > 0:
        yield (
            f"{facts.learner} prefers a wrong answer that the person suggested more often than SFT did: {wording.figure(entry)} "
            f"({wording.interval(entry)})."
        )


def _probes(facts: Facts) -> Iterator[str]:
    for name, entry in tables.probe_rows(facts):
        if entry.value < PROBE_RIGHT:
            yield f"Under the probe “{name}” the reward model holds up on only {wording.figure(entry)} of answers ({wording.interval(entry)})."


def _paid_by_the_judge(facts: Facts) -> Iterator[str]:
    sources = getattr(getattr(facts.config, "ppo", None), "reward_sources", None) or {}
    if facts.learner == "PPO" and sources.get("rubric") and not sentences.by_test_model(facts):
        yield "PPO was paid by the rubric itself, so the gold score is no independent judge of it."


def _cut_off(facts: Facts) -> Iterator[str]:
    for policy in POLICIES:
        entry = facts.entry(policy, "eos_rate")
        if entry and entry.value < MOSTLY_CUT:
            limit = getattr(facts.config.evaluation, "max_new_tokens", None)
            yield (
                f"{facts.stage_name(policy)} finished {wording.figure(entry)} of its answers; the rest were cut at {limit} tokens. Parts of "
                "the score that ask for an end or for brevity count against it for that reason, not for what it says."
            )


def _accepted(facts: Facts) -> Iterator[str]:
    for gate in facts.gates:
        if gate.state == "accepted":
            yield f"The gate {gate.name} was missed and accepted by a person: {gate.why}"


def _always(facts: Facts) -> Iterator[str]:
    if sentences.by_test_model(facts):
        yield (
            "The test model judges, and it learnt from the same raters as the reward model, on the same base: what both get wrong in the "
            "same way, such as a liking for length, neither shows. Read the answers below."
        )
    elif any(facts.entry(policy, "gold") for policy in POLICIES):
        yield (
            "The rubric reads form and the words of the question, not truth: an answer that is wrong can have full marks. "
            "Read the answers below."
        )
    if facts.cards:
        yield "Intervals are over the held-out questions of this one run; another seed trains another model."


LOOKS: tuple[Callable[[Facts], Iterator[str]], ...] = (
    _alarmed,
    _length_rule,
    _best_floor,
    _chance_parts,
    _lost_parts,
    _no_better_than_picking,
    _bought_by_length,
    _forgot,
    _flatters,
    _probes,
    _paid_by_the_judge,
    _cut_off,
    _accepted,
    _always,
)
