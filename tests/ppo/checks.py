"""What PPO's arithmetic must satisfy, as functions that raise AssertionError.

The ordinary tests call them on the real functions; `test_planted_faults.py` calls them on faulty ones and expects them to fail.
Each takes the module or function under test, so that a fault can be put in its place. Expectations are slow loops and hand counts.
"""

import math

import torch

T = torch.tensor
MASK = T([[True, True, True, False], [True, True, True, True], [True, True, False, False]])


def ragged(seed=0, junk=math.nan):
    """(3, 4) numbers with `junk` where the mask is False."""
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(seed))
    return torch.where(MASK, x, torch.full_like(x, junk))


def rows(x):
    """The real tokens of each row, as lists."""
    return [[x[i, t].item() for t in range(x.shape[1]) if MASK[i, t]] for i in range(len(x))]


def mask_ends_with_eos(response_mask):
    answers = [[5, 2], [5, 6, 7, 8], [2]]
    lengths = T([len(ids) for ids in answers])
    assert response_mask(lengths).tolist() == [[True, True, False, False], [True] * 4, [True, False, False, False]]


def whitening_sees_real_tokens_only(masked_whiten):
    for junk in (math.nan, 1e9):
        x = ragged(1, junk)
        real = [v for row in rows(x) for v in row]
        mean = sum(real) / len(real)
        std = math.sqrt(sum((v - mean) ** 2 for v in real) / len(real))
        white = masked_whiten(x, MASK)
        assert torch.allclose(white[MASK], T([(v - mean) / std for v in real]), atol=1e-5)
        assert (white[~MASK] == 0).all()
        kept = masked_whiten(x, MASK, shift_mean=False)
        assert torch.allclose(kept[MASK], T([(v - mean) / std + mean for v in real]), atol=1e-5)


def penalty_lowers_the_reward_of_a_token_the_reference_dislikes(shape_rewards):
    logprobs, reference = T([[-1.0, -1.0, -1.0, -1.0]]), T([[-3.0, -1.0, -0.5, -9.0]])
    rewards = shape_rewards(T([2.0]), logprobs, reference, T([[True, True, True, False]]), kl_coef=0.1, estimator="k1")
    assert torch.allclose(rewards, T([[-0.2, 0.0, 0.05 + 2.0, 0.0]]), atol=1e-6)


def score_stands_on_the_last_real_token(shape_rewards):
    zero = torch.where(MASK, torch.zeros(3, 4), torch.full((3, 4), math.nan))
    rewards = shape_rewards(T([1.0, 2.0, 3.0]), zero, zero, MASK, kl_coef=0.1, estimator="k1")
    assert rewards.tolist() == [[0, 0, 1, 0], [0, 0, 0, 2], [0, 3, 0, 0]]


def gae_is_the_double_sum(gae):
    """Âₜ = Σ_k (γλ)^k δ_{t+k}, written as a loop over each row's real tokens."""
    gamma, lam = 0.9, 0.7
    rewards, values = ragged(2), ragged(3)
    advantages, returns = gae(rewards, values, MASK, gamma=gamma, lam=lam)
    for i, (r, v) in enumerate(zip(rows(rewards), rows(values), strict=True)):
        delta = [r[t] + gamma * (v[t + 1] if t + 1 < len(v) else 0.0) - v[t] for t in range(len(r))]
        for t in range(len(r)):
            expected = sum((gamma * lam) ** k * delta[t + k] for k in range(len(r) - t))
            assert math.isclose(advantages[i, t].item(), expected, abs_tol=1e-5)
            assert math.isclose(returns[i, t].item(), expected + v[t], abs_tol=1e-5)
    assert (advantages[~MASK] == 0).all() and (returns[~MASK] == 0).all()


def clipped_ratio_has_no_gradient(policy_loss):
    """A > 0 and A < 0 at ratios 0.7, 1 and 1.3 with ε = 0.2: outside the range, on the side that would go further, nothing moves."""
    for advantage, ratio, moves in [
        (1, 0.7, True),
        (1, 1.0, True),
        (1, 1.3, False),
        (-1, 0.7, False),
        (-1, 1.0, True),
        (-1, 1.3, True),
    ]:
        logprobs = torch.tensor([[math.log(ratio)]], requires_grad=True)
        loss, _ = policy_loss(logprobs, torch.zeros(1, 1), T([[float(advantage)]]), T([[True]]), clip_range=0.2)
        loss.backward()
        expected = -advantage * ratio if moves else 0.0
        assert math.isclose(logprobs.grad.item(), expected, abs_tol=1e-6), (advantage, ratio)


def value_is_clipped_around_the_old_value(value_loss):
    """V_old = 1, ε = 0.2. R = 3: at V = 2 the clipped value 1.2 counts, ½·1.8²; at V = 1.1 the plain one, ½·1.9².

    R = -3: at V = -2 the clipped value 0.8 counts, ½·3.8².
    """
    for value, returned, expected, gradient in [
        (2.0, 3.0, 0.5 * 1.8**2, 0.0),
        (1.1, 3.0, 0.5 * 1.9**2, -1.9),
        (-2.0, -3.0, 0.5 * 3.8**2, 0.0),
    ]:
        v = torch.tensor([[value]], requires_grad=True)
        loss = value_loss(v, T([[1.0]]), T([[returned]]), T([[True]]), clip_range=0.2)
        loss.backward()
        assert math.isclose(loss.item(), expected, rel_tol=1e-5) and math.isclose(v.grad.item(), gradient, abs_tol=1e-5)
