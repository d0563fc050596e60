"""Four roles on one base: separate, exact where they must be, and frozen where they must be."""

import json

import pytest
import torch

from data.errors import UserError
from pipeline.adapters import BASE, POLICY, REFERENCE, REWARD, VALUE, Batch, SharedBase
from pipeline.beforehand import bad_start_of_ppo
from pipeline.config import Config, LoraConfig, ModelConfig
from pipeline.models import load

TEXTS = [[5, 6, 7, 8, 9], [10, 11, 12], [13, 14, 15, 16, 17, 18, 19, 20]]


def states(base, role):
    with torch.no_grad():
        found, lengths = base.encode(TEXTS, role)
    return [row[:n] for row, n in zip(found, lengths, strict=True)]


def same(a, b, tolerance=0.0):
    return all(torch.allclose(x, y, atol=tolerance, rtol=0) for x, y in zip(a, b, strict=True))


def test_dropout_is_off_in_every_role_outside_of_sft(tokenizer):
    model, _ = load(ModelConfig(name="tiny-random", dtype="float32"))
    base = SharedBase(model, tokenizer, LoraConfig(rank=4, alpha=8.0, dropout=0.5, last_layers=2))
    for role in (POLICY, VALUE):
        base.add(role, trainable=True)
        for parameter in base.parameters(role):
            parameter.data.normal_(std=0.3)
    twice = [base.encode([[5, 6, 7, 8]], role)[0] for role in (POLICY, VALUE) for _ in range(2)]
    assert torch.equal(twice[0], twice[1]) and torch.equal(twice[2], twice[3])


@pytest.mark.parametrize("targets", [["foo"], ["q_proj", "foo"]])
def test_a_layer_to_adapt_that_the_model_has_not_is_named_with_those_it_has(tokenizer, targets):
    """PEFT says so only where none of the names fits, and then in a traceback."""
    model, _ = load(ModelConfig(name="tiny-random", dtype="float32"))
    with pytest.raises(UserError, match=r"no linear layer foo; there are .*o_proj, q_proj"):
        SharedBase(model, tokenizer, LoraConfig(target_modules=targets))
    SharedBase(model, tokenizer, LoraConfig(target_modules=["q_proj", "mlp.up_proj"]))


def test_a_fresh_adapter_is_the_identity(make_base):
    base = make_base()
    before = states(base, BASE)
    base.add(POLICY, trainable=True)
    assert same(states(base, POLICY), before)


def test_trunk_and_upper_layers_are_the_model(make_base):
    base = make_base(POLICY)
    with torch.no_grad(), base.acting_as(POLICY):
        whole = [base.causal_lm.get_decoder()(torch.tensor([t])).last_hidden_state[0] for t in TEXTS]
    assert same(states(base, POLICY), whole, 1e-5)


def test_the_number_of_trunk_layers_changes_nothing_but_what_is_adapted(make_base):
    for last_layers in (1, 3, 4, None):
        base = make_base(last_layers=last_layers)
        base.add(POLICY, trainable=True)
        with torch.no_grad():
            whole = [base.causal_lm.get_decoder()(torch.tensor([t])).last_hidden_state[0] for t in TEXTS]
        assert same(states(base, POLICY), whole, 1e-5)
        linears = 7 * (last_layers or 4)
        assert sum("lora_A" in n for n, _ in base.causal_lm.named_parameters()) == linears


def test_padding_and_what_stands_in_it_change_nothing(make_base):
    base = make_base(POLICY)
    alone = states(base, POLICY)
    batch = Batch.of(TEXTS, base.tokenizer.pad_token_id)
    garbage = torch.where(batch.mask, batch.ids, 200)
    with torch.no_grad():
        found = base.states(base.trunk(Batch(garbage, batch.mask)), batch.mask, POLICY)
    assert same([row[m] for row, m in zip(found, batch.mask, strict=True)], alone, 1e-5)


def test_roles_differ_and_switching_back_restores(make_base):
    base = make_base(POLICY, REFERENCE)
    policy, reference = states(base, POLICY), states(base, REFERENCE)
    assert not same(policy, reference, 1e-3)
    assert same(states(base, POLICY), policy)


def test_an_adapter_like_another_starts_equal_and_learns_alone(make_base):
    base = make_base(REWARD)
    base.add(VALUE, trainable=True, like=REWARD)
    assert same(states(base, VALUE), states(base, REWARD))
    before = states(base, REWARD)
    found, _ = base.encode(TEXTS, VALUE)
    found.sum().backward()
    assert all(p.grad is None for p in base.parameters(REWARD))
    torch.optim.SGD(base.parameters(VALUE), lr=0.1).step()
    assert same(states(base, REWARD), before) and not same(states(base, VALUE), before, 1e-4)


def test_adding_a_role_leaves_what_is_trainable_as_it_was(make_base):
    base = make_base(POLICY)
    base.add(REFERENCE, trainable=False)
    base.add(VALUE, trainable=True)
    trainable = {role: {p.requires_grad for p in base.parameters(role)} for role in base.roles}
    assert trainable == {POLICY: {True}, REFERENCE: {False}, VALUE: {True}}
    assert not any(p.requires_grad for n, p in base.causal_lm.named_parameters() if "lora_" not in n)


def test_the_role_is_restored_after_an_error_inside_acting_as(make_base):
    base = make_base(POLICY, REFERENCE)
    expected = states(base, POLICY)
    with base.acting_as(POLICY):
        with pytest.raises(RuntimeError), base.acting_as(REFERENCE):
            raise RuntimeError
        assert base.active == POLICY
        with torch.no_grad():
            inside = [base.causal_lm.get_decoder()(torch.tensor([t])).last_hidden_state[0] for t in TEXTS]
    assert same(inside, expected, 1e-5)
    assert {p.requires_grad for p in base.parameters(REFERENCE)} == {True}, (
        "acting as a role does not change what is trainable"
    )


def test_an_unknown_role_is_refused(make_base):
    with pytest.raises(ValueError, match="no adapter for role 'critic'"), make_base(POLICY).acting_as("critic"):
        pass


def test_answers_side_by_side_read_as_they_would_alone(make_base):
    base = make_base(REWARD)
    lists = [([5, 6, 7], [[8, 9], [10, 11, 12, 2], [4]]), ([9] * 6, [[7, 7, 7], [3, 2]])]
    found = base.encode_lists(lists, REWARD)
    alone = torch.stack(
        [base.encode([prompt + answer], REWARD)[0][0, -1] for prompt, answers in lists for answer in answers]
    )
    assert torch.allclose(found, alone, atol=1e-5)
    gradients = []
    for value in (found, alone):
        for p in base.parameters(REWARD):
            p.grad = None
        value.square().sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in base.parameters(REWARD)]))
    assert torch.allclose(*gradients, atol=1e-4)


def test_saved_and_loaded_is_the_same_and_opens_in_peft(make_base, tmp_path):
    from peft import PeftModel

    base = make_base(POLICY)
    base.save(POLICY, tmp_path)
    fresh = make_base()
    fresh.load(POLICY, tmp_path, trainable=False)
    assert same(states(fresh, POLICY), states(base, POLICY))
    theirs = PeftModel.from_pretrained(make_base().causal_lm, tmp_path)
    with torch.no_grad():
        ours = base.encode([TEXTS[0]], POLICY)[0] @ base.lm_head.weight.T
        assert torch.allclose(theirs(torch.tensor([TEXTS[0]])).logits, ours, atol=1e-4)


def test_an_adapter_of_another_shape_is_refused_with_its_file(make_base, tmp_path):
    base = make_base(POLICY)
    base.save(POLICY, tmp_path)
    other = make_base(last_layers=3)
    with pytest.raises(UserError, match=r"adapter_model\.safetensors.*7 tensors missing|another base|missing"):
        other.load(POLICY, tmp_path, trainable=False)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"lora_alpha": 32}, "with alpha 32, and lora.alpha is 8"),
        ({"use_rslora": True}, "rank-stabilised"),
        ({"alpha_pattern": {"q_proj": 32}}, "alpha of their own"),
    ],
)
def test_an_adapter_that_would_be_scaled_otherwise_is_refused(make_base, tmp_path, change, said):
    """Its numbers fit and would load: only its config tells."""
    base = make_base(POLICY)
    base.save(POLICY, tmp_path)
    make_base().load(POLICY, tmp_path, trainable=False)
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(UserError, match=f"{said}.*Take the settings"):
        make_base().load(POLICY, tmp_path, trainable=False)
    data = {"demonstrations": "-", "rankings": "-", "heldout_prompts": "-"}
    config = Config(data=data, lora={"rank": 4, "alpha": 8.0}, ppo={"start_from": str(tmp_path)})
    (line,) = bad_start_of_ppo(config)
    assert line.startswith(f"ppo.start_from: {tmp_path}: ") and said in line
    # An adapter of somebody else's tool may have none.
    file.unlink()
    make_base().load(POLICY, tmp_path, trainable=False)
    assert bad_start_of_ppo(config) == []


def test_more_layers_than_the_model_has_is_refused(make_base):
    with pytest.raises(UserError, match="the model has 4 layers"):
        make_base(last_layers=9)


def test_the_config_of_lora_is_passed_through(make_base):
    base = make_base(POLICY)
    assert base.peft_model.peft_config[POLICY].r == LoraConfig(rank=4).rank
