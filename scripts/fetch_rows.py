"""Rows of a public preference data set as the files that a config of ours names, by its commit and without a leak.

    python scripts/fetch_rows.py ultrafeedback data/ultrafeedback
    python scripts/fetch_rows.py hh_rlhf data/hh_rlhf
    python scripts/fetch_rows.py tldr data/tldr --rankings comparisons.jsonl

A pair gives a ranking, its preferred answer a demonstration. Left out and counted: prompts of more than `--prompt-bytes`; of the test split
also those of more than half of that, since a held-out prompt that a run cannot read stops it, and what the training split asks too, by
the first user turn or by 13 words in a row. Held-out rankings that share 13 words of an answer go the same way.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from data.errors import UserError
from data.formats import FORMATS
from data.hub import read_hub
from data.overlap import HeldOut, Said
from data.quality import first_turn_key
from data.records import Demonstration, Prompt, Ranking
from data.rows import demonstration_row, prompt_row, ranking_row, write_rows
from data.sources import read_rows

# Name → (commit that was looked at, split to train on, split held out, format of a row).
SETS = {
    "ultrafeedback": (
        "HuggingFaceH4/ultrafeedback_binarized@3949bf5f8c17c394422ccfab0c31ea9c20bdeb85",
        "train_prefs",
        "test_prefs",
        "ultrafeedback",
    ),
    "hh_rlhf": ("Anthropic/hh-rlhf@09be8c5bbc57cb3887f3a9732ad6aa7ec602a1fa", "train", "test", "hh"),
    "tldr": ("trl-lib/tldr@21233da376667088e6eb1ce4ce19ed832c2935d3", "train", "validation", "prompt_completion"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=SETS)
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--rankings", help="comparisons of summarize-from-feedback, for tldr, which has none of its own"
    )
    parser.add_argument(
        "--prompt-bytes", type=int, default=1600, help="longer prompts are left out; a token has four, or less"
    )
    parser.add_argument("--rows", type=int, help="first N rows of either split; all when not given")
    parser.add_argument("--held-out", type=int, default=500, help="prompts and rankings held out")
    arguments = parser.parse_args()
    name, train, test, form = SETS[arguments.name]
    try:
        records, skipped = {}, Counter()
        for side, split in (("train", train), ("test", test)):
            rows = islice(read_hub(f"hub:{name}:{split}"), arguments.rows)
            records[side] = read(rows, form, arguments.prompt_bytes // (1 if side == "train" else 2), skipped)
        if arguments.rankings:
            rows = islice(read_rows(Path(arguments.rankings)), arguments.rows)
            records["train"] += read(rows, "summaries", arguments.prompt_bytes, skipped)
        write(records["train"], records["test"], arguments.folder, arguments.held_out, skipped)
    except UserError as error:
        sys.exit("\n".join(error.problems[:20]))
    print(f"{arguments.folder}: left out {dict(skipped)}")


def read(rows: Iterable[tuple[int, dict]], form: str, most: int, skipped: Counter) -> list:
    """The records that can be used, and in `skipped` how many could not be, by reason."""
    found = []
    for number, row in rows:
        try:
            record = FORMATS[form](row, f"{form}-{number}")
        except ValueError as error:
            skipped[str(error).split(";")[0][:60]] += 1
            continue
        if sum(len(m.content.encode()) for m in record.prompt) > most:
            skipped["prompt too long"] += 1
        else:
            found.append(record)
    return found


def write(train: list, test: list, folder: Path, held_out: int, skipped: Counter) -> None:
    """Four files in the built-in formats."""
    rankings = [r for r in train if isinstance(r, Ranking)]
    shown = [
        r if isinstance(r, Demonstration) else _best(r) for r in train if isinstance(r, Demonstration) or r.pairs()
    ]
    asked = {first_turn_key(r.prompt) for r in train}
    measuring = HeldOut({"test": [Said.of(r) for r in test]})
    # Against each set that a run trains on by itself: what is too common to count in one need not be in another.
    sets = (rankings, shown, [Prompt(r.id, r.prompt) for r in rankings])
    copied = {name for records in sets for name in measuring.overlap(map(Said.of, records))["test"].found}
    fresh, seen = [], set()
    for record in test:
        key = first_turn_key(record.prompt)
        if key in asked or key in seen or record.id in copied:
            skipped["held out and asked elsewhere too"] += 1
        else:
            seen.add(key)
            fresh.append(record)
    fresh = fresh[:held_out]
    folder.mkdir(parents=True, exist_ok=True)
    write_rows(folder / "demonstrations.jsonl", map(demonstration_row, shown))
    write_rows(folder / "rankings.jsonl", map(ranking_row, rankings))
    write_rows(folder / "heldout_prompts.jsonl", (prompt_row(Prompt(r.id, r.prompt)) for r in fresh))
    held = [r for r in fresh if isinstance(r, Ranking)]
    if held:
        write_rows(folder / "heldout_rankings.jsonl", map(ranking_row, held))


def _best(ranking: Ranking) -> Demonstration:
    return Demonstration(ranking.id, ranking.prompt, ranking.responses[ranking.ranks.index(min(ranking.ranks))])


if __name__ == "__main__":
    main()
