"""A plan in words: a table of gigabytes, tokens, hours where a throughput is stated, and whether it fits."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from data.errors import UserError
from pipeline.planning.plan import CUDA_CONTEXT, FRAGMENTATION, GB, Plan, StagePlan


def parse_bytes(text: str) -> float:
    """'24GB', '23.5 GiB' or '16000MB' in bytes.

    Raises:
        UserError: it reads otherwise.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT])(i?)B?\s*", text, re.IGNORECASE)
    if not found:
        raise UserError(f"--memory: should read like 24GB or 23.5GiB (got '{text}').")
    number, unit, binary = found.groups()
    return float(number) * (1024 if binary else 1000) ** (1 + "KMGT".index(unit.upper()))


def parse_rates(texts: list[str]) -> dict[str, float]:
    """['drawn=2500', 'learnt=9000'] as tokens a second.

    Raises:
        UserError: another name than drawn, read or learnt, or a number that is not above 0.
    """
    rates: dict[str, float] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        try:
            rates[name] = float(value)
        except ValueError:
            rates[name] = 0.0
        if not equals or name not in ("drawn", "read", "learnt") or not 0 < rates[name] < float("inf"):
            raise UserError(f"--rate: should read drawn=N, read=N or learnt=N, tokens a second above 0 (got '{text}').")
    return rates


def lines(plan: Plan, memory: float | None, rates: Mapping[str, float]) -> Iterator[str]:
    """The plan, a line at a time. `memory` in bytes; None where no limit is known."""
    shape, numbers = plan.shape, plan.numbers
    stored = {"none": f"{numbers.weight * 8}-bit", "8bit": "8-bit", "4bit": "4-bit NF4"}[numbers.quantization]
    yield f"base: {shape.parameters / 1e9:.2f} billion parameters, {stored}, {shape.layers} layers of width {shape.hidden}, {shape.vocabulary} tokens"
    yield ""
    yield f"{'stage':<10}{'weights':>9}{'adapters':>10}{'optimizer':>11}{'at work':>9}{'GB in all':>11}   fullest while"
    for stage in plan.stages:
        parts = [stage.parts[name] / GB for name in ("weights", "adapters", "optimizer")]
        most = max(stage.moments.values()) / GB
        yield f"{stage.name:<10}{parts[0]:9.2f}{parts[1]:10.2f}{parts[2]:11.2f}{most:9.2f}{stage.peak / GB:11.2f}   {stage.fullest}"
    yield ""
    if plan.on_gpu:
        yield (
            f"with {FRAGMENTATION:.0%} for blocks that cannot be used again and {CUDA_CONTEXT / GB:.1f} GB for the card's own: "
            f"{plan.peak / GB:.1f} GB"
        )
    yield from _fit(plan, memory)
    yield ""
    for stage in plan.stages:
        yield f"{stage.name:<10}{_work(stage, rates)}"


def fits(plan: Plan, memory: float) -> bool:
    return plan.peak <= memory


def _fit(plan: Plan, memory: float | None) -> Iterator[str]:
    if memory is None:
        yield f"needs {plan.peak / GB:.1f} GB; say --memory 24GB to hear whether that fits"
        return
    if fits(plan, memory):
        yield f"fits: {plan.peak / GB:.1f} GB of {memory / GB:.1f} GB"
        return
    worst = max(plan.stages, key=lambda stage: stage.peak)
    yield f"does not fit: {plan.peak / GB:.1f} GB of {memory / GB:.1f} GB. Fullest is '{worst.name}' while {worst.fullest}: {_advice(plan, worst)}."


def _advice(plan: Plan, stage: StagePlan) -> str:
    if stage.parts["weights"] > max(stage.moments.values()) and plan.numbers.quantization != "4bit":
        return "model.quantization: 4bit stores the base in about a quarter"
    return {
        ("ppo", "learning"): "lower ppo.micro_batch, or set model.gradient_checkpointing",
        ("ppo", "drawing"): "set ppo.rollout.batch to fewer answers at a time, or lower ppo.max_new_tokens",
        ("ppo", "reading the prompts"): "set ppo.rollout.batch to fewer answers at a time",
        ("reward", "measuring the scale"): "lower reward.max_tokens; where memory runs out here, fewer rows are read at a time",
        ("ppo", "reading for the judge"): "lower detectors.judge_prompts; where memory runs out here, fewer rows are read at a time",
        ("evaluate", "reading answers"): "lower sft.max_tokens; where memory runs out here, fewer rows are read at a time",
        ("evaluate", "reading rankings"): "lower reward.max_tokens; where memory runs out here, fewer rows are read at a time",
        ("reward", "learning"): "lower reward.micro_lists, or set model.gradient_checkpointing",
        ("kto", "learning"): "lower kto.batch_size or reward.max_tokens, or set model.gradient_checkpointing",
        ("kto", "drawing for the detectors"): "lower detectors.judge_prompts or kto.max_new_tokens",
        ("kto", "reading for the detectors"): "lower detectors.judge_prompts; where memory runs out here, fewer rows are read at a time",
        ("sft", "learning"): "lower sft.micro_batch_size, or set model.gradient_checkpointing",
    }.get((stage.name, stage.fullest), "lower evaluation.batch_size")


def _work(stage: StagePlan, rates: Mapping[str, float]) -> str:
    known = {name: count for name, count in stage.tokens.items() if count is not None}
    if not known:
        return f"tokens {' and '.join(stage.tokens)} follow from the rows; hours unknown"
    said = "at most " + ", ".join(f"{count / 1e6:.2f} million tokens {name}" for name, count in known.items())
    if missing := [name for name in known if name not in rates]:
        return f"{said}; hours unknown (--rate {' --rate '.join(f'{name}=TOKENS_A_SECOND' for name in missing)})"
    return f"{said}; {sum(count / rates[name] for name, count in known.items()) / 3600:.1f} hours"
