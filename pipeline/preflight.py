"""Everything about the data that can be found out before a model is loaded: all mistakes at once, and counts of what is there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from data.errors import UserError
from data.loading import load_counted
from data.numbers import many
from data.overlap import GRAM, HeldOut, Overlap, Said, prompt_of
from data.quality import leaks
from data.records import Demonstration, Prompt, Ranking, Record, Thumb
from data.splits import is_test
from data.yardsticks import load_facts, load_paragraphs
from pipeline.judge_questions import untaught
from pipeline.lengths import ONE_QUESTION, Lengths, thumbs_are_used
from reward.test_model import sides

_KINDS: dict[str, type] = {
    "demonstrations": Demonstration,
    "rankings": Ranking,
    "prompts": Prompt,
    "heldout_prompts": Prompt,
    "heldout_rankings": Ranking,
    "thumbs": Thumb,
}
_HELD = ("heldout_prompts", "heldout_rankings")
_YARDSTICKS = {"general_text": load_paragraphs, "facts": load_facts}


@dataclass(frozen=True)
class Checked:
    """Data that can be trained on.

    Attributes:
        given: every record read, by the key under `data:`.
        left_out: what a format did not use of its rows, by key and reason.
        train, test: demonstrations, rankings and prompts on either side of the split, without those that are too long.
        too_long: ids of training records that no setting lets in, by key.
        yardsticks: the texts and questions that policies are measured on besides, by the key under `data:`.
        shared: questions that two sets have in common, by their names. No training set shares one with a test or held-out set.
        overlaps: what held-out and test sets and the yardsticks share with a training set in words, by their names.
        notes: what is odd but no mistake, a line each.
    """

    given: Mapping[str, list[Record]]
    left_out: Mapping[str, Mapping[str, int]]
    train: Mapping[str, list[Record]]
    test: Mapping[str, list[Record]]
    too_long: Mapping[str, list[str]]
    yardsticks: Mapping[str, list]
    shared: Mapping[tuple[str, str], int]
    overlaps: Mapping[tuple[str, str], Overlap]
    notes: Sequence[str]

    def counts(self) -> dict[str, int]:
        train, test = self.train, self.test
        return {
            "demonstrations": len(train["demonstrations"]),
            "demonstrations_test": len(test["demonstrations"]),
            "demonstrations_too_long": len(self.too_long["demonstrations"]),
            "rankings": len(train["rankings"]),
            "rankings_test": len(test["rankings"]),
            "rankings_too_long": len(self.too_long["rankings"]),
            "ranking_pairs": sum(len(r.pairs()) for r in train["rankings"]),
            "prompts": len(train["prompts"]),
            "prompts_test": len(test["prompts"]),
            "prompts_too_long": len(self.too_long["prompts"]),
            "heldout_prompts": len(self.given["heldout_prompts"]),
            "heldout_rankings": len(self.given["heldout_rankings"]),
            **({"thumbs": len(train["thumbs"]), "thumbs_test": len(test["thumbs"])} if self.given["thumbs"] else {}),
        }


def check(config, tokenizer, context: int | None = None) -> Checked:
    """Reads, splits and measures the data of a config.

    Args:
        context: tokens that the model reads at most; None where that is not known.

    Raises:
        UserError: every mistake: of each row of each file, or, once all rows can be used, of splits, leaks and lengths.
    """
    given, left_out, yardsticks = _load_all(config.data)
    train, test = _split(given, config.data)
    problems = _empty_sides(train, test, given, thumbs_are_used(config))
    sets = {
        **{f"{name} train": records for name, records in train.items()},
        **{f"{name} test": records for name, records in test.items()},
        **{name: given[name] for name in ("heldout_prompts", "heldout_rankings") if given[name]},
    }
    shared = {names: odd.count for names, odd in leaks(sets).items()}
    problems += _split_leaks(shared)
    overlaps = _overlaps(given, train, test, yardsticks)
    sizes = {name: len({r.id for r in given[name]}) for name in _HELD}
    problems += [line for held in _HELD for line in _held_leaks(held, sizes[held], overlaps, config.data.max_overlap)]
    lengths = Lengths(config, tokenizer)
    too_long = {"demonstrations": [], "rankings": [], "prompts": [], "thumbs": []}
    train["demonstrations"], too_long["demonstrations"] = lengths.demonstrations(train["demonstrations"])
    train["prompts"], too_long["prompts"] = lengths.prompts(train["prompts"])
    test["prompts"], _ = lengths.prompts(test["prompts"])
    # Both sides at once: that every thumb of a side of two is too long is no mistake.
    fitting, too_long["thumbs"] = lengths.thumbs(given["thumbs"])
    fitting = set(fitting)
    for side in (train, test):
        side["thumbs"] = [t for t in side["thumbs"] if t in fitting]
        side["rankings"], long = lengths.rankings(side["rankings"], learnt=side is train)
        too_long["rankings"] += long
    lengths.held(given)
    problems += _too_alike(train["thumbs"], given["thumbs"], config)
    for name in ("demonstrations", "rankings"):
        test[name] = lengths.measured(test[name], context, f"{name} test")
    lengths.measured(given["heldout_rankings"], context, config.data.heldout_rankings, refuse=True)
    lengths.judged(untaught(test["rankings"], test["prompts"], _asked(train, given, config)))
    lengths.within(context)
    if problems or lengths.problems:
        raise UserError([*problems, *lengths.problems])
    notes = [*lengths.notes, *_overlap_notes(overlaps, config.data.max_overlap)]
    return Checked(given, left_out, train, test, too_long, yardsticks, shared, overlaps, notes)


def _load_all(settings) -> tuple[dict[str, list], dict[str, Mapping[str, int]], dict[str, list]]:
    """The records of every source that the `data` section names, an empty list for one that it does not; what was left out
    of them; and the yardsticks.

    Raises:
        UserError: the mistakes of all files, not of the first alone.
    """
    given: dict[str, list] = {}
    left_out: dict[str, Mapping[str, int]] = {}
    problems: list[str] = []
    for name, kind in _KINDS.items():
        path, form = getattr(settings, name), getattr(settings, f"{name}_format")
        given[name] = []
        if not path:
            continue
        try:
            loaded = load_counted(Path(path), form)
            _refuse_other_kinds(path, form, loaded.records, kind)
        except UserError as error:
            problems += error.problems
            continue
        given[name] = loaded.records[: settings.limit] if settings.limit else loaded.records
        if any(loaded.left_out.values()):
            left_out[name] = dict(+loaded.left_out)
    yardsticks: dict[str, list] = {}
    for name, file in settings.yardsticks():
        try:
            yardsticks[name] = _YARDSTICKS[name](file)[: settings.limit]
        except UserError as error:
            problems += error.problems
    if problems:
        raise UserError(problems)
    return given, left_out, yardsticks


def _refuse_other_kinds(path: str, form: str, records: Sequence[Record], kind: type) -> None:
    wrong = next((r for r in records if not isinstance(r, kind)), None)
    if wrong is None:
        return
    advice = "Choose another format."
    if isinstance(wrong, Thumb) and kind is Ranking:
        advice = "Where a prompt has answers of both thumbs, format 'thumbs_ranked' ranks them."
    raise UserError(
        f"{path}: format '{form}' gives {type(wrong).__name__.lower()}s where {kind.__name__.lower()}s are wanted. {advice}"
    )


def _split(given: Mapping[str, list], settings) -> tuple[dict[str, list], dict[str, list]]:
    """Train and test by the first user turn, so that no question is on both sides, in whichever set it turns up."""
    prompts = given["prompts"] if settings.prompts else [Prompt(r.id, r.prompt, r.topic) for r in given["rankings"]]
    train, test = {}, {}
    for name, records in (
        ("demonstrations", given["demonstrations"]),
        ("rankings", given["rankings"]),
        ("prompts", prompts),
        ("thumbs", given["thumbs"]),
    ):
        sides: tuple[list, list] = ([], [])
        for record in records:
            sides[is_test(prompt_of(record), settings.test_share)].append(record)
        train[name], test[name] = sides
    return train, test


def _empty_sides(
    train: Mapping[str, list], test: Mapping[str, list], given: Mapping[str, list], thumbs_are_used: bool
) -> list[str]:
    kept = {**train, "heldout_prompts": given["heldout_prompts"]}
    needless = {name for name in ("prompts", "thumbs") if not given[name]} | ({"thumbs"} if not thumbs_are_used else set())
    problems = [
        f"data.{name}: nothing is left to use after the split. Give more rows or lower data.test_share."
        for name, records in kept.items()
        if not records and name not in needless
    ]
    if not test["demonstrations"] or not test["rankings"]:
        problems.append("data.test_share: the test split is empty. Raise it, or give more rows.")
    return problems


def _asked(train: Mapping[str, list], given: Mapping[str, list], config) -> list:
    """What the policy is trained on or evaluated with, and the judge therefore not asked."""
    thumbs = [t.prompt for t in train["thumbs"]] if config.learner == "kto" else []
    return [*(p.messages for p in (*train["prompts"], *given["heldout_prompts"])), *thumbs]


def _too_alike(train: Sequence[Thumb], given: Sequence[Thumb], config) -> list[str]:
    """KTO weighs thumbs up against thumbs down, and answers against those to other questions; without one of them it would stop after
    all the stages before it."""
    if config.learner != "kto" or not given:
        return []
    own, _ = sides(list(train), config.reward.test_share)
    ups = sum(thumb.up for thumb in own)
    if ups not in (0, len(own)):
        return [ONE_QUESTION.format(thumbs=len(own))] if len({thumb.prompt for thumb in own}) == 1 else []
    return [
        f"data.thumbs: of {many(len(given), 'thumb')} KTO would learn from {len(own)}, {ups} of them up; it needs both kinds. The others are of the "
        "test side (data.test_share), of the test model (reward.test_share) or too long (reward.max_tokens)."
    ]


def _split_leaks(shared: Mapping[tuple[str, str], int]) -> list[str]:
    """Cannot be, as one function decides the side of a question everywhere; were it ever to change, this is where it would show."""
    return [
        f"data: {many(count, 'question is', 'questions are')} both in '{one}' and in '{other}'. Please report this."
        for (one, other), count in shared.items()
        if {one.rpartition(" ")[2], other.rpartition(" ")[2]} == {"train", "test"}
    ]


def _overlaps(given: Mapping[str, list], train: Mapping[str, list], test: Mapping[str, list], yardsticks):
    """What each set that only measures shares with each training set, by (measuring set, training set)."""
    sets = {name: [Said.of(r) for r in given[name]] for name in _HELD}
    sets |= {f"{name} test": [Said.of(r) for r in test[name]] for name in ("demonstrations", "rankings")}
    sets["general_text"] = [Said(p.id, None, (p.text,)) for p in yardsticks.get("general_text", ())]
    sets["facts"] = [Said(f.id, f.question, ()) for f in yardsticks.get("facts", ())]
    measuring = HeldOut({name: said for name, said in sets.items() if said})
    return {
        (name, against): found
        for against, records in train.items()
        for name, found in measuring.overlap(map(Said.of, records)).items()
        if found.count or found.common
    }


def _held_leaks(held: str, size: int, overlaps: Mapping[tuple[str, str], Overlap], allowed: float) -> list[str]:
    """A held-out question or text that any training set also holds would make every later comparison worthless."""
    lines = []
    for (name, against), found in overlaps.items():
        if name != held:
            continue
        if found.asked:
            lines.append(
                f"data.{held}: {len(found.asked)} of {size} also occur in the {against} (first: {min(found.asked)}). "
                "Remove them from one side."
            )
        if len(found.found) > allowed * size:
            lines.append(
                f"data.{held}: {len(found.found)} of {size} share {GRAM} words in a row with the {against} (first: "
                f"{_first(found)}). Remove them from one side; data.max_overlap (now {allowed:g}) lets a share of them stay."
            )
    return lines


def _overlap_notes(overlaps: Mapping[tuple[str, str], Overlap], allowed: float) -> list[str]:
    """What is shared without being refused: it makes the figures on those rows kinder than they should be."""
    lines = []
    for (name, against), found in overlaps.items():
        where = f"{name}: {{}} with the {against} (train)"
        if name not in _HELD and found.asked:
            lines.append(where.format(f"{len(found.asked)} share their question") + f"; first: {found.asked[0]}.")
        if found.found and (name not in _HELD or allowed):
            said = where.format(f"{len(found.found)} share {GRAM} words in a row")
            lines.append(f"{said}; first: {_first(found)}.")
        if found.common:
            said = where.format(f"{many(found.common, 'run')} of {GRAM} words")
            lines.append(f"{said} are shared too, but stand in so many rows that they are no copies.")
    return lines


def _first(overlap: Overlap) -> str:
    name = min(overlap.found)
    return f"{name}, “{overlap.found[name]}”"
