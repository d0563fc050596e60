"""Supervised fine-tuning, held against loops: what its loss is the mean of, and that the passes of a step do not matter."""

from itertools import combinations
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from data.records import Demonstration, Message
from data.rows import demonstration_row, write_rows
from pipeline import progress
from pipeline.adapters import POLICY
from pipeline.config import load_config
from pipeline.roles import ADAPTER, open_base
from pipeline.stages import sft
from pipeline.template import prompt_ids, response_ids

# Of very unlike lengths: a mean of the passes' means is another number.
ROWS = [
    Demonstration(f"d{i}", (Message("user", "q" * asked),), "yes " * said)
    for i, (asked, said) in enumerate([(3, 1), (40, 12), (9, 30), (1, 2), (25, 1), (2, 45), (60, 3), (5, 5)])
]


@pytest.fixture
def run_of(tmp_path, monkeypatch):
    """Runs the stage and gives what its first step was: the figures, and the gradient by parameter; `fresh` is the adapter before it."""

    def run(*settings: str):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        (folder / "prepare").mkdir(parents=True)
        (folder / "out").mkdir()
        write_rows(folder / "prepare" / "demonstrations.train.jsonl", map(demonstration_row, ROWS))
        config = load_config(
            Path("configs/smoke.yaml"), ["threads=1", "sft.batch_size=8", "sft.max_grad_norm=1e9", "sft.checkpoint_every=0", *settings]
        )
        gradients, opened, step = [], [], torch.optim.AdamW.step

        def catch(self, *args, **kwargs):
            gradients.append({n: p.grad.clone() for n, p in opened[0]._named(POLICY)})
            return step(self, *args, **kwargs)

        def open_one(config):
            torch.manual_seed(1)
            base = open_base(config)
            opened.append(base)
            add = base.add

            def added(role, **kwargs):
                add(role, **kwargs)
                generator = torch.Generator().manual_seed(2)
                base.load_state(role, {n: 0.2 * torch.randn(t.shape, generator=generator) for n, t in base.state(role).items()})

            base.add = added
            return base

        lines = []
        with monkeypatch.context() as patched:
            patched.setattr(sft, "open_base", open_one)
            patched.setattr(torch.optim.AdamW, "step", catch)
            sft.run(
                SimpleNamespace(
                    config=config, inputs={"prepare": folder / "prepare"}, out=folder / "out", checkpoints=folder / "c",
                    log=lines.append, progress=progress.track,
                )
            )  # fmt: skip
        return lines, gradients, opened[0], folder / "out"

    return run


def slow(base, rows):
    """(loss, gradient by parameter) one text and one token at a time: −Σ log p(token) / tokens, over answers with their ends."""
    total, tokens = 0.0, 0
    for row in rows:
        asked, said = prompt_ids(base.tokenizer, row.prompt), response_ids(base.tokenizer, row.response)
        assert said[-1] == base.tokenizer.eos_token_id
        ids = torch.tensor([asked + said])
        with base.acting_as(POLICY):
            logprobs = base.causal_lm(input_ids=ids).logits[0].log_softmax(-1)
        for t in range(len(asked), len(asked) + len(said)):
            total = total - logprobs[t - 1, ids[0, t]]
            tokens += 1
    loss = total / tokens
    named = dict(base._named(POLICY))
    return loss.item(), dict(zip(named, torch.autograd.grad(loss, list(named.values())), strict=True))


@pytest.mark.parametrize("micro", [8, 4, 1])
def test_the_step_is_that_of_the_mean_over_all_answers_tokens_in_however_many_passes(run_of, micro):
    lines, gradients, base, _ = run_of(f"sft.micro_batch_size={micro}")
    assert len(lines) == len(gradients) == 1
    generator = torch.Generator().manual_seed(2)
    base.load_state(POLICY, {n: 0.2 * torch.randn(t.shape, generator=generator) for n, t in base.state(POLICY).items()})
    loss, expected = slow(base, ROWS)
    assert lines[0]["loss"] == pytest.approx(loss, rel=1e-4)
    largest = max(float(g.abs().max()) for g in expected.values())
    assert largest > 1e-3 and gradients[0].keys() == expected.keys()
    for name, gradient in expected.items():
        assert torch.allclose(gradients[0][name], gradient, rtol=1e-3, atol=1e-4 * largest), name


def test_a_last_batch_that_is_not_full_counts_its_own_tokens_alone(run_of):
    """Five texts a step: the second step has three, read in passes of one."""
    lines, _, base, _ = run_of("sft.batch_size=5", "sft.micro_batch_size=1", "sft.learning_rate=1e-9")
    assert len(lines) == 2
    generator = torch.Generator().manual_seed(2)
    base.load_state(POLICY, {n: 0.2 * torch.randn(t.shape, generator=generator) for n, t in base.state(POLICY).items()})
    said = [len(response_ids(base.tokenizer, row.response)) for row in ROWS]
    lost = [slow(base, [row])[0] for row in ROWS]
    of_three = [sum(lost[i] * said[i] for i in c) / sum(said[i] for i in c) for c in combinations(range(8), 3)]
    assert min(abs(lines[1]["loss"] - x) for x in of_three) < 2e-5


def test_what_is_kept_is_the_adapter_that_learnt(run_of):
    *_, base, out = run_of()
    learnt = base.state(POLICY)
    again = open_base(load_config(Path("configs/smoke.yaml"), ["threads=1"]))
    again.load(POLICY, out / ADAPTER, trainable=False)
    assert all(torch.equal(t, again.state(POLICY)[n]) for n, t in learnt.items())
