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
ADVERSARIAL = ("Neighbor", "GPTInst", "GPTOut", "Manual")
TRAINED_ON = ("HH harmless", "Open-Assistant", "Tulu votes", "UltraFeedback")


def main() -> None:
    head, _, tail = (DOCS / "people-notes.md").read_text(encoding="utf-8").partition("\n---\n")
    parts = [head.strip(), ""]
    if hh := read("people_hh.json"):
        parts += harmless(hh)
    if kinds := read("people_kinds.json"):
        parts += several(kinds)
    parts.append(tail.strip())
    (DOCS / "people.md").write_text("\n".join(parts).rstrip() + "\n", encoding="utf-8")
    from benchmarks import people_plots

    people_plots.draw(hh, kinds, DOCS / "people")


def read(name: str) -> dict | None:
    file = RESULTS / name
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None


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


def length_rule(pairs: list[dict]) -> tuple[str, np.ndarray]:
    """The better of "longer" and "shorter", chosen with sight of these very labels: the most that length alone can do."""
    outcome = longer(pairs)
    return ("longer", outcome) if outcome.mean() >= 0.5 else ("shorter", 1 - outcome)


def share(values: np.ndarray, pairs: list[dict]) -> Estimate:
    return cluster_bootstrap(values, questions(pairs))


def against(values: np.ndarray, floor: np.ndarray, pairs: list[dict]) -> Estimate:
    return paired_difference(values, floor, questions(pairs))


def annotators(pairs: list[dict]) -> tuple[Estimate, Estimate, int] | None:
    """How right the other annotators are about a vote, how right the model is about the same votes, and how many there are."""
    people, model, clusters = [], [], []
    for pair in pairs:
        for index, agreed in others_agree(pair["votes"]):
            people.append(agreed)
            # The vote as seen from the better answer: the model is right where its margin has that sign.
            margin = pair["margin"] * pair["votes"][index]
            model.append((margin > 0) + 0.5 * (margin == 0))
            clusters.append(pair["question"])
    if not people:
        return None
    return cluster_bootstrap(people, clusters), cluster_bootstrap(model, clusters), len(people)


def calibrated(pairs: list[dict]) -> tuple[np.ndarray, list[float]]:
    """Margins of each fold divided by the temperature that fits the *other* folds best, and those temperatures."""
    models = list(dict.fromkeys(pair["model"] for pair in pairs))
    margins, of = np.array([p["margin"] for p in pairs]), np.array([models.index(p["model"]) for p in pairs])
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


def harmless(found: dict) -> list[str]:
    pairs = found["pairs"]
    model, bag = right(pairs), right(pairs, "bag")
    rule, outcome = length_rule(pairs)
    scaled, temperatures = calibrated(pairs)
    margins = [pair["margin"] for pair in pairs]
    models = list(dict.fromkeys(pair["model"] for pair in pairs))
    folds = [right([p for p in pairs if p["model"] == name]).mean() for name in models]
    rows = [
        ("**reward model**, 135M, about four fifths of these pairs", percent(share(model, pairs))),
        (f"rule “the {rule} answer”", percent(share(outcome, pairs))),
        ("bag of words, same folds", percent(share(bag, pairs))),
        (f"reward model minus “the {rule} answer”", points(against(model, outcome, pairs))),
        ("reward model minus bag of words", points(against(model, bag, pairs))),
        ("GPT-2 large, 774M, the whole training set of HH harmless, on the whole test set (its model card)", "73.7 %"),
    ]
    lines = [
        "## HH harmless by cross-validation",
        "",
        f"    {found['command']}",
        "",
        "| | right about pairs |",
        "|---|---:|",
    ]
    lines += [f"| {name} | {cell} |" for name, cell in rows]
    lines += [
        "",
        f"{len(pairs)} pairs about {len(set(questions(pairs)))} first turns; the folds one by one: "
        f"{', '.join(f'{100 * value:.1f} %' for value in folds)}. Intervals are 95 %, over first turns. {cuts(found, 'HH harmless')}",
        "",
        f"Calibration error in ten bins of equal mass: {pair_ece(margins):.3f}, and {pair_ece(scaled):.3f} after dividing each fold's margins by "
        f"the temperature of the other four ({min(temperatures):.2f} to {max(temperatures):.2f}).",
        "",
        "![calibration](people/calibration.svg)",
        "",
        "Right by the length of the better answer against the worse, in five parts of equal size:",
        "",
        "| characters, better / worse | pairs | reward model | bag of words |",
        "|---|---:|---:|---:|",
    ]
    for part in by_length(pairs):
        edges = [np.exp(length_ratio(part[i])) for i in (0, -1)]
        cells = (percent(share(right(part, field), part)) for field in ("margin", "bag"))
        lines.append(f"| {edges[0]:.2f} to {edges[1]:.2f} | {len(part)} | {' | '.join(cells)} |")
    return [*lines, "", "![by length](people/length.svg)", ""]


def several(found: dict) -> list[str]:
    lines = [
        "## Several kinds of labels",
        "",
        f"    {found['command']}",
        "",
        f"One model from {found['models'][0]['trained_on']} lists ({found['models'][0]['trained_pairs']} pairs) of {', '.join(TRAINED_ON)}; tested "
        "on other questions of these, and on PandaLM and LLMBar, of which it saw none. The length rule is the better of “longer” and “shorter”, "
        "chosen with sight of the very labels it is tested on, so it is a generous floor.",
        "",
        "| tested on | pairs | questions | reward model | bag of words | length rule | model minus length rule |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, all_pairs in groups(found).items():
        pairs = labelled(all_pairs)
        model, (rule, outcome) = right(pairs), length_rule(pairs)
        cells = [
            f"{len(pairs)}",
            f"{len(set(questions(pairs)))}",
            percent(share(model, pairs)),
            percent(share(right(pairs, "bag"), pairs)),
            f"{rule} {percent(share(outcome, pairs))}",
            points(against(model, outcome, pairs)),
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += [
        "",
        "![accuracy by set](people/sets.svg)",
        "",
        "Where several people judged one pair, each vote that is no tie is held against what more of the others said; even others count a half. "
        "The model is asked about the same votes.",
        "",
        "| | votes | the other annotators | reward model |",
        "|---|---:|---:|---:|",
    ]
    for name, pairs in groups(found).items():
        if said := annotators(pairs):
            people, model, count = said
            lines.append(f"| {name} | {count} | {percent(people)} | {percent(model)} |")
    lines += [
        "",
        "What was read and what was not:",
        "",
        "| | lists | without a label | used | prompts cut | answers cut | left out |",
        "|---|---:|---:|---:|---:|---:|---|",
    ]
    for name, n in found["sets"].items():
        left = "; ".join(f"{count}: {reason}" for reason, count in n["left_out"].items()) or "–"
        lines.append(
            f"| {name} | {n['lists']} | {n['without_a_label']} | {n['used']} | {n['prompts_cut']} | {n['answers_cut']} of {n['answers']} | {left} |"
        )
    return [*lines, ""]


def cuts(found: dict, name: str) -> str:
    n = found["sets"][name]
    left = sum(n["left_out"].values())
    return (
        f"{n['prompts_cut']} dialogues lost their oldest tokens and {n['answers_cut']} of {n['answers']} answers their end; "
        f"{left} rows that no format takes are left out."
    )


def percent(e: Estimate) -> str:
    return f"{100 * e.value:.1f} % ({100 * e.low:.1f} to {100 * e.high:.1f})"


def points(e: Estimate) -> str:
    return f"{100 * e.value:+.1f} ({100 * e.low:+.1f} to {100 * e.high:+.1f})".replace("-", "−")


if __name__ == "__main__":
    main()
