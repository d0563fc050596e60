"""PPO held against the known optimum, and two faults that only the whole loop can show."""

import pytest
import torch
import toy

from pipeline.ppo import kl


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("seed", toy.SEEDS)
@pytest.mark.parametrize("beta", toy.BETAS)
def test_ppo_reaches_the_optimum_at_the_right_distance(beta, seed):
    j, distance, best, best_distance = toy.train(beta, seed)
    assert j / best >= 0.97
    assert distance == pytest.approx(best_distance, rel=0.05)


def test_the_optimum_is_above_every_policy_that_is_tried():
    reference = toy.network(toy.TOKENS, seed=100, spread=6.0)
    best, _ = toy.optimum(reference, 0.3)
    for seed in range(5):
        assert toy.exact(toy.network(toy.TOKENS, seed, 6.0), reference, 0.3)[0] < best
    assert toy.exact(reference, reference, 0.3)[1] == pytest.approx(0.0, abs=1e-6)


def shares(parts):
    j, distance, best, best_distance = toy.train(0.3, 0, parts, updates=60)
    return j / best, distance / best_distance


def test_a_flipped_kl_sign_runs_away_from_the_reference():
    class Flipped(toy.Parts):
        @staticmethod
        def shape_rewards(*args, kl_coef, **kwargs):
            return kl.shape_rewards(*args, kl_coef=-kl_coef, **kwargs)

    share, distance = shares(Flipped)
    assert share < 0.9 and distance > 2


def test_a_reward_one_position_late_teaches_nothing():
    class Late(toy.Parts):
        @staticmethod
        def shape_rewards(scores, *args, **kwargs):
            rewards = kl.shape_rewards(scores, *args, **kwargs)
            # One past the end of the response, where nothing is learnt from it.
            rewards[:, -1] -= scores
            return rewards

    assert shares(Late)[0] < 0.9


def test_the_right_parts_do_well_in_as_few_updates():
    share, distance = shares(toy.Parts)
    assert share > 0.95 and 0.8 < distance < 1.2
