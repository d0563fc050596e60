"""Rollout and trainer on a tiny model: what must be exact at the start, and exact after a resume."""

import itertools
from types import SimpleNamespace

import pytest
import torch

from data.errors import UserError
from data.records import Message, Prompt
from pipeline import checkpoint
from pipeline.adapters import POLICY, REFERENCE, REWARD, VALUE
from pipeline.config import PpoConfig
from pipeline.generation import Sample
from pipeline.memory import MicroBatch
from pipeline.ppo.rollout import PromptIds, collect
from pipeline.ppo.trainer import PPO
from pipeline.rollouts.engine import InProcess
from pipeline.stages.watching import check_room
from reward.model import ScalarHead, score

PROMPTS = [
    PromptIds(Prompt(f"p{i}", (Message("user", f"question {i}"),)), tuple(range(20 + i, 25 + 2 * i))) for i in range(6)
]
SETTINGS = {
    "updates": 4, "episodes": 8, "minibatch": 4, "micro_batch": 2, "epochs": 2, "max_new_tokens": 10, "temperature": 1.3,
    "learning_rate": 3e-3, "value_learning_rate": 3e-3,
}  # fmt: skip

# For the pretraining mix: ids and how many of them ask.
TEXTS = [(tuple(range(30 + 20 * i, 40 + 21 * i)), 3 + i) for i in range(5)]


class Uneven(InProcess):
    """Answers of very unlike lengths. The tiny model hardly ever ends one by itself: without this no row has anything behind its end, and
    whatever is wrong there would show nowhere."""

    LENGTHS = (10, 1, 4, 7, 2, 9)

    def sample(self, *args, **kwargs):
        drawn = super().sample(*args, **kwargs)
        lengths = itertools.cycle(self.LENGTHS)
        return [Sample(s.ids[:n], s.logprobs[:n], s.finished and len(s.ids) <= n) for s, n in zip(drawn, lengths, strict=False)]


@pytest.fixture
def make_ppo(make_base):
    def make(seed=0, demonstrations=(), engine=None, **changes) -> PPO:
        torch.manual_seed(5)
        base = make_base(POLICY)
        base.add(REFERENCE, trainable=False, like=POLICY)
        base.add(REWARD, trainable=False)
        for p in base.parameters(REWARD):
            p.data.normal_(std=0.2, generator=torch.Generator().manual_seed(3))
        base.add(VALUE, trainable=True, like=REWARD)
        head = ScalarHead(base.hidden_size)
        reward_head = ScalarHead(base.hidden_size)
        return PPO(
            base, head, PROMPTS, PpoConfig(**{**SETTINGS, **changes}),
            lambda answers, encode: score(encode, reward_head, [a.ids for a in answers]).detach(), seed=seed, demonstrations=demonstrations,
            engine=engine or Uneven(),
        )  # fmt: skip

    return make


def rollout_of(ppo):
    generator = torch.Generator().manual_seed(0)
    return collect(ppo.base, ppo.value_head, PROMPTS, ppo.settings, ppo.scorer, generator=generator, micro_batch=4, engine=ppo.engine)


def test_kl_is_exactly_zero_before_the_first_step_and_the_first_ratio_is_one(make_ppo):
    figures, _ = make_ppo().update()
    assert figures["kl"] == 0.0
    assert figures["first_ratio_max"] == pytest.approx(1.0, abs=1e-4)


def test_a_reference_that_is_the_raw_base_is_noticed(make_ppo):
    """The fault of several trainers, planted: an SFT policy against the model without its adapter."""
    ppo = make_ppo()
    for p in ppo.base.parameters(REFERENCE):
        p.data.zero_()
    assert abs(ppo.update()[0]["kl"]) > 1e-3


def test_logprobs_of_the_rollout_are_those_of_the_sampler(make_ppo):
    assert rollout_of(make_ppo()).sampler_gap < 1e-3


def test_logprobs_and_values_stand_at_the_token_they_belong_to(make_ppo):
    ppo = make_ppo()
    rollout = rollout_of(ppo)
    for i, (prompt, answer) in enumerate(zip(PROMPTS, rollout.answers, strict=True)):
        ids, n = list(answer.ids), len(answer.ids) - len(prompt.ids)
        with torch.no_grad():
            states, _ = ppo.base.encode([ids], POLICY)
            expected = (states[0] @ ppo.base.lm_head.weight.T / SETTINGS["temperature"]).log_softmax(-1)
            values = ppo.value_head(ppo.base.encode([ids], VALUE)[0][0])
        for t in range(n):
            before = len(prompt.ids) + t - 1
            assert rollout.logprobs[i, t].item() == pytest.approx(expected[before, ids[before + 1]].item(), abs=1e-4)
            assert rollout.values[i, t].item() == pytest.approx(values[before].item(), abs=1e-4)
        assert int(rollout.mask[i].sum()) == n and not rollout.logprobs[i, n:].any() and not rollout.values[i, n:].any()


def test_a_response_ends_at_eos_which_is_part_of_it(make_ppo):
    rollout = rollout_of(make_ppo(max_new_tokens=60, engine=InProcess()))
    tokenizer = make_ppo().base.tokenizer
    eos = tokenizer.eos_token_id
    for i, answer in enumerate(rollout.answers):
        real = rollout.tokens[i][rollout.mask[i]].tolist()
        assert (real[-1] == eos) == answer.finished == bool(rollout.finished[i]) and eos not in real[:-1]
        prompt = PROMPTS[i]
        assert (answer.prompt, answer.ids) == (prompt.prompt.messages, (*prompt.ids, *real))
        assert answer.response == tokenizer.decode([t for t in real if t != eos], skip_special_tokens=True)


def test_the_score_from_the_rollouts_trunk_is_the_score_of_the_text(make_ppo):
    ppo = make_ppo()
    rollout = rollout_of(ppo)
    alone = torch.cat([ppo.scorer([a], lambda s: ppo.base.encode(s, REWARD)) for a in rollout.answers])
    assert torch.allclose(rollout.scores, alone, atol=1e-4)


def test_micro_batches_add_up_to_the_gradient_of_the_minibatch(make_ppo):
    found = []
    for micro in (1, 8):
        ppo = make_ppo(minibatch=8, micro_batch=micro, epochs=1, max_grad_norm=1e9)
        ppo.policy_optimizer = ppo.value_optimizer = SimpleNamespace(
            step=lambda: None, zero_grad=lambda **k: None, param_groups=[{"lr": 0.0}]
        )
        ppo.update()
        found.append(torch.cat([p.grad.flatten() for p in [*ppo.policy, *ppo.value]]))
    assert found[0].abs().sum() > 0 and torch.allclose(found[0], found[1], atol=1e-5)


def test_out_of_memory_halves_the_pass_and_ends_where_half_the_pass_would_have(make_ppo):
    said = []
    plain, short = make_ppo(micro_batch=2), make_ppo(micro_batch=4)
    short.micro_batch = MicroBatch(4, "ppo.micro_batch", "ppo.max_new_tokens", said.append)
    states = short.base.states

    def no_room_for_four(trunk, mask, role):
        if len(trunk) > 2:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return states(trunk, mask, role)

    short.base.states = no_room_for_four
    for _ in range(2):
        plain.update()
        short.update()
    assert short.micro_batch.size == 2 and len(said) == 1 and "ppo.micro_batch=2" in said[0]
    assert all(torch.equal(t, short.state()[0][n]) for n, t in plain.state()[0].items())


def test_out_of_memory_in_the_middle_of_a_minibatch_counts_no_gradient_twice(make_ppo):
    # The second attempt reads the demonstrations of the first one: others would be other chance, here and in all that follows.
    options = {"micro_batch": 2, "demonstrations": TEXTS, "ptx_coef": 0.5}
    plain, struck = make_ppo(**options), make_ppo(**options)
    struck.micro_batch = MicroBatch(2, "ppo.micro_batch", "ppo.max_new_tokens", lambda line: None)
    head, calls = struck.value_head.forward, []

    def once_no_memory(x):
        calls.append(x.requires_grad)
        # The second pass with gradients: the first one has already left its own.
        if sum(calls) == 2 and struck.micro_batch.size == 2:
            raise RuntimeError("out of memory")
        return head(x)

    struck.value_head.forward = once_no_memory
    plain.update()
    struck.update()
    assert struck.micro_batch.size == 1
    assert all(
        torch.allclose(t, struck.state()[0][n], atol=2e-4) for n, t in plain.state()[0].items() if "adam" not in n
    )


def test_a_prompt_that_leaves_no_room_for_the_answer_is_named_before_the_first_update(make_ppo):
    ppo = make_ppo()
    check_room(ppo.base, "ppo", 1014, PROMPTS)
    with pytest.raises(
        UserError, match="ppo.max_new_tokens: 1020 tokens after a prompt of 10 exceed the model's context of 1024"
    ):
        check_room(ppo.base, "ppo", 1020, PROMPTS)


def test_learning_moves_policy_and_value_and_nothing_else(make_ppo):
    ppo = make_ppo()
    before = {n: p.clone() for n, p in ppo.base.causal_lm.named_parameters()}
    ppo.update()
    moved = {n for n, p in ppo.base.causal_lm.named_parameters() if not torch.equal(p, before[n])}
    assert moved and all(f".{POLICY}." in n or f".{VALUE}." in n for n in moved)
    assert any(f".{POLICY}." in n for n in moved) and any(f".{VALUE}." in n for n in moved)


def test_two_and_a_resume_and_two_are_four_bit_for_bit(make_ppo, tmp_path):
    options = {"kl_target": 2.0, "score_scaling": True, "ema_decay": 0.9, "entropy_coef": 0.01}
    whole, first = make_ppo(**options), make_ppo(**options)
    for run in (whole, first):
        for _ in range(2):
            run.update()
        # As after memory ran out: whoever goes on must not try the larger passes again, which would round otherwise.
        run.micro_batch.size, run.at_once.size = 1, 4
    lines = [whole.update()[0] for _ in range(2)]
    checkpoint.save(tmp_path, first.done, *first.state())
    torch.manual_seed(999)
    second = make_ppo(**options)
    tensors, facts = checkpoint.newest(tmp_path)
    second.load_state(tensors, facts)
    again = [second.update()[0] for _ in range(2)]
    timing = {"seconds", "rollout_seconds"}
    assert [{k: v for k, v in line.items() if k not in timing} for line in again] == [
        {k: v for k, v in line.items() if k not in timing} for line in lines
    ]
    expected, found = whole.state(), second.state()
    assert expected[1] == found[1] and expected[0].keys() == found[0].keys()
    assert all(torch.equal(t, found[0][n]) for n, t in expected[0].items())


@pytest.mark.parametrize("part", ["adam/policy", "adam/value", "head", "value", "policy", "ema"])
def test_a_resume_without_one_part_is_not_the_same_run(make_ppo, part):
    options = {"ema_decay": 0.9}
    run = make_ppo(**options)
    run.update()
    tensors, facts = run.state()
    run.update()
    broken = make_ppo(**options)
    fresh = broken.state()[0]
    mixed = {n: fresh.get(n, torch.zeros_like(t)) if n.startswith(part) else t for n, t in tensors.items()}
    broken.load_state(mixed, facts)
    broken.update()
    assert any(not torch.equal(t, broken.state()[0][n]) for n, t in run.state()[0].items())


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete"])
def test_a_damaged_checkpoint_is_passed_over_for_an_older_one(tmp_path, damage):
    for update in (1, 2):
        checkpoint.save(tmp_path / str(update), update, {"x": torch.tensor([float(update)])}, {"done": update})
    (tmp_path / "2" / "step-00000002").rename(tmp_path / "1" / "step-00000002")
    file = tmp_path / "1" / "step-00000002" / "tensors.safetensors"
    data = bytearray(file.read_bytes())
    if damage == "delete":
        file.unlink()
    else:
        data[-1] ^= 1
        file.write_bytes(data if damage == "flip" else data[:-4])
    assert checkpoint.newest(tmp_path / "1")[1] == {"done": 1}


def test_every_prompt_is_asked_once_before_any_is_asked_again(make_ppo):
    ppo = make_ppo(episodes=4)
    asked = []
    for done in range(6):
        ppo.done = done
        asked += [p.prompt.id for p in ppo._next_prompts()]
    for epoch in range(4):
        assert len(set(asked[6 * epoch : 6 * epoch + 6])) == 6
    assert asked[:6] != asked[6:12]


def test_every_update_and_every_seed_draws_by_chance_of_its_own(make_ppo):
    """One question, and a policy that does not move: whatever differs is chance, within an update too."""
    drawn = []
    for seed in (0, 1):
        ppo = make_ppo(seed=seed, learning_rate=1e-12)
        ppo.prompts = PROMPTS[:1]
        drawn += [[a.ids for a in ppo.update()[1].answers] for _ in range(2)]
    again = make_ppo(seed=1, learning_rate=1e-12)
    again.prompts = PROMPTS[:1]
    assert [a.ids for a in again.update()[1].answers] == drawn[2]
    firsts = [answers[0] for answers in drawn]
    assert len(set(firsts)) == 4 and len({ids for answers in drawn for ids in answers}) > 20


def test_a_score_that_is_not_finite_stops_before_anything_moves(make_ppo):
    ppo = make_ppo()
    before = ppo.base.state(POLICY)
    ppo.value_head.weight.data.fill_(float("nan"))
    with pytest.raises((FloatingPointError, ValueError)):
        ppo.update()
    assert all(torch.equal(t, before[n]) for n, t in ppo.base.state(POLICY).items())


@pytest.mark.parametrize("part", ["policy", "value"])
def test_a_gradient_that_is_not_finite_moves_neither_model(make_ppo, part):
    ppo = make_ppo()
    getattr(ppo, part)[0].register_hook(lambda gradient: gradient * float("inf"))
    before = [p.detach().clone() for p in [*ppo.policy, *ppo.value]]
    name = "grad_norm" if part == "policy" else "value_grad_norm"
    with pytest.raises(FloatingPointError, match=rf"ppo: {name} is \w+ in update 0, answers \[.*\]\. That step was not taken"):
        ppo.update()
    assert all(torch.equal(p, was) for p, was in zip([*ppo.policy, *ppo.value], before, strict=True))


def test_the_pretraining_mix_at_weight_zero_is_plain_ppo_and_otherwise_lowers_the_loss_on_its_texts(make_ppo):
    texts = [(tuple(range(30, 45)), 3)]
    plain, mixed_at_zero = make_ppo(), make_ppo(demonstrations=texts, ptx_coef=0.0)
    plain.update(), mixed_at_zero.update()
    assert all(torch.equal(t, mixed_at_zero.base.state(POLICY)[n]) for n, t in plain.base.state(POLICY).items())
    mixed = make_ppo(demonstrations=texts, ptx_coef=5.0)
    losses = [mixed.update()[0]["ptx_loss"] for _ in range(4)]
    assert losses[-1] < losses[0]


def test_a_minibatch_mixes_in_as_many_texts_as_answers_drawn_by_the_seeds_chance(make_ppo):
    def mixed_in(seed):
        ppo, chosen = make_ppo(seed=seed, demonstrations=TEXTS, ptx_coef=0.5), []
        real = ppo._pretraining_mix
        ppo._pretraining_mix = lambda texts, micro_batch: chosen.append(texts) or real(texts, micro_batch)
        ppo.update(), ppo.update()
        return chosen

    first = mixed_in(0)
    assert [len(texts) for texts in first] == [4] * 8 and {text for texts in first for text in texts} == set(TEXTS)
    assert first[:4] != first[4:] and first == mixed_in(0) != mixed_in(1)


def test_an_empty_prompt_set_and_a_mix_without_texts_are_refused(make_ppo, make_base):
    with pytest.raises(ValueError, match="at least one prompt"):
        PPO(None, None, [], PpoConfig(), None, seed=0)
    with pytest.raises(ValueError, match="ptx_coef"):
        make_ppo(ptx_coef=1.0)


def test_ppo_finds_a_reward_that_can_be_found(make_ppo):
    """A reward for tokens of the upper half. The random model's logits are tiny, hence the low temperature."""
    ppo = make_ppo(
        updates=20, episodes=32, minibatch=32, micro_batch=32, epochs=4, learning_rate=3e-2, value_learning_rate=3e-2, kl_coef=0.0,
        missing_eos_penalty=0.0, temperature=0.1, lr_decay=False, max_grad_norm=100.0, engine=InProcess(),
    )  # fmt: skip
    prompt_lengths = {p.prompt.messages: len(p.ids) for p in PROMPTS}

    def share_of_high_tokens(answers, encode):
        said = [a.ids[prompt_lengths[a.prompt] :] for a in answers]
        return torch.tensor([sum(i >= 130 for i in ids) / len(ids) for ids in said])

    ppo.scorer = share_of_high_tokens
    scores = [ppo.update()[0]["score"] for _ in range(20)]
    assert sum(scores[-3:]) / 3 > sum(scores[:2]) / 2 + 0.2, scores
