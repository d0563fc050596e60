"""KTO's step held against the paper's equations, one thumb and one token at a time (Ethayarajh et al. 2024, eqs. 7 and 8)."""

import pytest
import torch
from thumbing import make_context, thumbs

from pipeline.adapters import SharedBase
from pipeline.stages import kto


def logprob(base: SharedBase, role: str, prompt, said) -> torch.Tensor:
    """log π(said | prompt), nats, by the model's own forward pass."""
    with base.acting_as(role):
        dist = base.causal_lm(input_ids=torch.tensor([[*prompt, *said]])).logits[0].log_softmax(-1)
    return sum(dist[len(prompt) - 1 + t, token] for t, token in enumerate(said))


def slow(base, rows, beta, balance):
    """v = λ_D σ(β (r − z₀)) for 👍, λ_U σ(β (z₀ − r)) for 👎, and the loss is the mean of λ − v; z₀ is the mean log-ratio of mismatched
    pairs, not below 0, and has no gradient."""

    def ratio(row, key):
        with torch.no_grad():
            reference = logprob(base, "ref", row["prompt_ids"], row[key])
        return logprob(base, "default", row["prompt_ids"], row[key]) - reference

    with torch.no_grad():
        z = max(0.0, sum(float(ratio(row, "KL_completion_ids")) for row in rows) / len(rows))
    total = 0.0
    for row in rows:
        r = ratio(row, "completion_ids")
        weight = balance[0] if row["label"] else balance[1]
        total = total + weight * (1 - torch.sigmoid(beta * (r - z) if row["label"] else beta * (z - r)))
    loss = total / len(rows)
    named = dict(base._named("default"))
    return loss.item(), z, dict(zip(named, torch.autograd.grad(loss, list(named.values())), strict=True))


def test_loss_and_gradient_are_those_of_the_paper(tmp_path, monkeypatch):
    context = make_context(
        tmp_path, "kto.learning_rate=0.05", "kto.warmup_share=0", "kto.beta=0.3", "kto.max_grad_norm=1e9", "detectors.enabled=false",
        "kto.checkpoint_every=0", "kto.epochs=1",
    )  # fmt: skip
    opened, steps, plain, opening = [], [], torch.optim.AdamW.step, kto.open_base

    def open_base(config):
        opened.append(opening(config))
        return opened[0]

    def catch(self, *args, **kwargs):
        base = opened[0]
        steps.append({n: p.grad.clone() for n, p in base._named("default")} | {"state": base.state("default")})
        return plain(self, *args, **kwargs)

    monkeypatch.setattr(kto, "open_base", open_base)
    monkeypatch.setattr(torch.optim.AdamW, "step", catch)
    kto.run(context)
    base = opened[0]
    rows = kto.examples(thumbs(24, 12), base.tokenizer, context.config)
    ups = sum(row["label"] for row in rows)
    balance, seen = kto.weights(ups, len(rows) - ups), []
    for number, step in enumerate(steps):
        base.load_state("default", step.pop("state"))
        loss, z, expected = slow(base, rows[8 * number : 8 * number + 8], 0.3, balance)
        seen.append(z)
        assert context.lines[number]["loss"] == pytest.approx(loss, rel=1e-3, abs=1e-5)
        assert context.lines[number]["kl"] == pytest.approx(z, rel=1e-3, abs=1e-4)
        largest = max(float(g.abs().max()) for g in expected.values())
        assert largest > 1e-4
        for name, gradient in expected.items():
            assert torch.allclose(step[name], gradient, rtol=1e-2, atol=1e-3 * largest), (number, name)
    # At the start the two are one; later the mismatched pairs are apart, so that z₀ is looked at too.
    assert len(seen) == 5 and seen[0] == 0.0 and max(seen) > 0.05
