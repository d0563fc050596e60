"""Reads the user's data, checks it, splits it, and copies what the run will use."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from data.quality import report as quality
from data.rows import demonstration_row, prompt_row, ranking_row, thumb_row, write_rows
from pipeline.models import context_tokens, load_tokenizer
from pipeline.planning.here import warning
from pipeline.preflight import Checked, check
from pipeline.template import template_sha256
from pipeline.weights import weights_sha256


def run(ctx) -> dict[str, float]:
    """Leaves demonstrations, rankings and prompts in the built-in formats, split, with `report.json` on what was seen."""
    config = ctx.config
    # Said and not kept: the same data on a larger machine are the same stage.
    if said := warning(config):
        print(said, file=sys.stderr, flush=True)
    tokenizer = load_tokenizer(config.model)
    checked = check(config, tokenizer, context_tokens(config.model))
    _write_sets(ctx.out, checked)
    counts = checked.counts()
    report = {
        "counts": counts,
        "quality": {name: quality(records) for name, records in checked.given.items() if records},
        "left_out": checked.left_out,
        "shared_questions": {f"{one} / {other}": count for (one, other), count in checked.shared.items()},
        "overlaps": {
            f"{one} / {other} train": {
                "questions": found.asked,
                "runs_of_words": found.found,
                "common_runs": found.common,
            }
            for (one, other), found in checked.overlaps.items()
        },
        "too_long": checked.too_long,
        "notes": list(checked.notes),
        "base_weights_sha256": weights_sha256(config.model),
        "template_sha256": template_sha256(tokenizer, config.model.system_prompt),
    }
    (ctx.out / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return {name: float(value) for name, value in counts.items()}


def _write_sets(out: Path, checked: Checked) -> None:
    for side, sets in (("train", checked.train), ("test", checked.test)):
        write_rows(out / f"demonstrations.{side}.jsonl", map(demonstration_row, sets["demonstrations"]))
        write_rows(out / f"rankings.{side}.jsonl", map(ranking_row, sets["rankings"]))
        if checked.given["thumbs"]:
            write_rows(out / f"thumbs.{side}.jsonl", map(thumb_row, sets["thumbs"]))
    write_rows(out / "prompts.jsonl", map(prompt_row, checked.train["prompts"]))
    write_rows(out / "prompts.test.jsonl", map(prompt_row, checked.test["prompts"]))
    for name, records in checked.yardsticks.items():
        write_rows(out / f"{name}.jsonl", (record.row() for record in records))
    write_rows(out / "heldout_prompts.jsonl", map(prompt_row, checked.given["heldout_prompts"]))
    if checked.given["heldout_rankings"]:
        write_rows(out / "heldout_rankings.jsonl", map(ranking_row, checked.given["heldout_rankings"]))
