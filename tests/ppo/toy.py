"""A world small enough to know the optimum, played by the project's own PPO arithmetic.

Six tokens, responses of six tokens: all 46,656 can be listed, so expected reward and KL of a policy are exact, and so is the best
that any policy can do on E[r] − β KL(π ‖ ref): π* ∝ ref · exp(r/β), J* = β ln E_ref[exp(r/β)].

    python tests/ppo/toy.py          prints the table of docs/ppo.md
"""

from __future__ import annotations

import copy
import itertools
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from pipeline.ppo import advantages as _advantages
from pipeline.ppo import kl as _kl
from pipeline.ppo import losses as _losses
from pipeline.ppo import masking as _masking

TOKENS, LENGTH = 6, 6
BETAS, SEEDS = (1.0, 0.3, 0.1, 0.05), (0, 1, 2)
ALL = torch.tensor(list(itertools.product(range(TOKENS), repeat=LENGTH)))


@dataclass
class Parts:
    """The functions under test; a planted fault replaces one of them."""

    shape_rewards = staticmethod(_kl.shape_rewards)
    gae = staticmethod(_advantages.gae)
    whiten = staticmethod(_masking.masked_whiten)
    policy_loss = staticmethod(_losses.policy_loss)
    value_loss = staticmethod(_losses.value_loss)


def network(outputs: int, seed: int, spread: float) -> nn.Module:
    """A small MLP over the one-hot prefix and the position."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = nn.Sequential(
            nn.Linear(LENGTH * (TOKENS + 1), 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, outputs)
        )
        with torch.no_grad():
            net[-1].weight.mul_(spread)
    return net


def prefixes(responses: Tensor) -> Tensor:
    """(n, t) → (n, t, features): what is known before each token."""
    n = len(responses)
    one_hot = nn.functional.one_hot(responses, TOKENS).float()
    known = torch.ones(LENGTH, LENGTH).tril(-1)
    seen = one_hot[:, None] * known[None, :, :, None]
    place = torch.eye(LENGTH).expand(n, LENGTH, LENGTH)
    return torch.cat([seen.flatten(2), place], dim=-1)


# (place, token), between 0 and 1.
WORTH = torch.rand(LENGTH, TOKENS, generator=torch.Generator().manual_seed(7))
# Every prefix once: the state before token t depends on the first t tokens alone.
FEATURES = prefixes(ALL)


def reward(responses: Tensor) -> Tensor:
    """One point for each token 0, less (k − 2)² when there are k > 2 of them (a length hack in small), and what each token is
    worth at its place: without that, many responses would be equally best and their KL would hardly matter to J."""
    k = (responses == 0).sum(1).float()
    return k - (k - 2).clamp(min=0).square() + WORTH.gather(1, responses.T).sum(0)


def exact(policy: nn.Module, reference: nn.Module, beta: float) -> tuple[float, float]:
    """J(π) and KL(π ‖ ref) in nats, summed over all responses."""
    with torch.no_grad():
        own, ref = (
            net(FEATURES).log_softmax(-1).gather(2, ALL[..., None])[..., 0].sum(1) for net in (policy, reference)
        )
    p = own.exp()
    kl = (p * (own - ref)).sum()
    return ((p * reward(ALL)).sum() - beta * kl).item(), kl.item()


def optimum(reference: nn.Module, beta: float) -> tuple[float, float]:
    """J* and the KL of π*."""
    with torch.no_grad():
        ref = reference(FEATURES).log_softmax(-1).gather(2, ALL[..., None])[..., 0].sum(1).double()
    r = reward(ALL).double()
    log_z = (ref + r / beta).logsumexp(0)
    best = ref + r / beta - log_z
    return (beta * log_z).item(), (best.exp() * (best - ref)).sum().item()


def train(
    beta: float, seed: int, parts: type[Parts] = Parts, *, updates: int = 150, episodes: int = 256, epochs: int = 4
):
    """PPO from the reference. Returns (J, KL, J*, KL*)."""
    reference = network(TOKENS, seed=100 + seed, spread=6.0)
    policy, critic = copy.deepcopy(reference), network(1, seed=200 + seed, spread=1.0)
    optimizer = torch.optim.Adam(
        [{"params": policy.parameters(), "lr": 4e-3}, {"params": critic.parameters(), "lr": 1e-2}], eps=1e-5
    )
    base_rates = [g["lr"] for g in optimizer.param_groups]
    generator = torch.Generator().manual_seed(seed)
    mask = torch.ones(episodes, LENGTH, dtype=torch.bool)
    for update in range(updates):
        for group, rate in zip(optimizer.param_groups, base_rates, strict=True):
            group["lr"] = rate * (1 - update / updates)
        with torch.no_grad():
            responses = draw(policy, episodes, generator)
            features = prefixes(responses)
            old, ref = (logprobs_of(net, features, responses) for net in (policy, reference))
            old_values = critic(features)[..., 0]
            rewards = parts.shape_rewards(reward(responses), old, ref, mask, kl_coef=beta, estimator="k1")
            adv, returns = parts.gae(rewards, old_values, mask, gamma=1.0, lam=0.95)
            adv = parts.whiten(adv, mask)
        for _ in range(epochs):
            for rows in torch.randperm(episodes, generator=generator).split(episodes // 2):
                loss, _ = parts.policy_loss(
                    logprobs_of(policy, features[rows], responses[rows]),
                    old[rows],
                    adv[rows],
                    mask[rows],
                    clip_range=0.2,
                )
                value = parts.value_loss(
                    critic(features[rows])[..., 0], old_values[rows], returns[rows], mask[rows], clip_range=None
                )
                optimizer.zero_grad()
                (loss + value).backward()
                optimizer.step()
    return *exact(policy, reference, beta), *optimum(reference, beta)


def logprobs_of(net: nn.Module, features: Tensor, responses: Tensor) -> Tensor:
    return net(features).log_softmax(-1).gather(2, responses[..., None])[..., 0]


def draw(policy: nn.Module, n: int, generator: torch.Generator) -> Tensor:
    responses = torch.zeros(n, LENGTH, dtype=torch.long)
    for t in range(LENGTH):
        logits = policy(prefixes(responses)[:, t])
        responses[:, t] = torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]
    return responses


def main() -> None:
    torch.set_num_threads(1)
    print("| β | seed | J / J* | KL, nats | exact KL | ratio | seconds |\n|---:|---:|---:|---:|---:|---:|---:|")
    for beta, seed in itertools.product(BETAS, SEEDS):
        started = time.monotonic()
        j, kl, best, best_kl = train(beta, seed)
        print(
            f"| {beta} | {seed} | {j / best:.3f} | {kl:.2f} | {best_kl:.2f} | {kl / best_kl:.3f} | {time.monotonic() - started:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
