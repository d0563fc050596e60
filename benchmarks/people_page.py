"""Writes docs/people.md and its plots from what benchmarks/people.py has measured. It measures nothing itself.

    python benchmarks/people_page.py            # the plots need matplotlib: pip install -e .[plots]

The prose around the tables lies in docs/people-notes.md, so that writing the tables anew does not lose it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.floors import others_agree  # noqa: E402
from pipeline.evaluation.statistics import (  # noqa: E402
    Estimate,
    cluster_bootstrap,
    fit_temperature,
    pair_ece,
    paired_difference,
    wins,
)

RESULTS, DOCS = ROOT / "benchmarks" / "results", ROOT / "docs"
PUBLISHED = (
    ("a 350M model, all of HH harmless (quoted at second hand: the page itself was not found)", "69.95 %"),
    ("GPT-2 large, 774M, all of HH harmless (model card of Ray2333/gpt2-large-harmless-reward_model)", "73.7 %"),
)
ADVERSARIAL = ("Neighbor", "GPTInst", "GPTOut", "Manual")
TRAINED_ON = ("HH harmless", "Open-Assistant", "Tulu votes", "UltraFeedback")


def main() -> None:
    head, _, tail = (DOCS / "people-notes.md").read_text(encoding="utf-8").partition("\n---\n")
    parts = [head.strip(), ""]
    hh, kinds = read("hh"), read("kinds")
    parts += [*harmless(hh, read("hh10", "hh")), *several(kinds)]
    parts.append(tail.strip())
    (DOCS / "people.md").write_text("\n".join(parts).rstrip() + "\n", encoding="utf-8")
    from benchmarks import people_plots

    people_plots.draw(hh, kinds, DOCS / "people")


def read(design: str, folds: str | None = None) -> dict:
    """The floors' pairs, each with the reward model's margin where it has been trained.

    Args:
        folds: the design whose floors these are, where several share them.
    """
    folds = folds or design
    found = json.loads((RESULTS / f"people_{folds}_floors.json").read_text(encoding="utf-8"))
    for pair in found["pairs"]:
        pair["fit"] = pair["fit"].replace(f"{folds}-", f"{design}-")
    file = RESULTS / f"people_{design}.json"
    found["model"] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else None
    if found["model"]:
        told = found["model"].pop("pairs")
        of_trained = [pair for pair in found["pairs"] if pair["fit"] in found["model"]["fits"]]
        for pair, line in zip(of_trained, told, strict=True):
            if (pair["fit"], pair["list"]) != (line["fit"], line["list"]):
                raise SystemExit(
                    f"{file}: not of the same rows as its floors. Run `benchmarks/people.py floors` again."
                )
            pair["margin"] = line["margin"]
    return found


# -- figures ---------------------------------------------------------------------------------------------------------------


def questions(pairs: list[dict]) -> list[str]:
    return [pair["question"] for pair in pairs]


def right(pairs: list[dict], field: str = "margin") -> np.ndarray:
    """1 where the margin of the better answer is above 0, 1/2 where it is 0."""
    margins = np.array([pair[field] for pair in pairs])
    return wins(margins, np.zeros(len(margins)))


def longer(pairs: list[dict]) -> np.ndarray:
    sizes = np.array([pair["characters"] for pair in pairs], dtype=float)
    return wins(sizes[:, 0], sizes[:, 1])


def length_rule(pairs: list[dict], rule: str | None = None) -> tuple[str, np.ndarray]:
    """The better of "longer" and "shorter", chosen with sight of these very labels: the most that length alone can do."""
    outcome = longer(pairs)
    rule = rule or ("longer" if outcome.mean() >= 0.5 else "shorter")
    return rule, outcome if rule == "longer" else 1 - outcome


def share(values: np.ndarray, pairs: list[dict]) -> Estimate:
    return cluster_bootstrap(values, questions(pairs))


def against(values: np.ndarray, floor: np.ndarray, pairs: list[dict]) -> Estimate:
    return paired_difference(values, floor, questions(pairs))


def annotators(pairs: list[dict]) -> dict[str, Estimate] | None:
    """How right the other annotators are about a vote that is no tie, and how right the others in the table are about the same votes."""
    found: dict[str, list[float]] = {}
    clusters = []
    for pair in pairs:
        sizes = pair["characters"]
        said = {"margin": pair.get("margin"), "bag": pair["bag"], "longer": sizes[0] - sizes[1]}
        for index, agreed in others_agree(pair["votes"]):
            # The vote as seen from the first answer: a rule is right where its margin has that sign.
            signed = {name: value * pair["votes"][index] for name, value in said.items() if value is not None}
            told = {name: (value > 0) + 0.5 * (value == 0) for name, value in signed.items()}
            for name, value in {"people": agreed, **told}.items():
                found.setdefault(name, []).append(value)
            clusters.append(pair["question"])
    return {name: cluster_bootstrap(values, clusters) for name, values in found.items()} | (
        {"votes": len(clusters)} if clusters else {}
    )


def calibrated(pairs: list[dict]) -> tuple[np.ndarray, list[float]]:
    """Margins of each fold divided by the temperature that fits the *other* folds best, and those temperatures."""
    models = list(dict.fromkeys(pair["fit"] for pair in pairs))
    margins, of = np.array([p["margin"] for p in pairs]), np.array([models.index(p["fit"]) for p in pairs])
    temperatures = [fit_temperature(margins[of != k]) for k in range(len(models))]
    return margins / np.array(temperatures)[of], temperatures


def by_length(pairs: list[dict], count: int = 5) -> list[list[dict]]:
    """Pairs in equal parts by ln(characters of the better / characters of the worse answer), the most against length first."""
    ordered = sorted(pairs, key=length_ratio)
    return [[ordered[i] for i in part] for part in np.array_split(np.arange(len(ordered)), count)]


def length_ratio(pair: dict) -> float:
    better, worse = pair["characters"]
    return float(np.log(better / worse))


def groups(kinds: dict) -> dict[str, list[dict]]:
    """Test pairs by set, LLMBar by subset and its four adversarial ones together."""
    found: dict[str, list[dict]] = {}
    for pair in kinds["pairs"]:
        found.setdefault(f"LLMBar {pair['subset']}" if pair["subset"] else pair["set"], []).append(pair)
    hard = [pair for name in ADVERSARIAL for pair in found.get(f"LLMBar {name}", [])]
    return found | ({"LLMBar, four adversarial": hard} if hard else {})


def labelled(pairs: list[dict]) -> list[dict]:
    return [pair for pair in pairs if pair["label"]]


# -- tables ----------------------------------------------------------------------------------------------------------------


def harmless(found: dict, deeper: dict) -> list[str]:
    pairs, trained = found["pairs"], found["model"]
    bag, (rule, outcome) = right(pairs, "bag"), length_rule(pairs)
    rows = [
        (f"rule “the {rule} answer”", percent(share(outcome, pairs))),
        ("bag of words, same folds", percent(share(bag, pairs))),
        ("bag of words minus the rule", points(against(bag, outcome, pairs))),
    ]
    for layers, each in (("two", found), ("ten", deeper)):
        name = f"reward model, 135M, {layers} layers adapted"
        scored = [pair for pair in each["pairs"] if "margin" in pair]
        if not scored:
            rows.append((f"**{name}**", "not measured yet"))
            continue
        model, bag, outcome = right(scored), right(scored, "bag"), length_rule(scored, rule)[1]
        done = len(each["model"]["fits"])
        some = "" if len(scored) == len(pairs) else f", {done} of {len(found['trained_on'])} folds so far"
        rows += [
            (f"**{name}**{some}", percent(share(model, scored))),
            (f"… minus “the {rule} answer”{some}", points(against(model, outcome, scored))),
            (f"… minus bag of words{some}", points(against(model, bag, scored))),
        ]
    scored = [pair for pair in pairs if "margin" in pair]
    rows += [(f"for context, other training and test rows: {name}", known) for name, known in PUBLISHED]
    lines = [
        "## HH harmless by cross-validation",
        "",
        f"    {found['command']}",
        *(f"    {each['model']['command']}" for each in (found, deeper) if each["model"]),
        "",
        "| | right about pairs |",
        "|---|---:|",
        *(f"| {name} | {cell} |" for name, cell in rows),
        "",
        f"{len(pairs)} pairs about {len(set(questions(pairs)))} first turns, in {len(found['trained_on'])} folds of equal size. "
        "Intervals are 95 %, over first turns.",
        "",
    ]
    if trained:
        lines += [*folds_and_cuts(scored, trained)]
        if len(trained["fits"]) > 1:
            lines += [*calibration(scored), "![calibration](people/calibration.svg)", ""]
    fields = {"reward model": "margin", "bag of words": "bag"} if trained else {"bag of words": "bag"}
    lines += [
        "Right by the length of the better answer against the worse, in five parts of equal size:",
        "",
        f"| characters, better / worse | pairs | {' | '.join(fields)} |",
        "|---|---:|" + "---:|" * len(fields),
    ]
    for part in by_length(scored if trained else pairs):
        edges = [np.exp(length_ratio(part[i])) for i in (0, -1)]
        cells = (percent(share(right(part, field), part)) for field in fields.values())
        lines.append(f"| {edges[0]:.2f} to {edges[1]:.2f} | {len(part)} | {' | '.join(cells)} |")
    return [*lines, "", "![by length](people/length.svg)", ""]


def folds_and_cuts(pairs: list[dict], trained: dict) -> list[str]:
    folds = [right([p for p in pairs if p["fit"] == name]).mean() for name in trained["fits"]]
    return [f"The folds one by one: {', '.join(f'{100 * value:.1f} %' for value in folds)}. {cuts(trained)}", ""]


def calibration(pairs: list[dict]) -> list[str]:
    scaled, temperatures = calibrated(pairs)
    return [
        f"Calibration error in ten bins of equal mass: {pair_ece([p['margin'] for p in pairs]):.3f}, and {pair_ece(scaled):.3f} after dividing each "
        f"fold's margins by the temperature of the others ({min(temperatures):.2f} to {max(temperatures):.2f}).",
        "",
    ]


def several(found: dict) -> list[str]:
    trained = found["model"]
    lines = [
        "## Several kinds of labels",
        "",
        f"    {found['command']}",
        *([f"    {trained['command']}"] if trained else []),
        "",
        f"One model from {sum(found['trained_on'].values())} lists of {', '.join(TRAINED_ON)}; tested on other questions of these, and on PandaLM "
        "and LLMBar, of which it saw none. The length rule is the better of “longer” and “shorter”, chosen with sight of the very labels it is "
        "tested on, so it is a generous floor.",
        "",
        "| tested on | pairs | questions | length rule | bag of words | reward model | model minus length rule |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, all_pairs in groups(found).items():
        pairs = labelled(all_pairs)
        rule, outcome = length_rule(pairs)
        cells = [
            f"{len(pairs)}",
            f"{len(set(questions(pairs)))}",
            f"{rule} {percent(share(outcome, pairs))}",
            percent(share(right(pairs, "bag"), pairs)),
            percent(share(right(pairs), pairs)) if trained else "not measured yet",
            points(against(right(pairs), outcome, pairs)) if trained else "–",
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += [
        "",
        "![accuracy by set](people/sets.svg)",
        "",
        "Where several people judged one pair, each vote that is no tie is held against what more of the others said; even others count a half. "
        "The model and the rules are asked about the same votes.",
        "",
        "| | votes | the other annotators | longer | bag of words | reward model |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, pairs in groups(found).items():
        if said := annotators(pairs):
            cells = [
                percent(said[k]) if k in said else "not measured yet" for k in ("people", "longer", "bag", "margin")
            ]
            lines.append(f"| {name} | {said['votes']} | {' | '.join(cells)} |")
    lines += ["", "What was read and what was not:", "", "| | lists used | left out |", "|---|---:|---|"]
    for name, n in found["sets"].items():
        left = "; ".join(f"{count}: {reason}" for reason, count in n["left_out"].items()) or "–"
        lines.append(f"| {name} | {n['used']} | {left} |")
    if trained:
        lines += ["", cuts(trained)]
    return [*lines, ""]


def cuts(trained: dict) -> str:
    n = {
        k: sum(fit[k] for fit in trained["fits"].values()) for k in ("tested", "prompts_cut", "answers", "answers_cut")
    }
    return (
        f"Of {n['tested']} lists tested on, {n['prompts_cut']} lost their prompts' oldest tokens; of {n['answers']} answers, "
        f"{n['answers_cut']} their end."
    )


def percent(e: Estimate) -> str:
    return f"{100 * e.value:.1f} % ({100 * e.low:.1f} to {100 * e.high:.1f})"


def points(e: Estimate) -> str:
    return f"{100 * e.value:+.1f} ({100 * e.low:+.1f} to {100 * e.high:+.1f})".replace("-", "−")


if __name__ == "__main__":
    main()
