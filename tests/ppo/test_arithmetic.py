"""The pure functions, against slow loops, autograd identities and exact sums over small vocabularies."""

import math

import checks
import numpy
import pytest
import torch

from pipeline.lm_head import LMHead
from pipeline.ppo import advantages, kl, logprobs, losses, masking, scores
from pipeline.ppo.ema import EMA
from reward.ensemble import combine_ensemble

T = torch.tensor


def test_the_mask_ends_with_eos():
    checks.mask_ends_with_eos(masking.response_mask)


def test_whitening_sees_real_tokens_only():
    checks.whitening_sees_real_tokens_only(masking.masked_whiten)


def test_whitening_refuses_fewer_than_8_tokens():
    with pytest.raises(ValueError, match="at least 8 real tokens, got 3"):
        masking.masked_whiten(torch.randn(1, 3), torch.ones(1, 3, dtype=torch.bool))
    assert masking.masked_whiten(torch.arange(8.0)[None], torch.ones(1, 8, dtype=torch.bool)).shape == (1, 8)


def test_whitening_what_does_not_vary_gives_zeros():
    x, mask = torch.full((2, 4), 3.0), torch.ones(2, 4, dtype=torch.bool)
    assert masking.masked_whiten(x, mask).tolist() == [[0.0] * 4] * 2
    assert masking.masked_whiten(x, mask, shift_mean=False).tolist() == [[3.0] * 4] * 2


def test_masked_mean_and_variance_are_numpys():
    x = checks.ragged()
    real = numpy.array([v for row in checks.rows(x) for v in row])
    assert masking.masked_mean(x, checks.MASK).item() == pytest.approx(real.mean(), abs=1e-6)
    assert masking.masked_var(x, checks.MASK).item() == pytest.approx(real.var(), abs=1e-6)
    with pytest.raises(ValueError, match="False everywhere"):
        masking.masked_mean(x, torch.zeros_like(checks.MASK))


# -- log-probabilities -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [1, 3, 100])
@pytest.mark.parametrize("temperature", [0.7, 1.0])
@pytest.mark.parametrize("with_entropy", [True, False])
@pytest.mark.parametrize("made", [{}, {"scale": 0.3}, {"cap": 1.5}, {"bias": True, "scale": 2.0, "cap": 3.0}], ids=str)
def test_token_logprobs_and_entropy_equal_the_whole_softmax_and_its_gradient(made, with_entropy, chunk, temperature):
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(7, 5, generator=generator, dtype=torch.float64).requires_grad_()
    weight, bias = (torch.randn(11, *shape, generator=generator, dtype=torch.float64) for shape in ((5,), ()))
    head = LMHead(weight, **{name: bias if name == "bias" else value for name, value in made.items()})
    tokens = torch.randint(11, (7,), generator=generator)
    weights = torch.randn(7, 2, generator=generator)
    logits = states @ weight.T + (bias if "bias" in made else 0)
    if made.get("scale"):
        logits = logits * made["scale"]
    if made.get("cap"):
        logits = made["cap"] * torch.tanh(logits / made["cap"])
    everything = torch.log_softmax(logits / temperature, -1)
    expected = everything.gather(1, tokens[:, None])[:, 0], -(everything.exp() * everything).sum(-1)
    asked = 1 + with_entropy
    sum(x @ w.double() for x, w in zip(expected[:asked], weights.T, strict=False)).backward()
    gradient, states.grad = states.grad.clone(), None
    found = logprobs.token_logprobs(
        states, head, tokens, temperature=temperature, with_entropy=with_entropy, chunk=chunk
    )
    sum(x @ w for x, w in zip(found[:asked], weights.T, strict=False)).backward()
    assert all(torch.allclose(x.double(), e, atol=1e-5) for x, e in zip(found[:asked], expected, strict=False))
    assert torch.allclose(states.grad, gradient, atol=1e-5) and (found[1] is None) == (not with_entropy)


def test_no_positions_give_no_logprobs():
    found, entropy = logprobs.token_logprobs(
        torch.empty(0, 4), LMHead(torch.randn(9, 4)), torch.empty(0, dtype=torch.long), temperature=1.0
    )
    assert found.shape == (0,) and entropy is None


def test_shapes_that_do_not_match_and_a_temperature_of_0_are_refused():
    with pytest.raises(ValueError, match="do not match"):
        logprobs.token_logprobs(torch.randn(3, 4), LMHead(torch.randn(9, 4)), T([1, 2]), temperature=1.0)
    with pytest.raises(ValueError, match="above 0"):
        logprobs.token_logprobs(torch.randn(1, 4), LMHead(torch.randn(9, 4)), T([1]), temperature=0.0)


# -- KL and rewards --------------------------------------------------------------------------------------------------------


def test_kl_estimates_average_to_the_exact_kl():
    """Σ p·k over a vocabulary of three, no sampling. k2 is biased, so it does not."""
    p, q = T([0.5, 0.3, 0.2], dtype=torch.float64), T([0.2, 0.2, 0.6], dtype=torch.float64)
    exact = sum(a * math.log(a / b) for a, b in zip(p.tolist(), q.tolist(), strict=True))
    mean = {e: (p * kl.token_kl(p.log(), q.log(), estimator=e)).sum().item() for e in kl.ESTIMATORS}
    assert mean["k1"] == pytest.approx(exact) and mean["k3"] == pytest.approx(exact) and abs(mean["k2"] - exact) > 1e-3
    assert (kl.token_kl(p.log(), q.log(), estimator="k3") >= 0).all()
    by_hand = [0.5 * math.log(a / b) ** 2 for a, b in zip(p.tolist(), q.tolist(), strict=True)]
    assert kl.token_kl(p.log(), q.log(), estimator="k2").tolist() == pytest.approx(by_hand)


def test_an_unknown_estimator_names_those_there_are():
    with pytest.raises(ValueError, match="there are k1, k2, k3"):
        kl.token_kl(T([0.0]), T([0.0]), estimator="k4")


def test_the_penalty_lowers_the_reward_of_a_token_the_reference_dislikes():
    checks.penalty_lowers_the_reward_of_a_token_the_reference_dislikes(kl.shape_rewards)


def test_the_score_stands_on_the_last_real_token():
    checks.score_stands_on_the_last_real_token(kl.shape_rewards)


def test_the_score_of_an_answer_of_one_token_stands_on_it():
    rewards = kl.shape_rewards(T([5.0]), torch.zeros(1, 3), torch.zeros(1, 3), T([[True, False, False]]), kl_coef=0.1)
    assert rewards.tolist() == [[5.0, 0.0, 0.0]]


def test_rewards_advantages_and_returns_carry_no_gradient():
    a, b = (torch.zeros(1, 3).requires_grad_() for _ in range(2))
    mask = torch.ones(1, 3, dtype=torch.bool)
    found = kl.shape_rewards(T([1.0]), a, b, mask, kl_coef=0.1), *advantages.gae(a, b, mask, gamma=1.0, lam=0.95)
    assert not any(x.requires_grad for x in found)


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_rewards_and_penalties_sum_to_the_score(estimator):
    a, b = checks.ragged(4), checks.ragged(5)
    rewards = kl.shape_rewards(T([1.0, -2.0, 0.5]), a, b, checks.MASK, kl_coef=0.3, estimator=estimator)
    total = rewards.sum(1) + 0.3 * kl.sequence_kl(a, b, checks.MASK, estimator=estimator)
    assert torch.allclose(total, T([1.0, -2.0, 0.5]), atol=1e-5)


def test_a_row_without_tokens_is_refused():
    with pytest.raises(ValueError, match="1 of 2 rows"):
        kl.shape_rewards(torch.zeros(2), *[torch.zeros(2, 3)] * 2, T([[True] * 3, [False] * 3]), kl_coef=0.1)


def test_the_adaptive_controller_is_the_papers_formula_and_settles_at_its_target():
    controller = kl.AdaptiveKLController(0.2, target=6.0, horizon=10_000)
    controller.update(12.0, 256)
    assert controller.value == pytest.approx(0.2 * (1 + 0.2 * 256 / 10_000))
    for kl_now, error in ((6.6, 0.1), (5.4, -0.1), (0.0, -0.2)):
        controller = kl.AdaptiveKLController(0.2, target=6.0, horizon=1000)
        controller.update(kl_now, 100)
        assert controller.value == pytest.approx(0.2 * (1 + error * 100 / 1000))
    controller = kl.AdaptiveKLController(1.0, target=6.0, horizon=1000)
    for _ in range(3000):
        controller.update(3.0 / controller.value, 64)
    assert 3.0 / controller.value == pytest.approx(6.0, rel=0.2)
    state = kl.AdaptiveKLController(1.0, 6.0, 1000)
    state.load_state_dict(controller.state_dict())
    assert state.value == controller.value


# -- advantages ------------------------------------------------------------------------------------------------------------


def test_gae_is_the_double_sum():
    checks.gae_is_the_double_sum(advantages.gae)


def test_gae_at_lambda_one_is_the_monte_carlo_return():
    rewards, values = checks.ragged(6), checks.ragged(7)
    found, returns = advantages.gae(rewards, values.requires_grad_(), checks.MASK, gamma=1.0, lam=1.0)
    assert not found.requires_grad and not returns.requires_grad, "neither is a way for a loss to reach the critic"
    for i, row in enumerate(checks.rows(rewards)):
        for t in range(len(row)):
            assert returns[i, t].item() == pytest.approx(sum(row[t:]), abs=1e-5)


def test_gae_at_lambda_zero_is_the_one_step_error():
    rewards, values = checks.ragged(6), checks.ragged(7)
    found, _ = advantages.gae(rewards, values, checks.MASK, gamma=1.0, lam=0.0)
    for i, (r, v) in enumerate(zip(checks.rows(rewards), checks.rows(values), strict=True)):
        for t in range(len(r)):
            assert found[i, t].item() == pytest.approx(r[t] + (v[t + 1] if t + 1 < len(v) else 0) - v[t], abs=1e-5)


# -- losses ----------------------------------------------------------------------------------------------------------------


def test_a_clipped_ratio_has_no_gradient():
    checks.clipped_ratio_has_no_gradient(losses.policy_loss)


def test_the_value_is_clipped_around_the_old_value():
    checks.value_is_clipped_around_the_old_value(losses.value_loss)


def test_policy_gradient_at_ratio_one_is_reinforce():
    old = checks.ragged(8)
    new = old.clone().requires_grad_()
    adv = checks.ragged(9)
    loss, figures = losses.policy_loss(new, old, adv, checks.MASK, clip_range=0.2)
    loss.backward()
    n = int(checks.MASK.sum())
    assert torch.allclose(new.grad[checks.MASK], -adv[checks.MASK] / n, atol=1e-6)
    assert not new.grad[~checks.MASK].nan_to_num(7.0).any(), "nothing flows where the mask is False"
    assert (figures["clip_fraction"], figures["approx_kl"], figures["ratio_max"]) == (0.0, 0.0, 1.0)


def test_value_loss_without_clipping_is_half_the_mean_squared_error():
    v, r = checks.ragged(10), checks.ragged(11)
    expected = 0.5 * numpy.mean(
        [(a - b) ** 2 for x, y in zip(checks.rows(v), checks.rows(r), strict=True) for a, b in zip(x, y, strict=True)]
    )
    assert losses.value_loss(v, checks.ragged(12), r, checks.MASK, clip_range=None).item() == pytest.approx(
        expected, rel=1e-5
    )


def test_explained_variance_of_a_perfect_and_of_a_constant_value():
    r = checks.ragged(13)
    assert losses.explained_variance(r, r, checks.MASK).item() == pytest.approx(1.0)
    assert losses.explained_variance(torch.ones(3, 4), r, checks.MASK).item() == pytest.approx(0.0, abs=1e-6)
    assert losses.explained_variance(r, torch.ones(3, 4), checks.MASK).isnan(), "returns that do not vary explain nothing"


def test_the_figures_of_the_policy_loss_are_those_of_the_real_tokens():
    """Ratios 0.5, 1 and 2 with A = 1, 1, -1 at ε = 0.2: none is held; with A = -1, 1, 1 the outer two are."""
    new, mask = T([[math.log(0.5), 0.0, math.log(2.0), 9.0]]), T([[True, True, True, False]])
    for adv, held in (([1.0, 1.0, -1.0, 1.0], 0.0), ([-1.0, 1.0, 1.0, 1.0], 2 / 3)):
        _, figures = losses.policy_loss(new, torch.zeros(1, 4), T([adv]), mask, clip_range=0.2)
        assert figures["clip_fraction"].item() == pytest.approx(held) and figures["ratio_max"].item() == 2.0
        assert figures["approx_kl"].item() == pytest.approx((0.5 - 1 - math.log(0.5) + 2 - 1 - math.log(2)) / 3)
    # Where all became rarer, the ratio of 1 that padding has is not the largest.
    _, figures = losses.policy_loss(T([[math.log(0.5), 9.0]]), torch.zeros(1, 2), torch.ones(1, 2), T([[True, False]]), clip_range=0.2)
    assert figures["ratio_max"].item() == 0.5


def test_a_weight_that_reaches_the_cap_without_passing_it_is_not_held():
    same, mask = torch.full((1, 2), -1.0), torch.ones(1, 2, dtype=torch.bool)
    weights, figures = losses.importance_weights(same, same, mask, cap=1.0)
    assert weights.tolist() == [[1.0, 1.0]] and figures == {"sampler_kl": 0.0, "importance_capped": 0.0}
    assert all(type(x) is float for x in figures.values()), "they go into a file as they are"


# -- scores ----------------------------------------------------------------------------------------------------------------


def test_only_an_answer_without_end_pays_for_it():
    assert scores.missing_eos(T([1.0, 1.0]), T([True, False]), 0.7).tolist() == pytest.approx([1.0, 0.3])


def test_scores_are_clipped_on_both_sides_or_not_at_all():
    assert scores.clip_scores(T([-5.0, 0.5, 5.0]), 2.0).tolist() == [-2.0, 0.5, 2.0]
    assert scores.clip_scores(T([-5.0]), None).tolist() == [-5.0]


def test_running_moments_equal_numpy_on_the_concatenation_and_survive_a_resume():
    moments, seen = scores.RunningMoments(), []
    for seed in range(5):
        batch = torch.randn(3 + seed, generator=torch.Generator().manual_seed(seed)) * 3 + seed
        seen += batch.tolist()
        moments.update(batch)
        again = scores.RunningMoments()
        again.load_state_dict(moments.state_dict())
        moments = again
    assert (moments.mean, moments.std) == (pytest.approx(numpy.mean(seen)), pytest.approx(numpy.std(seen)))
    assert torch.allclose(moments.scale(T(seen)), (T(seen) - numpy.mean(seen)) / numpy.std(seen), atol=1e-5)


def test_scores_that_do_not_vary_are_only_centred():
    moments = scores.RunningMoments()
    assert moments.std == 1.0
    for _ in range(2):
        moments.update(T([3.0, 3.0]))
        assert moments.std == 1.0 and moments.scale(T([3.0, 4.0])).tolist() == [0.0, 1.0]


def test_identical_members_make_every_ensemble_the_single_one_and_an_outlier_moves_only_what_it_should():
    one = T([1.0, -2.0])
    for how in ("mean", "worst", "uncertainty"):
        assert combine_ensemble(one.repeat(3, 1), how=how, coef=1.0).tolist() == one.tolist()
    members = T([[1.0], [1.0], [-5.0]])
    assert combine_ensemble(members, how="worst", coef=1.0).item() == -5.0
    assert combine_ensemble(members, how="uncertainty", coef=0.5).item() == pytest.approx(-1.0 - 0.5 * 8.0)
    # Not one of the three in silence, should the config learn of another.
    with pytest.raises(ValueError, match="unknown way to combine 'median'"):
        combine_ensemble(members, how="median", coef=1.0)


def test_an_average_that_was_taken_up_leaves_the_checkpoint_as_it_was():
    kept = {"x": T([1.0, 2.0])}
    first = {"x": torch.zeros(2)}
    average = EMA(first, 0.5)
    average.update({"x": T([4.0, 4.0])})
    assert first["x"].tolist() == [0.0, 0.0] and average.state["x"].tolist() == [2.0, 2.0]
    average.load(kept)
    average.update({"x": T([3.0, 0.0])})
    assert kept["x"].tolist() == [1.0, 2.0] and average.state["x"].tolist() == [2.0, 1.0]


def test_the_average_has_its_closed_form_after_three_steps():
    ema = EMA({"w": T([0.0])}, 0.9)
    for x in (1.0, 2.0, 3.0):
        ema.update({"w": T([x])})
    assert ema.state["w"].item() == pytest.approx(0.1 * (0.81 * 1 + 0.9 * 2 + 3))
