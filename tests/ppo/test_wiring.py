"""What the trainer does with the pure functions: one update held against a slow one, written from the papers with loops and floats.

The rollout is doctored so that nothing hides: the policy differs from the old one (ratios are not 1, some are clipped), from the
reference (KL is not 0), and the values from the returns.
"""

import json
import math
import statistics
from dataclasses import replace

import pytest
import torch
from test_trainer import PROMPTS, SETTINGS, make_ppo, rollout_of  # noqa: F401

from pipeline.adapters import POLICY, REWARD, VALUE
from pipeline.config import PpoConfig
from pipeline.ppo import trainer
from pipeline.ppo.kl import AdaptiveKLController
from pipeline.roles import RewardModel
from pipeline.stages.ppo import _value_head
from reward.model import ScalarHead
from reward.scale import Scale

ONE_STEP = {"episodes": 6, "minibatch": 6, "micro_batch": 3, "epochs": 1, "max_grad_norm": 1e9, "updates": 4}
DEMONSTRATION = ((30, 31, 32, 33, 34, 35, 2), 3)


def doctored(ppo):
    """The trainer's own rollout with other numbers in it, which the trainer is then given in place of its own."""
    rollout = rollout_of(ppo)
    generator = torch.Generator().manual_seed(7)

    def noise(scale):
        return scale * torch.randn(rollout.mask.shape, generator=generator)

    finished = rollout.finished.clone()
    finished[0], finished[1] = True, False
    changed = replace(
        rollout,
        logprobs=rollout.logprobs + noise(0.3),
        ref_logprobs=rollout.ref_logprobs + noise(0.5),
        values=rollout.values + noise(0.4),
        scores=torch.tensor([3.0, -2.0, 0.5, 8.0, -1.0, 0.0]),
        finished=finished,
    )
    ppo._collect = lambda micro_batch: changed
    return changed


def gradients(ppo):
    """What reaches the optimisers in one update, which then change nothing."""
    caught = {}

    def catch(name, parameters):
        def step():
            caught[name] = torch.cat([p.grad.flatten().clone() for p in parameters])

        return step

    ppo.policy_optimizer.step = catch("policy", ppo.policy)
    ppo.value_optimizer.step = catch("value", ppo.value)
    figures, _ = ppo.update()
    return caught["policy"], caught["value"], figures


def slow(ppo, rollout, beta):
    """The same update, one number at a time."""
    s = ppo.settings
    lengths = [int(row.sum()) for row in rollout.mask]
    raw = rollout.scores.tolist()
    if s.score_scaling:
        mean, std = statistics.fmean(raw), statistics.pstdev(raw)
        raw = [(x - mean) / std for x in raw]
    if s.score_clip is not None:
        raw = [max(-s.score_clip, min(s.score_clip, x)) for x in raw]
    scores = [x if done else x - s.missing_eos_penalty for x, done in zip(raw, rollout.finished.tolist(), strict=True)]
    rewards, kls = [], []
    for i, n in enumerate(lengths):
        gaps = [float(rollout.logprobs[i, t] - rollout.ref_logprobs[i, t]) for t in range(n)]
        kls.append(sum(gaps))
        paid = [-beta * (d if s.kl_estimator == "k1" else math.exp(-d) - 1 + d) for d in gaps]
        paid[-1] += scores[i]
        rewards.append(paid)
    if s.whiten_rewards:
        every = [x for row in rewards for x in row]
        mean, std = statistics.fmean(every), math.sqrt(statistics.pvariance(every) + 1e-8)
        rewards = [[(x - mean) / std + mean for x in row] for row in rewards]
    advantages, returns = [], []
    for i, row in enumerate(rewards):
        values = [float(v) for v in rollout.values[i, : len(row)]]
        after, running, own = 0.0, 0.0, []
        for t in reversed(range(len(row))):
            running = row[t] + s.gamma * after - values[t] + s.gamma * s.lam * running
            after = values[t]
            own.insert(0, running)
        advantages.append(own)
        returns.append([a + v for a, v in zip(own, values, strict=True)])
    if s.whiten_advantages:
        every = [x for row in advantages for x in row]
        mean, std = statistics.fmean(every), math.sqrt(statistics.pvariance(every) + 1e-8)
        advantages = [[(x - mean) / std for x in row] for row in advantages]
    tokens = sum(lengths)
    policy, value, entropy = 0.0, 0.0, 0.0
    for i, answer in enumerate(rollout.answers):
        start = len(PROMPTS[i].ids)
        states, _ = ppo.base.encode([answer.ids], POLICY)
        dist = (states[0] @ ppo.base.lm_head.weight.T / s.temperature).log_softmax(-1)
        critic = ppo.value_head(ppo.base.encode([answer.ids], VALUE)[0][0])
        for t in range(lengths[i]):
            before, token = start + t - 1, answer.ids[start + t]
            ratio = (dist[before, token] - float(rollout.logprobs[i, t])).exp()
            a = advantages[i][t]
            policy = policy + torch.maximum(-a * ratio, -a * ratio.clamp(1 - s.clip_range, 1 + s.clip_range))
            old, goal, v = float(rollout.values[i, t]), returns[i][t], critic[before]
            worst = (v - goal) ** 2
            if s.value_clip_range is not None:
                near = torch.clamp(v, old - s.value_clip_range, old + s.value_clip_range)
                worst = torch.maximum(worst, (near - goal) ** 2)
            value = value + 0.5 * worst
            entropy = entropy - (dist[before].exp() * dist[before]).sum()
    total = policy / tokens - s.entropy_coef * entropy / tokens
    if s.ptx_coef > 0:
        ids, prompt = DEMONSTRATION
        dist = (ppo.base.encode([ids], POLICY)[0][0] @ ppo.base.lm_head.weight.T).log_softmax(-1)
        told = sum(dist[t - 1, ids[t]] for t in range(prompt, len(ids)))
        total = total - s.ptx_coef * told / (len(ids) - prompt)
    return total, s.value_coef * value / tokens, statistics.fmean(kls)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"kl_coef": 0.5},
        {"kl_coef": 0.5, "kl_estimator": "k3"},
        {"whiten_rewards": True},
        {"whiten_advantages": False},
        {"lam": 0.3, "gamma": 0.8},
        {"clip_range": 0.05},
        {"clip_range": 0.6},
        {"value_clip_range": None},
        {"value_clip_range": 0.05},
        {"value_coef": 0.7},
        {"entropy_coef": 0.5},
        {"score_scaling": True, "score_clip": 0.7},
        {"score_clip": 1.0},
        {"missing_eos_penalty": 4.0},
        {"ptx_coef": 0.5},
        {"old_logprobs": "generation"},
    ],
    ids=str,
)
def test_the_gradient_of_an_update_is_that_of_the_slow_one(make_ppo, options):  # noqa: F811
    ppo = make_ppo(demonstrations=[DEMONSTRATION] if "ptx_coef" in options else (), **{**ONE_STEP, **options})
    rollout = doctored(ppo)
    policy, value, kl = slow(ppo, rollout, ppo.settings.kl_coef)
    expected_policy = torch.cat([g.flatten() for g in torch.autograd.grad(policy, ppo.policy)])
    expected_value = torch.cat([g.flatten() for g in torch.autograd.grad(value, ppo.value)])
    found_policy, found_value, figures = gradients(ppo)
    for expected, found in ((expected_policy, found_policy), (expected_value, found_value)):
        assert expected.abs().max() > 1e-3
        assert torch.allclose(found, expected, rtol=1e-3, atol=2e-5 * float(expected.abs().max()) + 1e-6)
    assert figures["kl"] == pytest.approx(kl, abs=1e-4)
    # What the log calls losses are these alone, without their coefficients and what else the policy learns from.
    assert figures["value_loss"] == pytest.approx(value.item() / ppo.settings.value_coef, rel=1e-3)
    if not options.keys() & {"entropy_coef", "ptx_coef"}:
        assert figures["policy_loss"] == pytest.approx(policy.item(), rel=1e-3, abs=1e-5)
    if "ptx_coef" in options:
        ids, prompt = DEMONSTRATION
        with torch.no_grad():
            dist = (ppo.base.encode([ids], POLICY)[0][0] @ ppo.base.lm_head.weight.T).log_softmax(-1)
        told = statistics.fmean(float(dist[t - 1, ids[t]]) for t in range(prompt, len(ids)))
        assert figures["ptx_loss"] == pytest.approx(-told, rel=1e-4)
    lengths = rollout.mask.sum(1).tolist()
    if not options.keys() & {"score_scaling", "score_clip"} and options.get("kl_estimator") != "k3":
        # Score less the missing end's price, less β nats: in reward units, however the rewards are whitened afterwards.
        scores = [s - ppo.settings.missing_eos_penalty * (not end) for s, end in zip(rollout.scores.tolist(), rollout.finished.tolist(), strict=True)]
        assert figures["reward_total"] == pytest.approx(statistics.fmean(scores) - ppo.settings.kl_coef * kl, abs=1e-4)
    assert sorted(set(lengths)) == [1, 2, 4, 7, 9, 10] and figures["response_tokens"] == pytest.approx(statistics.fmean(lengths))


def test_the_figures_of_an_update_are_those_of_its_rollout(make_ppo):  # noqa: F811
    """With γ = λ = 1 and β = 0 every token's return is its answer's score."""
    free = {"kl_coef": 0.0, "gamma": 1.0, "lam": 1.0, "missing_eos_penalty": 0.0, "score_clip": None}
    ppo = make_ppo(**{**ONE_STEP, **free, "micro_batch": 2})
    drawn = rollout_of(ppo)
    rollout = doctored(ppo)
    _, _, figures = gradients(ppo)
    scores, lengths = rollout.scores.tolist(), rollout.mask.sum(1).tolist()
    assert figures["score_std"] == pytest.approx(statistics.pstdev(scores))
    assert figures["eos_rate"] == pytest.approx(statistics.fmean(map(float, rollout.finished)))
    values = [rollout.values[i, :n].tolist() for i, n in enumerate(lengths)]
    wrong = [s - v for s, row in zip(scores, values, strict=True) for v in row]
    returns = [s for s, n in zip(scores, lengths, strict=True) for _ in range(n)]
    explained = 1 - statistics.pvariance(wrong) / statistics.pvariance(returns)
    assert figures["explained_variance"] == pytest.approx(explained, abs=1e-4)
    ratios = (drawn.logprobs - rollout.logprobs)[rollout.mask].exp().tolist()
    assert figures["ratio_max"] == figures["first_ratio_max"] == pytest.approx(max(ratios), rel=1e-3)
    assert figures["approx_kl"] == pytest.approx(statistics.fmean(r - 1 - math.log(r) for r in ratios), rel=1e-2)
    assert figures["sampler_gap"] == rollout.sampler_gap and "kl_target" not in figures
    assert json.loads(json.dumps(figures)) == figures, "they go into a file as they are"


def test_the_figures_of_several_minibatches_are_their_means_and_the_largest_ratio():
    taken = [{"policy_loss": 1.0, "ratio_max": 3.0}, {"policy_loss": 2.0, "ratio_max": 7.0}, {"policy_loss": 6.0, "ratio_max": 5.0}]
    expected = {"policy_loss": 3.0, "ratio_max": 7.0, "first_ratio_max": 3.0, "minibatches": 3}
    assert trainer._summary(taken) == expected


def test_the_entropy_is_the_mean_over_the_tokens_that_there_are(make_ppo):  # noqa: F811
    ppo = make_ppo()
    rollout, each = rollout_of(ppo), []
    for prompt, answer in zip(PROMPTS, rollout.answers, strict=True):
        with torch.no_grad():
            dist = (ppo.base.encode([answer.ids], POLICY)[0][0] @ ppo.base.lm_head.weight.T / ppo.settings.temperature).log_softmax(-1)
        each += [-float((row.exp() * row).sum()) for row in dist[len(prompt.ids) - 1 : -1]]
    assert len(each) == int(rollout.mask.sum()) < rollout.mask.numel()
    assert rollout.entropy == pytest.approx(statistics.fmean(each), rel=1e-4)


def test_every_answer_is_learnt_from_once_an_epoch_in_another_order(make_ppo):  # noqa: F811
    ppo = make_ppo(episodes=6, minibatch=3, micro_batch=3, epochs=3)
    seen, real = [], ppo._minibatch

    def spy(rollout, advantages, returns, rows, rng):
        seen.append(list(rows))
        assert (
            not advantages[rollout.mask].mean().abs() > 1e-5
            and abs(float(advantages[rollout.mask].var(correction=0)) - 1) < 1e-4
        )
        return real(rollout, advantages, returns, rows, rng)

    ppo._minibatch = spy
    assert ppo.update()[0]["minibatches"] == 6
    epochs = [seen[i] + seen[i + 1] for i in (0, 2, 4)]
    assert all(sorted(epoch) == list(range(6)) for epoch in epochs) and len({tuple(e) for e in epochs}) > 1
    # And in another one in the next update.
    ppo.update()
    assert seen[:6] != seen[6:] and sorted(map(sorted, seen[6:8])) != sorted(map(sorted, seen[:2]))


@pytest.mark.parametrize(("limit", "minibatches"), [(1e-9, 2), (1e9, 6)])
def test_early_stop_ends_the_epochs_after_the_step_that_went_too_far(make_ppo, limit, minibatches):  # noqa: F811
    # The first step is taken at ratio 1, where no distance can be seen yet.
    ppo = make_ppo(episodes=6, minibatch=3, micro_batch=3, epochs=3, early_stop_kl=limit)
    assert ppo.update()[0]["minibatches"] == minibatches


def test_early_stop_is_in_nats_a_sequence(make_ppo):  # noqa: F811
    figures, rollout = make_ppo(episodes=6, minibatch=6, micro_batch=6, epochs=2).update()
    tokens = int(rollout.mask.sum())
    assert figures["sequence_kl_step"] == pytest.approx(figures["approx_kl"] * tokens / 6, rel=1e-5)


def test_the_adaptive_coefficient_follows_the_kl_over_the_updates_episodes(make_ppo):  # noqa: F811
    ppo = make_ppo(**{**ONE_STEP, "kl_target": 0.5, "kl_horizon": 100, "kl_coef": 0.2})
    rollout = doctored(ppo)
    # A tenth above the target, where the error is not yet held at a fifth: each answer's nats are 0.55, however long it is.
    lengths = rollout.mask.sum(1, keepdim=True)
    changed = replace(rollout, ref_logprobs=torch.where(rollout.mask, rollout.logprobs - 0.55 / lengths, rollout.ref_logprobs))
    ppo._collect = lambda micro_batch: changed
    figures, _ = ppo.update()
    assert figures["kl"] == pytest.approx(0.55, abs=1e-5)
    assert ppo.controller.value == pytest.approx(0.2 * (1 + 0.1 * 6 / 100), abs=1e-6)
    assert figures["kl_coef"] == 0.2 and figures["kl_target"] == 0.5 and isinstance(ppo.controller, AdaptiveKLController)


def test_the_rate_falls_linearly_and_adam_has_the_settings_epsilon(make_ppo):  # noqa: F811
    ppo = make_ppo(updates=4, adam_eps=3e-4, learning_rate=4e-3, value_learning_rate=8e-3)
    assert {g["eps"] for o in (ppo.policy_optimizer, ppo.value_optimizer) for g in o.param_groups} == {3e-4}
    rates = []
    for number in range(4):
        figures, rollout = ppo.update()
        rates.append([o.param_groups[0]["lr"] for o in (ppo.policy_optimizer, ppo.value_optimizer)])
        # What the log says of an update that is not the first.
        assert (figures["update"], figures["episodes"], figures["learning_rate"]) == (number, 8 * (number + 1), rates[-1][0])
        assert (figures["score"], figures["entropy"]) == (pytest.approx(statistics.fmean(rollout.scores.tolist())), rollout.entropy)
        assert figures["micro_batch"] == 2 and 0 < figures["rollout_seconds"] < figures["seconds"]
    assert rates == [pytest.approx((4e-3 * k, 8e-3 * k)) for k in (1, 0.75, 0.5, 0.25)]
    steady = make_ppo(lr_decay=False)
    steady.done = 3
    steady.update()
    assert steady.policy_optimizer.param_groups[0]["lr"] == SETTINGS["learning_rate"]


def test_gradients_are_scaled_down_to_the_norm_of_the_settings(make_ppo):  # noqa: F811
    ppo = make_ppo(**{**ONE_STEP, "max_grad_norm": 1e-3})
    doctored(ppo)
    policy, value, figures = gradients(ppo)
    assert policy.norm().item() == pytest.approx(1e-3, rel=1e-3) and value.norm().item() == pytest.approx(
        1e-3, rel=1e-3
    )
    # What is reported is the norm before.
    assert figures["grad_norm"] > 1e-2


def test_the_average_moves_once_an_update(make_ppo):  # noqa: F811
    ppo = make_ppo(ema_decay=0.9)
    expected = ppo.base.state(POLICY)
    for _ in range(2):
        ppo.update()
        now = ppo.base.state(POLICY)
        expected = {n: 0.9 * t + 0.1 * now[n] for n, t in expected.items()}
    assert all(torch.allclose(t, ppo.ema.state[n], atol=1e-6) for n, t in expected.items())


def test_logprobs_kept_from_generation_spare_a_reading_and_are_the_same(make_ppo):  # noqa: F811
    read = {}
    for way in ("recompute", "generation"):
        ppo = make_ppo(old_logprobs=way)
        states, roles = ppo.base.states, []
        ppo.base.states = lambda trunk, mask, role, states=states, roles=roles: (
            roles.append(role),
            states(trunk, mask, role),
        )[1]
        rollout = rollout_of(ppo)
        read[way] = (roles.count(POLICY), rollout)
    assert read["recompute"][0] > 0 and read["generation"][0] == 0
    again, kept = read["recompute"][1], read["generation"][1]
    assert again.sampler_gap == max((again.generated - again.logprobs)[again.mask].abs().tolist()) > 0
    assert torch.allclose(again.logprobs[again.mask], kept.logprobs[kept.mask], atol=1e-3) and kept.sampler_gap is None
    assert kept.entropy == pytest.approx(-float(kept.logprobs[kept.mask].mean()), rel=1e-5)


def test_tokens_after_the_end_change_nothing(make_ppo):  # noqa: F811
    figures = []
    for garbage in (False, True):
        ppo = make_ppo(**ONE_STEP)
        rollout = doctored(ppo)
        assert not rollout.mask.all()
        if garbage:
            after = ~rollout.mask
            fake = {
                n: torch.where(after, torch.full_like(getattr(rollout, n), 77.0), getattr(rollout, n))
                for n in ("logprobs", "ref_logprobs", "values")
            }
            tokens = torch.where(after, torch.randint(5, 90, after.shape), rollout.tokens)
            changed = replace(rollout, tokens=tokens, **fake)
            ppo._collect = lambda micro_batch, changed=changed: changed
        policy, value, seen = gradients(ppo)
        figures.append((policy, value, {n: x for n, x in seen.items() if "seconds" not in n}))
    assert torch.equal(figures[0][0], figures[1][0]) and torch.equal(figures[0][1], figures[1][1])
    assert figures[0][2] == figures[1][2]


def test_the_value_model_starts_as_the_scaled_reward(make_base):
    base = make_base(REWARD)
    reward_model = RewardModel(base, ScalarHead(base.hidden_size), Scale(0.7, 2.5))
    texts = [[5, 6, 7, 8], [9, 10]]
    states, lengths = base.encode(texts, REWARD)
    last = states[torch.arange(2), lengths - 1]
    assert torch.allclose(_value_head(reward_model)(last), reward_model.score(texts), atol=1e-5)


def test_out_of_memory_while_drawing_draws_the_same_prompts_fewer_at_a_time(make_ppo, monkeypatch):  # noqa: F811
    import pipeline.rollouts.engine as module

    real, sizes = module.sample, []

    def little_memory(model, prompts, sampling, *, batch_size, **kwargs):
        sizes.append(batch_size)
        drawn = real(model, prompts, sampling, batch_size=batch_size, **kwargs)
        if batch_size > 3:
            # After some chance was used up, which must come again.
            raise RuntimeError("out of memory")
        return drawn

    expected = make_ppo(rollout={"batch": 2}).update()[1].answers
    monkeypatch.setattr(module, "sample", little_memory)
    # Room was allowed for more than an update draws: the first pass that is halved is one of eight, not the same eight again.
    ppo = make_ppo(rollout={"batch": 64})
    assert ppo.update()[1].answers == expected
    assert sizes == [8, 4, 2] and ppo.at_once.size == 2 and ppo.micro_batch.size == SETTINGS["micro_batch"]
    tensors, facts = ppo.state()
    again = make_ppo()
    again.load_state(tensors, facts)
    assert again.at_once.size == 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"kl_target": 2.0, "kl_coef": 0.0}, "a factor of 0 stays 0"),
        ({"kl_target": 2.0, "kl_horizon": 5}, "kl_horizon"),
    ],
)
def test_a_controller_that_could_not_steer_is_refused(options, said):
    with pytest.raises(ValueError, match=said):
        PpoConfig(**options)
