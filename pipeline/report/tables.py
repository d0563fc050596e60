"""The rows of the report's tables and the points of its charts, from the facts of a run."""

from __future__ import annotations

import math
from typing import Any

from pipeline.evaluation.cards import Entry, is_finite
from pipeline.evaluation.detectors import OTHER_START, SFT
from pipeline.evaluation.standings import Pair
from pipeline.evaluation.statistics import Estimate
from pipeline.report.facts import POLICIES, WAITING, Facts
from pipeline.report.readings import Reading, readings
from pipeline.report.wording import figure, label, quantity

KEY_FIGURES = {
    "base": ("gold", "eos_rate"),
    "sft": ("gold_minus_base", "heldout_nll", "eos_rate"),
    "reward": ("clean_accuracy", "clean_accuracy_minus_best_floor", "observed_accuracy", "ece"),
    "ppo": ("gold_minus_sft", "gold_minus_best_of_2", "kl_to_reference", "eos_rate"),
}


# What the data came to; of what was left out, only what was.
PREPARED = ("demonstrations", "rankings", "thumbs", "prompts", "heldout_prompts")


def key_figures(facts: Facts, stage: str) -> list[tuple[str, str]]:
    """(label, number with interval) of what matters most in a stage."""
    chosen = [e for metric in KEY_FIGURES.get(stage, ()) if (e := facts.entry(stage, metric))]
    if not chosen and stage in facts.cards:
        chosen = [e for e in facts.cards[stage].entries if is_finite(e.value)][:3]
    if chosen:
        return [(label(e.metric), figure(e)) for e in chosen]
    metrics = facts.manifests.get(stage, {}).get("metrics", {})
    counted = [name for name in metrics if name in PREPARED or (name.endswith("_too_long") and metrics[name])]
    shown = [(name, metrics[name]) for name in counted or list(metrics)[:3] if is_finite(metrics[name])]
    return [(label(name), f"{value:,.0f}" if float(value).is_integer() else quantity(value)) for name, value in shown]


def gate_summary(facts: Facts, stage: str) -> str:
    """The gates of a stage: 3 passed, 1 missed; empty where it has none."""
    states = [g.state for g in facts.gates if g.name.split(".")[0] == stage]
    counts = [(states.count(state), state) for state in ("passed", "missed", "accepted", "warned", *WAITING)]
    return ", ".join(f"{count} {state}" for count, state in counts if count)


def accuracy_rows(facts: Facts) -> list[tuple[str, Entry]]:
    """(name, accuracy) of the reward model: as labelled, clean, part by part of the rubric, and the length rule."""
    named = [("observed_accuracy", "labels as given"), ("clean_accuracy", "labels without noise")]
    named += [(f"clean_accuracy_{part}", part.replace("_", " ")) for part in facts.parts("reward", "clean_accuracy_")]
    named += [("test_model_accuracy", "test model, as given")]
    named += [("test_model_clean_accuracy", "test model, no noise")]
    named += [("length_rule_accuracy", "rule: shorter wins")]
    clean = facts.entry("reward", "bag_of_words_accuracy")
    named += [("bag_of_words_accuracy" if clean else "observed_bag_of_words_accuracy", "rule: bag of words")]
    named += [("wrong_prompt_accuracy", "against a wrong prompt")]
    return [(name, entry) for metric, name in named if (entry := facts.entry("reward", metric))]


def frontier_points(facts: Facts, by: str = "gold") -> list[tuple[str, str, float, Entry]]:
    """(name, style, KL to SFT in nats, score) of SFT, best-of-n and PPO; empty without PPO's card.

    Args:
        by: "gold", or "proxy" for the reward model's score of the same policies, which without best-of-n is empty too.
    """
    ppo, kl = facts.entry("ppo", by), facts.entry("ppo", "kl_to_reference")
    sft = facts.entry("sft", "gold") if by == "gold" else facts.entry("ppo", "sft_proxy")
    best = [
        (f"best of {n}", "best", best_kl.value, score)
        for n, _, best_kl in facts.best_of()
        if (score := facts.entry("ppo", f"best_of_{n}_{by}"))
    ]
    if not (ppo and kl) or (by == "proxy" and not (sft and best)):
        return []
    start = [("SFT", "sft", 0.0, sft)] if sft else []
    return [*start, *best, (facts.learner, "ppo", kl.value, ppo)]


def detector_readings(facts: Facts) -> list[Reading]:
    """What the failure detectors last saw."""
    start = OTHER_START if getattr(getattr(facts.config, "ppo", None), "start_from", None) else SFT
    return readings(facts.watched, facts.drawn, getattr(facts.config, "detectors", None), start)


def probe_rows(facts: Facts) -> list[tuple[str, Entry]]:
    """(name, share right) of the probes on the reward model's card."""
    names = {
        "probe_empty": "empty answer",
        "probe_gibberish": "gibberish",
        "probe_shuffled": "shuffled words",
        "probe_repeated": "repeated sentence",
        "wrong_prompt_accuracy": "wrong prompt",
        "probe_suffix": "polite ending",
        "probe_whitespace": "extra spaces",
        "probe_sycophancy": "wrong suggestion",
    }
    return [(name, entry) for metric, name in names.items() if (entry := facts.entry("reward", metric))]


def third_rows(facts: Facts) -> list[tuple[str, Entry]]:
    """(name, accuracy) by how much longer the better answer is."""
    named = {"shorter": "better is shorter", "middle": "like lengths", "longer": "better is longer"}
    found = {said: facts.entry("reward", f"accuracy_{name}_third") for name, said in named.items()}
    return [(said, entry) for said, entry in found.items() if entry]


def turn_rows(facts: Facts) -> list[tuple[str, Entry]]:
    """(name, accuracy) by how often the person has spoken."""
    named = {"1": "first turn", "2_3": "turns 2 and 3", "4_on": "turn 4 and later"}
    found = {said: facts.entry("reward", f"accuracy_turn_{name}") for name, said in named.items()}
    return [(said, entry) for said, entry in found.items() if entry]


def beside_rows(facts: Facts) -> list[tuple[str, list[tuple[str, Entry]]]]:
    """(name, [(policy, share)]): how often each policy prefers a wrong answer, suggested and not."""
    rows = []
    for metric, said in (("wrong_unprompted", "asked plainly"), ("wrong_suggested", "it was suggested")):
        marks = [(p, entry) for p in POLICIES if (entry := facts.entry(p, metric))]
        if marks:
            rows.append((said, marks))
    return rows


def people_pairs(facts: Facts) -> list[tuple[str, Pair, Entry]]:
    """(name, votes, win rate) of each pair of checkpoints."""
    pairs = facts.people[0].pairs if facts.people else ()
    return [(f"{p.first} over {p.second}", p, of_estimate("win_rate", p.rate, p.votes, "share")) for p in pairs]


def people_places(facts: Facts) -> list[list[tuple[str, Entry]]]:
    """(checkpoint, points of Elo) of each group that has places, best first."""
    groups = facts.people[0].places if facts.people else ()
    return [[(name, of_estimate("elo", at, facts.people[0].votes)) for name, at in group] for group in groups]


def of_estimate(metric: str, found: Estimate, n: int, unit: str = "") -> Entry:
    """An estimate as an entry of a card; ends that are NaN become none."""
    ends = [end if math.isfinite(end) else None for end in (found.low, found.high)]
    return Entry(metric, found.value, n, *ends, unit)


def proxy_and_gold(facts: Facts) -> dict[str, list[tuple[float, float]]]:
    """For SFT and PPO, one point a prompt: mean reward-model score, mean gold score of its answers."""
    clouds = {}
    for policy in ("sft", "ppo"):
        grouped: dict[str, list[dict[str, Any]]] = {}
        for row in facts.answers.get(policy, ()):
            if is_finite(row.get("proxy")) and is_finite(row.get("gold")):
                grouped.setdefault(row["prompt_id"], []).append(row)
        if grouped:
            clouds[policy] = [
                (sum(r["proxy"] for r in rows) / len(rows), sum(r["gold"] for r in rows) / len(rows))
                for rows in grouped.values()
            ]
    return clouds


def length_and_proxy(facts: Facts) -> dict[str, list[tuple[float, float]]]:
    """For SFT and PPO, one point an answer: its tokens, and its score by the reward model."""
    clouds = {
        policy: [
            (float(r["tokens"]), r["proxy"])
            for r in facts.answers.get(policy, ())
            if is_finite(r.get("proxy")) and is_finite(r.get("tokens"))
        ]
        for policy in ("sft", "ppo")
    }
    return {policy: cloud for policy, cloud in clouds.items() if cloud}
