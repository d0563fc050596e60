"""Reads the user's data, checks it, splits it, and copies what the run will use."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from data.quality import report as quality
from data.records import Demonstration, Message, Prompt, Ranking
from pipeline.models import load_tokenizer, weights_sha256
from pipeline.preflight import Checked, check
from pipeline.template import template_sha256


def run(ctx) -> dict[str, float]:
    """Leaves demonstrations, rankings and prompts in the built-in formats, split, with `report.json` on what was seen."""
    config = ctx.config
    tokenizer = load_tokenizer(config.model)
    checked = check(config, tokenizer)
    _write_sets(ctx.out, checked)
    counts = checked.counts()
    report = {
        "counts": counts,
        "quality": {name: quality(records) for name, records in checked.given.items() if records},
        "left_out": checked.left_out,
        "shared_questions": {f"{one} / {other}": count for (one, other), count in checked.shared.items()},
        "too_long": checked.too_long,
        "notes": list(checked.notes),
        "base_weights_sha256": weights_sha256(config.model),
        "template_sha256": template_sha256(tokenizer, config.model.system_prompt),
    }
    (ctx.out / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return {name: float(value) for name, value in counts.items()}


def _write_sets(out: Path, checked: Checked) -> None:
    for side, sets in (("train", checked.train), ("test", checked.test)):
        _write(out / f"demonstrations.{side}.jsonl", map(_demonstration_row, sets["demonstrations"]))
        _write(out / f"rankings.{side}.jsonl", map(_ranking_row, sets["rankings"]))
    _write(out / "prompts.jsonl", map(_prompt_row, checked.train["prompts"]))
    _write(out / "prompts.test.jsonl", map(_prompt_row, checked.test["prompts"]))
    _write(out / "heldout_prompts.jsonl", map(_prompt_row, checked.given["heldout_prompts"]))
    if checked.given["heldout_rankings"]:
        _write(out / "heldout_rankings.jsonl", map(_ranking_row, checked.given["heldout_rankings"]))


def _messages(messages: Sequence[Message]) -> list[dict[str, str]]:
    return [{"role": m.role, "content": m.content} for m in messages]


def _demonstration_row(d: Demonstration) -> dict:
    return {
        "id": d.id,
        "topic": d.topic,
        "messages": [*_messages(d.prompt), {"role": "assistant", "content": d.response}],
    }


def _ranking_row(r: Ranking) -> dict:
    return {
        "id": r.id,
        "topic": r.topic,
        "prompt": _messages(r.prompt),
        "responses": list(r.responses),
        "ranks": list(r.ranks),
        "finished": list(r.finished),
    }


def _prompt_row(p: Prompt) -> dict:
    return {"id": p.id, "topic": p.topic, "prompt": _messages(p.messages)}


def _write(path: Path, rows) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
