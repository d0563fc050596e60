"""Everything follows the base's device. Held on a pretended card (tests/pretend.py), since there is none where the tests run."""

import pytest
import torch
from pretend import CUDA, Pretend, WrongPlace, generators

from data.errors import UserError
from data.records import Demonstration, Message, Prompt
from pipeline import checkpoint
from pipeline.adapters import POLICY, REFERENCE, REWARD, VALUE
from pipeline.config import ModelConfig, PpoConfig, RewardConfig
from pipeline.generation import Sampling, sample
from pipeline.models import choose_device, load
from pipeline.ppo.rollout import PromptIds
from pipeline.ppo.trainer import PPO
from pipeline.roles import RewardModel
from reward.model import ScalarHead
from reward.scale import Scale
from reward.train import EncodedRanking, train

PROMPTS = [
    PromptIds(Prompt(f"p{i}", (Message("user", f"question {i}"),)), tuple(range(20 + i, 25 + 2 * i))) for i in range(6)
]
SETTINGS = PpoConfig(
    updates=2, episodes=4, minibatch=4, micro_batch=2, epochs=1, max_new_tokens=6, ema_decay=0.5, entropy_coef=0.01, ptx_coef=0.1,
    score_scaling=True, whiten_rewards=True, score_clip=3.0,
)  # fmt: skip


@pytest.fixture
def card(monkeypatch):
    """Torch as on a machine with one GPU, and which devices generators were made for."""
    mode = Pretend()
    mode.asked = generators(monkeypatch)
    with mode:
        yield mode


@pytest.fixture
def on_card(make_base, card):
    def make(*roles):
        base = make_base(*roles)
        card.put(base.causal_lm)
        base.device = CUDA
        card.asked.clear()
        return base

    return make


def trainer(base):
    head, reward_head = ScalarHead(base.hidden_size).to(base.device), ScalarHead(base.hidden_size).to(base.device)
    model = RewardModel(base, reward_head.requires_grad_(False), Scale())
    return PPO(
        base, head, PROMPTS, SETTINGS, lambda answers, encode: model.score([a.ids for a in answers], encode).detach(), seed=0,
        demonstrations=[(tuple(range(20, 32)), 5)],
    )  # fmt: skip


def test_the_pretended_card_refuses_what_a_card_refuses(card):
    here, there = torch.arange(3), torch.arange(3, device="cuda")
    assert there.device == CUDA and (there + 1).device == CUDA and there.cpu().device.type == "cpu"
    with pytest.raises(WrongPlace):
        here + there
    with pytest.raises(WrongPlace):
        torch.cat([here, there])
    with pytest.raises(WrongPlace):
        there.numpy()
    assert there[here].device == CUDA and float(there.sum()) == 3.0


def test_ppo_stays_on_the_bases_device_and_comes_back_from_a_checkpoint(on_card, card, tmp_path):
    roles = (POLICY, REFERENCE, REWARD, VALUE)
    ppo = trainer(on_card(*roles))
    _, rollout = ppo.update()
    assert all(
        card.place(t) == CUDA for t in (rollout.trunk, rollout.logprobs, rollout.values, rollout.scores, rollout.mask)
    )
    assert set(card.asked) == {"cuda"}
    tensors, facts = ppo.state()
    checkpoint.save(tmp_path, 1, tensors, facts)
    found = checkpoint.newest(tmp_path)
    card.put_down(found[0].values())
    again = trainer(on_card(*roles))
    again.load_state(*found)
    again.update()
    assert again.done == 2


def test_the_reward_model_trains_and_scores_on_the_bases_device(on_card, card, tmp_path):
    base = on_card(REWARD)
    head = ScalarHead(base.hidden_size).to(base.device)
    rankings = [EncodedRanking((5 + i, 6, 7), ((8, 9), (10, 11, 12), (13,)), ((0, 1), (0, 2)), 0) for i in range(4)]
    seen = []

    def on_step(figures, state):
        seen.append(figures["loss"])
        found = {name: tensor.clone() for name, tensor in state().items()}
        card.put_down(found.values())
        seen.append(found)

    settings = RewardConfig(lists_per_step=2, micro_lists=1)
    train(
        lambda lists: base.encode_lists(lists, REWARD),
        head,
        base.parameters(REWARD),
        rankings,
        settings,
        seed=0,
        on_step=on_step,
    )
    assert len(seen) == 4
    train(
        lambda lists: base.encode_lists(lists, REWARD), head, base.parameters(REWARD), rankings, settings, seed=0,
        resume=(seen[1], 1),
    )  # fmt: skip
    RewardModel(base, head.requires_grad_(False), Scale()).save(tmp_path)
    model = RewardModel.open(on_card(), tmp_path)
    assert len(model.score_all([[5, 6, 7], [8, 9]])) == 2 and len(model.score_lists([((5, 6), ((7,), (8, 9)))])) == 1


def test_answers_and_evaluation_stay_on_the_bases_device(on_card, card, namespace):
    from pipeline.evaluation.scoring import response_nll

    base = on_card(POLICY)
    with base.acting_as(POLICY):
        drawn = sample(base.causal_lm, [[5, 6, 7], [8]], Sampling(8, 0.8, 0.9, 20, seed=1), eos_id=2, pad_id=3)
    assert len(drawn) == 2 and card.asked == ["cuda"]
    demonstration = Demonstration("d", (Message("user", "why"),), "because")
    losses, _ = response_nll(base, POLICY, [demonstration], namespace(model=namespace(system_prompt=None)))
    assert all(loss > 0 for loss in losses)


def test_an_adapter_from_a_file_lands_where_the_base_is(on_card, tmp_path):
    base = on_card(POLICY)
    base.save(POLICY, tmp_path)
    other = on_card()
    other.load(POLICY, tmp_path, trainable=False)
    assert all(torch.equal(a, b) for a, b in zip(base.parameters(POLICY), other.parameters(POLICY), strict=True))


def test_a_gpu_that_is_not_there_is_said_at_once(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="model.device: cuda, but torch .* sees no GPU"):
        load(ModelConfig(name="tiny-random", device="cuda"))
    assert choose_device("auto").type == choose_device("cpu").type == "cpu"


def test_where_a_run_computes_is_no_part_of_what_it_is(tmp_path):
    from pipeline.config import load_config

    file = tmp_path / "c.yaml"
    file.write_text("data: {demonstrations: d.jsonl, rankings: r.jsonl, heldout_prompts: h.jsonl}\n")
    keys = ("seed", "model", "lora")
    assert load_config(file).subset(keys) == load_config(file, ["model.device=cpu"]).subset(keys)
    assert load_config(file).subset(keys) != load_config(file, ["model.dtype=float32"]).subset(keys)
