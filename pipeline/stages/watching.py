"""Opening the watch over the policy that learns, whoever teaches it: the judge, its questions, the texts; and what is written of it."""

from __future__ import annotations

import json
import sys

from data.errors import UserError
from data.loading import load as load_records
from data.records import Prompt
from data.yardsticks import load_facts, load_paragraphs
from pipeline.adapters import POLICY
from pipeline.context import context_of, no_room_to_draw
from pipeline.evaluation.detectors import REPORT, SFT
from pipeline.evaluation.yardsticks import FACTS, GENERAL_TEXT
from pipeline.judge_questions import untaught
from pipeline.ppo.probes import Probes, spread_evenly
from pipeline.ppo.rollout import PromptIds
from pipeline.ppo.watch import Judge, Watch
from pipeline.roles import open_test_model
from pipeline.template import prompt_ids
from reward.sources import REWARD_SOURCES

# With seven, one run in eight that lost a whole spread of the judge's scores raised the alarm: benchmarks/detector_rates.py.
FEW_PROMPTS = 8
# What KTO learns from.
THUMBS = "thumbs.train.jsonl"


def open_watch(
    ctx, base, *, role: str = POLICY, start: str = SFT, name: str = "PPO", reference: str | None = None
) -> Watch:
    """The detectors, with their judge, where there is one, and with texts and questions for the policy to read.

    Args:
        role: the adapter that learns.
        start, name, reference: as in `Watch`.
    """
    config = ctx.config
    if not config.detectors.enabled:
        # Nobody looks, so nothing is opened to look with: a test model is an adapter more in memory.
        return Watch(config.detectors, seed=config.seed, start=start, name=name, reference=reference)
    judge = _judge(ctx, base) if config.detectors.judge_every else None
    prompts = judge_prompts(ctx, base) if judge or reference else []
    # Nobody learns from these: they may be longer than those that anybody does.
    section = config.learner
    check_room(base, section, getattr(config, section).max_new_tokens, prompts)
    if (judge or reference) and len(prompts) < FEW_PROMPTS:
        seen = (
            f"for the judge to see answers to: {len(prompts)}. With fewer than {FEW_PROMPTS} it mostly misses a fall by one spread of its "
            "scores, with fewer than two any"
            if judge
            else f"to read answers to, {name} drawing no others: {len(prompts)}. Figures of so few say little, of none nothing"
        )
        print(
            f"detectors: questions of the test side {seen} (detectors.judge_prompts, data.test_share).",
            file=sys.stderr,
            flush=True,
        )
    probes = _probes(ctx, base, role)
    return Watch(
        config.detectors, prompts, judge, probes=probes, seed=config.seed, start=start, name=name, reference=reference
    )


def write_report(ctx, watch: Watch) -> None:
    """What the detectors saw, beside the stage's log."""
    (ctx.out / REPORT).write_text(json.dumps(watch.report(), indent=1, allow_nan=False) + "\n", encoding="utf-8")


def check_room(base, section: str, drawn: int, prompts: list[PromptIds]) -> None:
    """Before anything is trained: an answer that runs past the context would be made of positions that the model never saw.

    Raises:
        UserError: the longest prompt leaves no room for `drawn` tokens (`<section>.max_new_tokens`).
    """
    longest = max((len(p.ids) for p in prompts), default=0)
    if problems := no_room_to_draw(context_of(base.causal_lm.config), section, drawn, longest):
        raise UserError(problems)


def _judge(ctx, base) -> Judge | None:
    """The rubric where it stands in for people and is not raised itself; else the test model, where there is one."""
    if ctx.config.judged_by == "rubric":
        return lambda answers: REWARD_SOURCES["rubric"](answers).tolist()
    if ctx.config.judged_by == "test_model":
        model = open_test_model(base, ctx.inputs["reward"])
        return lambda answers: model.score_all([a.ids for a in answers])
    return None


def _probes(ctx, base, role: str) -> Probes | None:
    """Texts and questions for the detectors of forgetting and sycophancy; None where there is neither."""
    bounds, prepared = ctx.config.detectors, ctx.inputs["prepare"]
    texts, facts = prepared / GENERAL_TEXT, prepared / FACTS
    paragraphs = spread_evenly(load_paragraphs(texts), bounds.probe_texts) if texts.exists() else []
    questions = spread_evenly(load_facts(facts), bounds.probe_facts) if facts.exists() else []
    if not paragraphs and not questions:
        return None
    return Probes(base, paragraphs, questions, system_prompt=ctx.config.model.system_prompt, role=role)


def judge_prompts(ctx, base) -> list[PromptIds]:
    """Questions of the test side, the rankings' first: training does not ask them, and the final evaluation asks others."""
    prepared = ctx.inputs["prepare"]
    asked = [p.messages for name in ("prompts.jsonl", "heldout_prompts.jsonl") for p in load_records(prepared / name, "prompts")]
    if ctx.config.learner == "kto":
        asked += [t.prompt for t in load_records(prepared / THUMBS, "thumbs")]
    rankings = load_records(prepared / "rankings.test.jsonl", "ranked")
    found = untaught(rankings, load_records(prepared / "prompts.test.jsonl", "prompts"), asked)
    fitting = [
        found_ids
        for p in found
        if len((found_ids := encoded(ctx, base, p)).ids) <= ctx.config.data.max_prompt_tokens
    ]
    return fitting[: ctx.config.detectors.judge_prompts]


def encoded(ctx, base, prompt: Prompt) -> PromptIds:
    return PromptIds(
        prompt, tuple(prompt_ids(base.tokenizer, prompt.messages, system_prompt=ctx.config.model.system_prompt))
    )
