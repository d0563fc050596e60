"""Each fault that RLHF code is known for, planted on purpose: the check that guards against it must fail.

The checks are the same functions that hold the real code in `test_arithmetic.py`, so a check that could not fail would show here.
"""

import checks
import pytest
import torch

from pipeline.ppo import advantages, kl, losses, masking


def kl_sign_flipped(scores, logprobs, ref_logprobs, mask, *, kl_coef, estimator="k1"):
    return kl.shape_rewards(scores, logprobs, ref_logprobs, mask, kl_coef=-kl_coef, estimator=estimator)


def reward_one_position_early(scores, logprobs, ref_logprobs, mask, *, kl_coef, estimator="k1"):
    return kl.shape_rewards(scores, logprobs, ref_logprobs, mask, kl_coef=kl_coef, estimator=estimator).roll(-1, dims=1)


def reward_one_position_late(scores, logprobs, ref_logprobs, mask, *, kl_coef, estimator="k1"):
    return kl.shape_rewards(scores, logprobs, ref_logprobs, mask, kl_coef=kl_coef, estimator=estimator).roll(1, dims=1)


def lambda_ignored(rewards, values, mask, *, gamma, lam):
    return advantages.gae(rewards, values, mask, gamma=gamma, lam=1.0)


def value_after_the_end_counts(rewards, values, mask, *, gamma, lam):
    return advantages.gae(
        rewards, torch.where(mask, values, torch.ones_like(values)), torch.ones_like(mask), gamma=gamma, lam=lam
    )


def whitening_without_the_mask(x, mask, *, shift_mean=True):
    return masking.masked_whiten(x, torch.ones_like(mask), shift_mean=shift_mean)


def whitening_shifts_the_mean_inverted(x, mask, *, shift_mean=True):
    return masking.masked_whiten(x, mask, shift_mean=not shift_mean)


def unclipped_ratio(logprobs, old_logprobs, advantages, mask, *, clip_range):
    return losses.policy_loss(logprobs, old_logprobs, advantages, mask, clip_range=1e6)


def ratio_clipped_on_the_wrong_side(logprobs, old_logprobs, advantages, mask, *, clip_range):
    ratio = (logprobs - old_logprobs).exp()
    return torch.minimum(-advantages * ratio, -advantages * ratio.clamp(1 - clip_range, 1 + clip_range)).mean(), {}


def value_clipped_around_the_return(values, old_values, returns, mask, *, clip_range):
    return losses.value_loss(values, returns, returns, mask, clip_range=clip_range)


def value_not_clipped(values, old_values, returns, mask, *, clip_range):
    return losses.value_loss(values, old_values, returns, mask, clip_range=None)


def mask_one_short_of_eos(lengths):
    return torch.nn.functional.pad(masking.response_mask(lengths)[:, 1:], (0, 1))


def mask_one_past_eos(lengths):
    full = masking.response_mask(lengths)
    return full | full.roll(1, dims=1)


FAULTS = [
    (kl_sign_flipped, checks.penalty_lowers_the_reward_of_a_token_the_reference_dislikes),
    (reward_one_position_early, checks.score_stands_on_the_last_real_token),
    (reward_one_position_late, checks.score_stands_on_the_last_real_token),
    (lambda_ignored, checks.gae_is_the_double_sum),
    (value_after_the_end_counts, checks.gae_is_the_double_sum),
    (whitening_without_the_mask, checks.whitening_sees_real_tokens_only),
    (whitening_shifts_the_mean_inverted, checks.whitening_sees_real_tokens_only),
    (unclipped_ratio, checks.clipped_ratio_has_no_gradient),
    (ratio_clipped_on_the_wrong_side, checks.clipped_ratio_has_no_gradient),
    (value_clipped_around_the_return, checks.value_is_clipped_around_the_old_value),
    (value_not_clipped, checks.value_is_clipped_around_the_old_value),
    (mask_one_short_of_eos, checks.mask_ends_with_eos),
    (mask_one_past_eos, checks.mask_ends_with_eos),
]


@pytest.mark.parametrize(("fault", "check"), FAULTS, ids=[f.__name__ for f, _ in FAULTS])
def test_the_fault_is_caught(fault, check):
    with pytest.raises((AssertionError, ValueError)):
        check(fault)
