"""Engines that draw in this process, in the hands of PPO."""

import pytest
import torch

from data.records import Message, Prompt
from pipeline.adapters import POLICY, REFERENCE, REWARD, VALUE
from pipeline.config import PpoConfig, RolloutConfig
from pipeline.ppo.rollout import PromptIds
from pipeline.ppo.trainer import PPO
from pipeline.rollouts.continuous import ContinuousEngine
from pipeline.rollouts.engine import open_engine
from pipeline.rollouts.static import StaticEngine
from reward.model import ScalarHead, score

PROMPTS = [(5, 6, 7, 8, 9, 10, 11), (12,), (13, 14, 15), (20, 21, 22, 23)]


@pytest.mark.parametrize(("name", "kind"), [("static", StaticEngine), ("continuous", ContinuousEngine)])
def test_a_rollout_is_one_of_the_policy_as_it_is(make_base, name, kind):
    base = make_base(POLICY)
    base.add(REFERENCE, trainable=False, like=POLICY)
    base.add(REWARD, trainable=False)
    base.add(VALUE, trainable=True, like=REWARD)
    prompts = [PromptIds(Prompt(f"p{i}", (Message("user", str(i)),)), ids) for i, ids in enumerate(PROMPTS)]
    torch.manual_seed(0)
    head = ScalarHead(base.hidden_size).requires_grad_(False)
    settings = PpoConfig(
        updates=3, episodes=8, minibatch=8, micro_batch=4, epochs=1, max_new_tokens=9, temperature=1.3, learning_rate=1e-2,
        rollout=RolloutConfig(engine=name, batch=3),
    )  # fmt: skip
    engine = open_engine(settings.rollout, longest=64)
    assert isinstance(engine, kind)
    ppo = PPO(
        base, ScalarHead(base.hidden_size), prompts, settings, lambda answers, encode: score(encode, head, [a.ids for a in answers]).detach(),
        seed=0, engine=engine,
    )  # fmt: skip
    for _ in range(3):
        # The policy as it is after every update: another adapter would be nats away.
        figures, _ = ppo.update()
        # Nothing of another program's is weighed, or refused for its distance.
        assert figures["sampler_gap"] < 1e-3 and "sampler_kl" not in figures
    assert not getattr(engine, "refused", None)
