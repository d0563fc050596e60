"""What a run left on disk, read once for both forms of the report, and how its numbers are written."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data.errors import UserError
from pipeline.evaluation import accepted as accepting
from pipeline.evaluation import calibration
from pipeline.evaluation import gates as gating
from pipeline.evaluation.cards import Card, Entry, is_finite, read_card
from pipeline.evaluation.detectors import OTHER_START, SFT
from pipeline.evaluation.detectors import REPORT as DETECTORS
from pipeline.evaluation.readings import Reading, readings
from pipeline.evaluation.standings import Pair, Standings
from pipeline.evaluation.standings_file import read as read_standings
from pipeline.evaluation.standings_words import summary as standings_summary
from pipeline.evaluation.statistics import Estimate, cluster_bootstrap

ORDER = ("base", "prepare", "sft", "reward", "ppo", "benchmarks")
POLICIES = ("base", "sft", "ppo")
NAMES = {
    "base": "Base",
    "sft": "SFT",
    "ppo": "PPO",
    "reward": "Reward model",
    "prepare": "Prepare",
    "benchmarks": "Benchmarks",
}
KEY_FIGURES = {
    "base": ("gold", "eos_rate"),
    "sft": ("gold_minus_base", "heldout_nll", "eos_rate"),
    "reward": ("clean_accuracy", "clean_accuracy_minus_best_floor", "observed_accuracy", "ece"),
    "ppo": ("gold_minus_sft", "gold_minus_best_of_2", "kl_to_reference", "eos_rate"),
}
LABELS = {
    "gold": "gold score",
    "gold_minus_base": "gold minus base",
    "gold_minus_sft": "gold minus SFT",
    "eos_rate": "finished answers",
    "eos_rate_minus_sft": "finished answers minus SFT",
    "heldout_nll": "held-out loss",
    "base_heldout_nll": "held-out loss of base",
    "clean_accuracy": "accuracy on clean pairs",
    "observed_accuracy": "accuracy on observed pairs",
    "length_rule_accuracy": "accuracy of “shorter wins”",
    "bag_of_words_accuracy": "accuracy of a bag of words",
    "clean_accuracy_minus_best_floor": "clean accuracy minus the best floor",
    "observed_accuracy_minus_best_floor": "observed accuracy minus the best floor",
    "self_bleu": "self-BLEU",
    "ece": "calibration error",
    "kl_to_reference": "KL to the reference",
    "kl_at_start": "KL at the start",
    "win_rate_vs_sft": "win rate against SFT",
    "answer_tokens": "answer length",
    "proxy": "reward-model score",
    "general_perplexity_ratio": "perplexity of ordinary text",
    "ema_gold": "gold score, averaged",
}
SIGNED = "_minus_"
# Gates of which there is no number so far: of a stage that has not run, or of benchmarks, which no run asks by itself.
WAITING = ("not reached", "not measured yet")
GOLD_NOTE = (
    "The gold score is a fixed rubric that stands in for people. Answers are to held-out prompts; "
    "every interval is a 95 % interval over prompts."
)
TEST_MODEL_NOTE = (
    "The gold score is the test model's: a second reward model, taught by questions that the first one never saw, and raised by no policy "
    "(reward.test_share). Its unit is the spread of its training answers. Answers are to held-out prompts; every interval is a 95 % "
    "interval over prompts and leaves out that another test model would judge otherwise."
)
BEST_OF_NOTE = (
    "Best-of-n: draw n SFT answers, keep the one that the reward model likes best. "
    "It needs no training, so PPO has to stand beside it."
)
BESIDE_NOTE = (
    "What nobody paid for: ordinary text that no stage trains on, and questions with a known answer. Perplexity above the base "
    "model's is forgetting; preferring a wrong answer more often because the person suggested it is sycophancy; answers to different "
    "prompts that grow alike are collapse."
)
DETECTORS_NOTE = "While PPO ran, each detector held what it saw against SFT. One that crosses its bound stops PPO or warns; the others were quiet."
ACCURACY_NOTE = (
    "How often the reward model scores the better of two answers higher, on pairs it was not trained on. "
    "Guessing is right in half of them."
)


@dataclass(frozen=True)
class Gate:
    """One configured gate and what became of it: passed, missed, accepted, warned (missed, and only to warn), not reached, or, on
    benchmarks, not measured yet."""

    name: str
    state: str
    result: gating.GateResult
    why: str = ""


@dataclass(frozen=True)
class Facts:
    """Everything the report says comes from here. Missing files leave empty mappings, never invented numbers."""

    run: str
    config: Any
    stages: tuple[str, ...]
    manifests: Mapping[str, dict[str, Any]]
    evaluations: Mapping[str, dict[str, Any]]
    cards: Mapping[str, Card]
    logs: Mapping[str, list[dict[str, Any]]]
    answers: Mapping[str, list[dict[str, Any]]]
    gates: tuple[Gate, ...]
    watched: Mapping[str, Any] = field(default_factory=dict)
    # How sure the reward model is against how often it is right.
    calibration: tuple[calibration.Bin, ...] = ()
    # What people had said when `feedback standings` counted it, and when that was.
    people: tuple[Standings, str] | None = None

    def entry(self, stage: str, metric: str) -> Entry | None:
        card = self.cards.get(stage)
        entry = card.get(metric) if card else None
        if entry is None and metric == "gold" and (last := self.cards.get("ppo")):
            # A test model is younger than the cards of base and SFT: what it says of them stands on PPO's.
            entry = last.get(f"{stage}_gold")
        return entry if entry is not None and is_finite(entry.value) else None

    def parts(self, stage: str, prefix: str) -> list[str]:
        """Names of the parts that follow `prefix` in the metrics of a card, differences left out."""
        card = self.cards.get(stage)
        found = (n for n in card.names if n.startswith(prefix) and SIGNED not in n) if card else ()
        return [name.removeprefix(prefix) for name in found if self.entry(stage, name)]

    def best_of(self) -> list[tuple[int, Entry, Entry]]:
        """(n, gold, KL) of each best-of-n on PPO's card, by n."""
        card = self.cards.get("ppo")
        sizes = (int(m[1]) for name in (card.names if card else ()) if (m := re.fullmatch(r"best_of_(\d+)_gold", name)))
        found = [
            (n, self.entry("ppo", f"best_of_{n}_gold"), self.entry("ppo", f"best_of_{n}_kl")) for n in sorted(sizes)
        ]
        return [(n, gold, kl) for n, gold, kl in found if gold and kl]


def gather(run_dir: Path, config: Any) -> Facts:
    """Read what `run_dir` holds. A file that is there but broken is a UserError with its name; one not there is not."""
    stage_dirs = _finished(run_dir / "stages")
    evaluation_dirs = _finished(run_dir / "evaluation")
    cards = {
        name: read_card(path / "card.json") for name, path in evaluation_dirs.items() if (path / "card.json").exists()
    }
    answers = {name: read_jsonl(path / "answers.jsonl") for name, path in evaluation_dirs.items()}
    rescored = read_jsonl(run_dir / "evaluation" / "ppo" / "sft_answers.jsonl")
    if rescored:
        answers["sft"] = rescored
    return Facts(
        run=run_dir.name,
        config=config,
        stages=tuple(sorted({*stage_dirs, *cards}, key=_place)),
        manifests={name: _read_manifest(path) for name, path in stage_dirs.items()},
        evaluations={name: _read_manifest(path) for name, path in evaluation_dirs.items()},
        cards=cards,
        logs={name: rows for name, path in stage_dirs.items() if (rows := read_jsonl(path / "log.jsonl"))},
        answers={name: rows for name, rows in answers.items() if rows},
        gates=_gates(run_dir, config, cards),
        watched=_watched(stage_dirs),
        calibration=calibration.read(run_dir / "evaluation" / "reward"),
        people=read_standings(run_dir),
    )


def _mean_of(scores: Sequence[float]) -> dict[str, Any]:
    """A look's mean with its interval over prompts, where these are enough for one."""
    value, low, high = cluster_bootstrap(scores, range(len(scores)))
    return {"mean": value, "ends": (low, high) if is_finite(low) and is_finite(high) else None}


def _watched(stage_dirs: Mapping[str, Path]) -> dict[str, Any]:
    """What the failure detectors of PPO left, empty where there is none."""
    file = stage_dirs["ppo"] / DETECTORS if "ppo" in stage_dirs else None
    if file is None or not file.exists():
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        found["looks"] = [{**look, **_mean_of(look["judge"])} for look in found["looks"]]
        return found
    except (ValueError, KeyError, TypeError, ZeroDivisionError):
        raise UserError(f"{file}: not what the PPO stage wrote. Use --redo ppo to make it anew.") from None


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSONL file, none where there is no file."""
    if not path.exists():
        return []
    rows = []
    # Not splitlines(): U+2028 inside a string is no end of a row.
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(f"{path} row {number}: no JSON: {error}. Run the stage that wrote it again.") from error
        if not isinstance(row, dict):
            raise UserError(
                f"{path} row {number}: must be an object, got {line[:40]}. Run the stage that wrote it again."
            )
        rows.append(row)
    return rows


def column(rows: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    """One figure of every row; NaN, which the charts leave out, where a row has none."""
    return [float(value) if is_finite(value := row.get(name)) else math.nan for row in rows]


def rolling_mean(values: Sequence[float], window: int) -> list[float]:
    """Mean of the last `window` values at each place (of as many as there are so far), without those that are none."""
    out = []
    for end in range(1, len(values) + 1):
        near = [v for v in values[max(0, end - window) : end] if math.isfinite(v)]
        out.append(sum(near) / len(near) if near else math.nan)
    return out


def ends(values: Sequence[float]) -> tuple[float, float] | None:
    """Means of the first and of the last tenth of a curve: what it did, without the noise of one step."""
    real = [v for v in values if math.isfinite(v)]
    if not real:
        return None
    tenth = max(1, len(real) // 10)
    return sum(real[:tenth]) / tenth, sum(real[-tenth:]) / tenth


def verdict(facts: Facts) -> str:
    """The run in one sentence: did PPO beat SFT, by how much, and did the gates hold?"""
    judged = _judgement(facts)
    gates = _gate_sentence(facts.gates)
    return f"{judged}; {gates}." if gates else f"{judged}."


def _judgement(facts: Facts) -> str:
    for stage, metric, new, old in (
        ("ppo", "gold_minus_sft", "PPO", "SFT"),
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
        around = f"95 % interval {interval(entry)}, {entry.n} held-out prompts"
        if entry.ci_low > 0:
            return f"{so_far}{new} beats {old} by {size} on the gold score ({around})"
        if entry.ci_high < 0:
            return f"{so_far}{new} is worse than {old} by {size} on the gold score ({around})"
        return f"{so_far}{new} cannot be told apart from {old} on the gold score: {figure(entry)} ({around})"
    done = ", ".join(NAMES.get(s, s) for s in facts.stages if s in facts.manifests)
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


def number(value: float) -> str:
    """Three digits, or two decimals: 1,234 · 123 · 12.3 · 1.23 · 0.123 · 0.0012."""
    size = abs(value)
    if size >= 1000:
        said = f"{value:,.0f}"
    elif size >= 100:
        said = f"{value:.0f}"
    elif size >= 10:
        said = f"{value:.1f}"
    elif size >= 0.995 or size == 0:
        said = f"{value:.2f}"
    elif size >= 0.0995:
        said = f"{value:.3f}"
    else:
        said = f"{value:.2g}"
    return said.replace("-", "−")


def quantity(value: float | None, unit: str = "", *, signed: bool = False, difference: bool = False) -> str:
    """A number with its unit. A share is written in per cent, a difference of shares in percentage points (pp)."""
    if not is_finite(value):
        return "no number"
    sign = "+" if signed and value > 0 else ""
    if unit == "share":
        return f"{sign}{100 * value:.1f}".replace("-", "−") + (" pp" if difference else " %")
    return sign + number(value) + (f" {unit}" if unit else "")


def figure(entry: Entry, *, signed: bool = True, absolute: bool = False) -> str:
    """The value of an entry with its unit; differences with their sign."""
    difference = SIGNED in entry.metric
    value = abs(entry.value) if absolute and is_finite(entry.value) else entry.value
    return quantity(value, entry.unit, signed=signed and difference, difference=difference)


def interval(entry: Entry | gating.GateResult) -> str:
    """The 95 % interval in words: 0.70 to 0.92; empty where there is none."""
    if not (is_finite(entry.ci_low) and is_finite(entry.ci_high)):
        return ""
    difference = SIGNED in entry.metric
    low, high = (
        quantity(end, entry.unit if entry.unit == "share" else "", difference=difference)
        for end in (entry.ci_low, entry.ci_high)
    )
    return f"{low} to {high}"


def gate_value(gate: Gate) -> str:
    """The number that the gate looked at, with its unit."""
    if gate.state in WAITING:
        return "–"
    return quantity(gate.result.value, gate.result.unit, difference=SIGNED in gate.result.metric)


def bound(result: gating.GateResult) -> str:
    """The bounds in words: at least 0.65 · at most 15 nats · 1 to 15 nats."""
    share = result.unit == "share"
    unit = (" pp" if SIGNED in result.metric else " %") if share else f" {result.unit}" if result.unit else ""

    def said(limit: float) -> str:
        return f"{100 * limit if share else limit:.6g}".replace("-", "−")

    if result.low is not None and result.high is not None:
        return f"{said(result.low)} to {said(result.high)}{unit}"
    if result.low is not None:
        return f"at least {said(result.low)}{unit}"
    return f"at most {said(result.high)}{unit}" if result.high is not None else "none"


def label(metric: str) -> str:
    return LABELS.get(metric, metric.replace("_", " "))


def stage_name(stage: str) -> str:
    return NAMES.get(stage, stage)


def duration(seconds: float | None) -> str:
    if not is_finite(seconds):
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    whole = round(seconds)
    return (
        f"{whole // 60} min {whole % 60:02d} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    )


def seconds_of(manifest: Mapping[str, Any] | None) -> float | None:
    return (manifest or {}).get("environment", {}).get("seconds")


def key_figures(facts: Facts, stage: str) -> list[tuple[str, str]]:
    """(label, number with interval) of what matters most in a stage."""
    chosen = [e for metric in KEY_FIGURES.get(stage, ()) if (e := facts.entry(stage, metric))]
    if not chosen and stage in facts.cards:
        chosen = [e for e in facts.cards[stage].entries if is_finite(e.value)][:3]
    if chosen:
        return [(label(e.metric), figure(e)) for e in chosen]
    metrics = facts.manifests.get(stage, {}).get("metrics", {})
    shown = [(name, value) for name, value in list(metrics.items())[:3] if is_finite(value)]
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


def floor_note(facts: Facts) -> str:
    """How far the reward model is above what needs no language model; empty where that was not measured."""
    for label, pairs in (("clean", "pairs without noise"), ("observed", "pairs as labelled")):
        if entry := facts.entry("reward", f"{label}_accuracy_minus_best_floor"):
            return f"On the {pairs}, the reward model is {figure(entry)} ({interval(entry)}) {entry.note}."
    return ""


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
    return [*start, *best, ("PPO", "ppo", kl.value, ppo)]


def detector_readings(facts: Facts) -> list[Reading]:
    """What the failure detectors of PPO last saw."""
    start = OTHER_START if getattr(getattr(facts.config, "ppo", None), "start_from", None) else SFT
    return readings(facts.watched, facts.logs.get("ppo", ()), getattr(facts.config, "detectors", None), start)


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


def judge_note(facts: Facts) -> str:
    """What the looks of the independent judge are."""
    prompts = len(facts.watched["looks"][0]["judge"])
    whose = "test model" if getattr(facts.config, "judged_by", None) == "test_model" else "gold rubric"
    return (
        f"While PPO ran, the {whose}, which PPO does not raise, judged answers to the same {prompts} prompts of the test "
        "split. Bars are 95 % intervals over these prompts. A reward that rises while the judge falls is being gamed."
    )


def by_test_model(facts: Facts) -> bool:
    """Whether the gold score is the test model's."""
    return getattr(getattr(facts.config, "evaluation", None), "gold", None) == "test_model"


def gold_note(facts: Facts) -> str:
    """What the gold score is, and what PPO was paid by: the comparison means less where that held the rubric."""
    sources = getattr(getattr(facts.config, "ppo", None), "reward_sources", None)
    if by_test_model(facts):
        return TEST_MODEL_NOTE
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


def side_by_side_note(facts: Facts) -> str:
    found = side_by_side(facts)
    shown = sum(pair.shown for pair in found)
    return (
        f"{shown} of {len(found)} held-out prompts, taken at even steps from the list and not by their answers; "
        "the first answer drawn from each model."
    )


def clean(text: str) -> str:
    """Text that every viewer can hold: control characters, lone surrogates and bidi overrides become U+FFFD."""
    odd = r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202d\u202e\ud800-\udfff\ufffe\uffff]"
    return re.sub(odd, "\ufffd", text)


@dataclass(frozen=True)
class SideBySide:
    """One prompt and an answer of each policy to it (the first sample)."""

    prompt: str
    topic: str
    answers: tuple[tuple[str, dict[str, Any]], ...]
    shown: bool


def side_by_side(facts: Facts) -> list[SideBySide]:
    """The held-out prompts that every evaluated policy answered, in their order; `shown` ones are spread evenly.

    Nobody chose them by their answers: of N prompts the first of each of k equal stretches is shown.
    """
    first: dict[str, dict[str, dict[str, Any]]] = {}
    for policy in POLICIES:
        for row in facts.answers.get(policy, ()):
            known = first.setdefault(policy, {})
            best = known.get(row["prompt_id"])
            if best is None or row.get("sample", 0) < best.get("sample", 0):
                known[row["prompt_id"]] = row
    if not first:
        return []
    common = [p for p in next(iter(first.values())) if all(p in rows for rows in first.values())]
    wanted = min(facts.config.evaluation.side_by_side, len(common))
    shown = {k * len(common) // wanted for k in range(wanted)}
    out = []
    for place, prompt_id in enumerate(common):
        rows = tuple((policy, rows[prompt_id]) for policy, rows in first.items())
        asked = rows[0][1].get("prompt", "")
        if not isinstance(asked, str):
            asked = "\n".join(turn["content"] for turn in asked)
        out.append(SideBySide(asked, rows[0][1].get("topic") or "", rows, place in shown))
    return out


def people_note(facts: Facts) -> str:
    """Whose votes these are, and of when."""
    found, counted = facts.people
    told = [f"{standings_summary(found)}, counted {counted} UTC."]
    if found.first_side is not None:
        left = of_estimate("left", found.first_side, found.decisive, "share")
        told.append(
            f"The left side was chosen in {figure(left)} ({interval(left)}) of {found.decisive} choices of a side."
        )
    if found.agreement is not None:
        same = of_estimate("agreement", found.agreement, found.judged_twice, "share")
        told.append(
            f"Two people agreed in {figure(same)} ({interval(same)}) of {found.judged_twice} verdicts on the same answers."
        )
    left_out = sum(found.left_out.values())
    told += [f"{left_out:,} more choices are no such votes; “feedback standings” says why."] if left_out else []
    return " ".join([*told, *(f"No places: {why}" for why in found.unplaced)])


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


def run_facts(facts: Facts) -> list[tuple[str, str]]:
    """How the run was made: (name, value). What differs between stages is listed with all its values."""
    environments = [m.get("environment", {}) for m in (*facts.manifests.values(), *facts.evaluations.values())]
    config = facts.config
    out = [("Run", facts.run)]
    for name, path in (
        ("Seed", "seed"),
        ("Model", "model.name"),
        ("Number format asked for", "model.dtype"),
        ("Quantization", "model.quantization"),
    ):
        value = config
        for part in path.split("."):
            value = getattr(value, part, None)
        if value is not None:
            out.append((name, str(value)))
    for name, key in (("Number format", "dtype"), ("Device", "device"), ("Commit", "commit")):
        seen = dict.fromkeys(str(e[key]) for e in environments if e.get(key))
        if seen:
            out.append((name, ", ".join(seen)))
    started = sorted(str(e["started_utc"]) for e in environments if e.get("started_utc"))
    if started:
        out.append(("Started (UTC)", started[0]))
    spent = [e["seconds"] for e in environments if is_finite(e.get("seconds"))]
    if spent:
        out.append(("Time in stages and evaluations", duration(sum(spent))))
    peaks = [e["peak_memory_bytes"] for e in environments if is_finite(e.get("peak_memory_bytes"))]
    if peaks:
        out.append(("Peak memory", f"{max(peaks) / 1e9:.2f} GB"))
    versions: dict[str, dict[str, None]] = {}
    for environment in environments:
        for package, version in (environment.get("versions") or {}).items():
            versions.setdefault(package, {})[str(version)] = None
    if versions:
        out.append(("Versions", ", ".join(f"{name} {' / '.join(seen)}" for name, seen in versions.items())))
    evaluation = config.evaluation
    told = [
        f"{getattr(evaluation, key)} {said}"
        for key, said in (("samples_per_prompt", "answers a prompt (base: 1)"), ("max_new_tokens", "tokens at most"))
        if getattr(evaluation, key, None) is not None
    ]
    if getattr(evaluation, "temperature", None) is not None:
        told.append(f"temperature {evaluation.temperature}")
    if told:
        out.append(("Evaluation", ", ".join(told)))
    return out


def data_hashes(facts: Facts) -> list[tuple[str, str]]:
    """(file, sha256) of every data file that a manifest names: inputs read, and what `prepare` made of them."""
    found: dict[str, str] = {}
    for manifest in facts.manifests.values():
        files = manifest.get("files") or {}
        pairs = files.items() if isinstance(files, dict) else ((f.get("path"), f.get("sha256")) for f in files)
        found |= {str(name): str(digest) for name, digest in pairs if digest}
    for artifact in facts.manifests.get("prepare", {}).get("artifacts", ()):
        found[f"prepare/{artifact['path']}"] = artifact["sha256"]
    return list(found.items())


def _finished(folder: Path) -> dict[str, Path]:
    """Finished directories by name: those still being written end in .partial and are left out."""
    if not folder.is_dir():
        return {}
    found = [p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".") and "." not in p.name]
    return {path.name: path for path in sorted(found, key=lambda p: _place(p.name))}


def _place(stage: str) -> tuple[int, str]:
    return (ORDER.index(stage) if stage in ORDER else len(ORDER), stage)


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / "manifest.json"
    if not path.exists():
        return {}
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: no JSON: {error}. Make the stage again with --redo {folder.name}.") from error
    if not isinstance(manifest, dict):
        raise UserError(f"{path}: must be an object. Make the stage again with --redo {folder.name}.")
    return manifest


def _gates(run_dir: Path, config: Any, cards: Mapping[str, Card]) -> tuple[Gate, ...]:
    out = []
    for name, bounds in (config.gates or {}).items():
        stage = name.split(".")[0]
        if stage not in cards:
            metric = name.split(".")[1] if "." in name else ""
            waiting = gating.GateResult(name, metric, None, None, None, "", *gating.bounds_of(bounds), "")
            out.append(Gate(name, WAITING[stage == gating.BENCHMARKS], waiting))
            continue
        where = f"evaluation/{stage}/card.json"
        (result,) = gating.results(cards[stage].to_dict(), {name: bounds}, stage, where)
        covered = accepting.covering(run_dir, [result])
        out.append(Gate(name, gating.state_of(result, covered), result, covered.get(name, "")))
    return tuple(out)
