"""Reads the user's data, checks it, splits it, and copies what the run will use."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from data.errors import UserError
from data.loading import load as load_records
from data.quality import first_turn_key, prompt_of
from data.quality import report as quality
from data.records import Demonstration, Message, Prompt, Ranking
from data.splits import is_test
from pipeline.models import load_tokenizer, weights_sha256
from pipeline.template import prompt_ids, response_ids, template_sha256


def run(ctx) -> dict[str, float]:
    """Leaves demonstrations, rankings and prompts in the built-in formats, split, with `report.json` on what was seen."""
    config = ctx.config
    settings = config.data
    tokenizer = load_tokenizer(config.model)
    demonstrations, rankings, given_prompts, heldout, heldout_rankings = _load_all(settings)
    share = settings.test_share
    train_d, test_d = _split(demonstrations, share)
    train_r, test_r = _split(rankings, share)
    prompts = given_prompts if settings.prompts else [Prompt(r.id, r.prompt, r.topic) for r in train_r]
    problems = []
    for name, kept in (("demonstrations", train_d), ("rankings", train_r), ("heldout_prompts", heldout)):
        if not kept:
            problems.append(
                f"data.{name}: nothing is left to use after the split. Give more rows or lower data.test_share."
            )
    if not test_d or not test_r:
        problems.append("data.test_share: the test split is empty. Raise it, or give more rows.")
    problems += _leaks("heldout_prompts", heldout, train_d, train_r, prompts)
    problems += _leaks("heldout_rankings", heldout_rankings, train_d, train_r, prompts)
    kept_prompts, long_prompts = _fitting(tokenizer, prompts, config)
    problems += [
        f"{settings.heldout_prompts}: prompt {p.id} is longer than data.max_prompt_tokens ({settings.max_prompt_tokens})."
        for p in _fitting(tokenizer, heldout, config)[1][:20]
    ]
    train_d, long_d = _short_enough(tokenizer, train_d, config)
    if not train_d:
        problems.append(f"sft.max_tokens: every demonstration is longer than {config.sft.max_tokens} tokens. Raise it.")
    if not kept_prompts:
        problems.append(
            f"data.max_prompt_tokens: every prompt is longer than {settings.max_prompt_tokens} tokens. Raise it."
        )
    if problems:
        raise UserError(problems)
    counts = {
        "demonstrations": len(train_d),
        "demonstrations_test": len(test_d),
        "demonstrations_too_long": len(long_d),
        "rankings": len(train_r),
        "rankings_test": len(test_r),
        "ranking_pairs": sum(len(r.pairs()) for r in train_r),
        "prompts": len(kept_prompts),
        "prompts_too_long": len(long_prompts),
        "heldout_prompts": len(heldout),
        "heldout_rankings": len(heldout_rankings),
    }
    _write(ctx.out / "demonstrations.train.jsonl", map(_demonstration_row, train_d))
    _write(ctx.out / "demonstrations.test.jsonl", map(_demonstration_row, test_d))
    _write(ctx.out / "rankings.train.jsonl", map(_ranking_row, train_r))
    _write(ctx.out / "rankings.test.jsonl", map(_ranking_row, test_r))
    _write(ctx.out / "prompts.jsonl", map(_prompt_row, kept_prompts))
    _write(ctx.out / "heldout_prompts.jsonl", map(_prompt_row, heldout))
    if heldout_rankings:
        _write(ctx.out / "heldout_rankings.jsonl", map(_ranking_row, heldout_rankings))
    report = {
        "counts": counts,
        "quality": {
            "demonstrations": quality(demonstrations),
            "rankings": quality(rankings),
            "heldout_prompts": quality(heldout),
        },
        "too_long": {"demonstrations": [d.id for d in long_d], "prompts": [p.id for p in long_prompts]},
        "base_weights_sha256": weights_sha256(config.model),
        "template_sha256": template_sha256(tokenizer, config.model.system_prompt),
    }
    (ctx.out / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return {name: float(value) for name, value in counts.items()}


def _load_all(settings) -> list[list]:
    """The records of every file that the `data` section names, an empty list for one that it does not.

    Raises:
        UserError: the mistakes of all files, not of the first alone.
    """
    loaded, problems = [], []
    for name, kind in (
        ("demonstrations", Demonstration),
        ("rankings", Ranking),
        ("prompts", Prompt),
        ("heldout_prompts", Prompt),
        ("heldout_rankings", Ranking),
    ):
        path, form = getattr(settings, name), getattr(settings, f"{name}_format")
        try:
            loaded.append(_load(path, form, settings.limit, kind) if path else [])
        except UserError as error:
            problems += error.problems
    if problems:
        raise UserError(problems)
    return loaded


def _load(path: str, format_name: str, limit: int | None, kind: type) -> list:
    records = load_records(Path(path), format_name)
    wrong = next((r for r in records if not isinstance(r, kind)), None)
    if wrong is not None:
        raise UserError(
            f"{path}: format '{format_name}' gives {type(wrong).__name__.lower()}s where {kind.__name__.lower()}s are wanted. Choose another format."
        )
    return records[:limit] if limit else records


def _split(records: Sequence, share: float) -> tuple[list, list]:
    """Train and test by the first user turn, so that no question is on both sides."""
    sides: tuple[list, list] = ([], [])
    for record in records:
        sides[is_test(record.prompt, share)].append(record)
    return sides


def _leaks(held: str, heldout: Sequence[Prompt | Ranking], demonstrations, rankings, prompts) -> list[str]:
    """A held-out question that any training set also asks would make every later comparison worthless."""
    asked = {first_turn_key(prompt_of(record)): record.id for record in heldout}
    found = []
    for name, messages in (
        ("demonstrations", [d.prompt for d in demonstrations]),
        ("rankings", [r.prompt for r in rankings]),
        ("prompts", [p.messages for p in prompts]),
    ):
        shared = sorted({asked[k] for m in messages if (k := first_turn_key(m)) in asked})
        if shared:
            found.append(
                f"data.{held}: {len(shared)} of {len(asked)} also occur in the {name} (first: {shared[0]}). Remove them from one side."
            )
    return found


def _fitting(tokenizer, prompts: Sequence[Prompt], config) -> tuple[list[Prompt], list[Prompt]]:
    sides: tuple[list, list] = ([], [])
    for prompt in prompts:
        ids = prompt_ids(tokenizer, prompt.messages, system_prompt=config.model.system_prompt)
        sides[len(ids) > config.data.max_prompt_tokens].append(prompt)
    return sides


def _short_enough(tokenizer, demonstrations: Sequence[Demonstration], config) -> tuple[list, list]:
    """A demonstration is never cut: without its end the model would learn not to stop."""
    sides: tuple[list, list] = ([], [])
    for d in demonstrations:
        ids = prompt_ids(tokenizer, d.prompt, system_prompt=config.model.system_prompt)
        length = len(ids) + len(response_ids(tokenizer, d.response))
        sides[length > config.sft.max_tokens].append(d)
    return sides


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
