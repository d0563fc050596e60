"""KTO in PPO's place: that the reference is SFT, the rows are ours, and that it learns what the thumbs say."""

import json
import math
import statistics
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from thumbing import SETTINGS, make_context, thumbs

from data.errors import UserError
from data.records import Message, Thumb
from data.rows import thumb_row, write_rows
from pipeline.adapters import POLICY
from pipeline.config import load_config
from pipeline.ppo.logprobs import token_logprobs
from pipeline.roles import ADAPTER, open_base
from pipeline.stages import kto
from pipeline.template import prompt_ids, response_ids
from reward.test_model import is_for_test_model


@pytest.fixture
def context(tmp_path):
    return make_context(tmp_path)


def logprob(base, config, thumb: Thumb) -> float:
    """log π(answer | question) in nats, by our own forward pass."""
    asked = prompt_ids(base.tokenizer, thumb.prompt, system_prompt=config.model.system_prompt)
    said = response_ids(base.tokenizer, thumb.response, finished=thumb.finished)
    with torch.no_grad():
        states, _ = base.encode([[*asked, *said]], POLICY)
        own = states[0, len(asked) - 1 : len(asked) - 1 + len(said)]
        return token_logprobs(own, base.lm_head, torch.tensor(said), temperature=1.0)[0].sum().item()


def test_it_starts_at_sft_and_moves_towards_what_was_liked(context):
    told, track = [], context.progress
    context.progress = lambda *shown, **named: (told.append((*shown, named)), track(*shown, **named))[1]
    metrics = kto.run(context)
    # Two passes over four batches of eight and one of four.
    assert told == [(10, "KTO", {"unit": "steps"})]
    first = context.lines[0]
    # The policy and its reference are the same SFT policy: no KL, and 1 − σ(0) a thumb, of which each kind counts half in all.
    assert first["kl"] == 0.0 and metrics["kl_at_start"] == 0.0
    rows = kto.examples(thumbs(24, 12), open_base(context.config).tokenizer, context.config)[:8]
    assert first["loss"] == pytest.approx(0.5 * sum(0.5 if row["label"] else 1.0 for row in rows) / 8, abs=1e-5)
    assert (metrics["thumbs_up"], metrics["thumbs_down"], metrics["steps"]) == (24, 12, 10)
    assert (metrics["updates_kept"], metrics["passes"], len(context.lines)) == (10, 2, 10)
    assert metrics["loss"] == pytest.approx(statistics.fmean(line["loss"] for line in context.lines))
    # Linear: after the warm-up the rate falls by the same amount each step.
    rates = [line["learning_rate"] for line in context.lines]
    falling = rates[rates.index(max(rates)) :]
    drops = [before - after for before, after in pairwise(falling)]
    assert len(drops) >= 5 and min(drops) > 0 and max(drops) == pytest.approx(min(drops))
    liked, disliked = thumbs(1, 1)
    moved = {}
    for name, folder in (("before", context.inputs["sft"]), ("after", context.out)):
        base = open_base(context.config)
        base.load(POLICY, folder / ADAPTER, trainable=False)
        moved[name] = [logprob(base, context.config, t) for t in (liked, disliked)]
    up, down = (after - before for after, before in zip(moved["after"], moved["before"], strict=True))
    assert up > 1.0 > -1.0 > down, (up, down)


def test_rows_are_rendered_as_everywhere_and_mismatched_within_their_batch(context):
    tokenizer = open_base(context.config).tokenizer
    rows = kto.examples(thumbs(6, 11), tokenizer, context.config)
    # In an order that the seed gives: as they come, a batch could hold one kind only.
    order = [row["prompt_ids"] for row in rows]
    as_given = [prompt_ids(tokenizer, t.prompt, system_prompt=context.config.model.system_prompt) for t in thumbs(6, 11)]
    other = kto.examples(thumbs(6, 11), tokenizer, load_config(Path("configs/smoke.yaml"), [*SETTINGS, "seed=1"]))
    assert order != as_given != [row["prompt_ids"] for row in other] != order and sorted(order) == sorted(as_given)
    # 17 is two batches of 8 and one alone, to which the row before it lends its answer.
    assert len(rows) == 17
    assert rows[16]["KL_completion_ids"] == rows[15]["completion_ids"]
    for row in rows:
        assert (row["completion_ids"][-1] == tokenizer.eos_token_id) == row["label"]
    for first in (0, 8):
        said = [row["completion_ids"] for row in rows[first : first + 8]]
        assert [row["KL_completion_ids"] for row in rows[first : first + 8]] == [said[-1], *said[:-1]]


def test_the_answer_of_a_mismatch_is_to_another_question(context):
    """Several thumbs on one question: the answer to it in the next row fits it as well as the own one."""
    tokenizer = open_base(context.config).tokenizer
    given = [replace(t, prompt=(Message("user", "popular?"),)) if i % 3 else t for i, t in enumerate(thumbs(20, 12))]
    rows = kto.examples(given, tokenizer, context.config)
    # A number in each answer says which row it is from.
    for number, t in enumerate(given):
        given[number] = replace(t, response=f"{t.response} {number}")
    rows = kto.examples(given, tokenizer, context.config)
    owner = {tuple(row["completion_ids"]): place for place, row in enumerate(rows)}
    lent = [owner[tuple(row["KL_completion_ids"])] for row in rows]
    assert all(rows[j]["prompt_ids"] != rows[i]["prompt_ids"] for i, j in enumerate(lent))
    # As near as can be: the row before, where that asks something else.
    assert any(j == i - 1 for i, j in enumerate(lent)) and all(
        j == i - 1 for i, j in enumerate(lent) if i % 8 and rows[i - 1]["prompt_ids"] != rows[i]["prompt_ids"]
    )
    # A batch that asks one question borrows elsewhere.
    config = load_config(Path("configs/smoke.yaml"), [*SETTINGS, "kto.batch_size=2"])
    rows = kto.examples(given, tokenizer, config)
    assert any(rows[i]["prompt_ids"] == rows[i + 1]["prompt_ids"] for i in range(0, len(rows), 2))
    asked = {tuple(row["completion_ids"]): row["prompt_ids"] for row in rows}
    assert all(asked[tuple(row["KL_completion_ids"])] != row["prompt_ids"] for row in rows)
    with pytest.raises(UserError, match="the 2 thumbs that KTO would learn from are of one question"):
        kto.examples([replace(given[0], prompt=given[1].prompt), given[1]], tokenizer, config)


def test_one_alone_in_the_last_batch_is_learnt_from(context):
    """TRL moves answers on within a batch, where one alone would be its own mismatch. The only thumb of its kind may be that one."""
    context.config = load_config(Path("configs/smoke.yaml"), [*SETTINGS, "kto.batch_size=4"])
    write_rows(context.inputs["prepare"] / "thumbs.train.jsonl", map(thumb_row, thumbs(1, 8)))
    metrics = kto.run(context)
    assert (metrics["thumbs_up"], metrics["thumbs_down"], metrics["steps"]) == (1.0, 8.0, 3.0 * metrics["passes"])
    assert all(math.isfinite(line["loss"]) and line["kl"] >= 0.0 for line in context.lines)


def test_thumbs_that_teach_the_test_model_teach_no_policy(context, monkeypatch):
    monkeypatch.setattr(kto, "_train", lambda *a: [{"loss": 1.0, "kl": 0.0}])
    context.config = load_config(Path("configs/smoke.yaml"), [*SETTINGS, "reward.test_share=0.5"])
    metrics = kto.run(context)
    own = [t for t in thumbs(24, 12) if not is_for_test_model(t.prompt, 0.5)]
    assert 0 < len(own) < 36
    assert metrics["thumbs_up"] + metrics["thumbs_down"] == len(own)


@pytest.mark.parametrize(("ups", "downs"), [(10, 10), (90, 10), (1, 4)])
def test_each_kind_of_thumb_counts_half(ups, downs):
    desirable, undesirable = kto.weights(ups, downs)
    assert desirable * ups == pytest.approx(undesirable * downs) and max(desirable, undesirable) == 1.0


def test_it_says_what_it_lacks(context, monkeypatch):
    file = context.inputs["prepare"] / "thumbs.train.jsonl"
    write_rows(file, map(thumb_row, thumbs(5, 0)))
    with pytest.raises(UserError, match=r"the thumbs \(5\) are all up; it needs both kinds"):
        kto.run(context)
    # The longest decides, wherever it stands, with its answer and the answer's end.
    long = Thumb("long", (Message("user", "why " * 20),), "because " * 10, True)
    write_rows(file, map(thumb_row, [*thumbs(1, 0), long, *thumbs(0, 2)]))
    tokenizer = open_base(context.config).tokenizer
    longest = len(prompt_ids(tokenizer, long.prompt, system_prompt=context.config.model.system_prompt))
    longest += len(response_ids(tokenizer, long.response))
    monkeypatch.setattr(kto, "context_of", lambda config: longest - 1)
    with pytest.raises(UserError, match=f"reward.max_tokens: a prompt with its answer of {longest} tokens exceeds .* {longest - 1}"):
        kto.run(context)
    file.unlink()
    with pytest.raises(UserError, match="no thumbs. Name a file in data.thumbs"):
        kto.run(context)
    assert json.dumps(context.lines) == "[]"


@pytest.mark.parametrize(
    ("error", "told", "said"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), UserError, r"out of memory with 8 thumbs a step\..*Lower kto.batch_size"),
        # What is about something else stays what it is.
        (RuntimeError("device-side assert triggered"), RuntimeError, "^device-side assert triggered$"),
    ],
    ids=["memory", "another"],
)
def test_memory_that_runs_out_is_one_line_with_what_to_lower(context, monkeypatch, error, told, said):
    def full(self, *arguments, **named):
        raise error

    monkeypatch.setattr(torch.optim.AdamW, "step", full)
    with pytest.raises(told, match=said):
        kto.run(context)
