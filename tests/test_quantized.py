"""A base in few bits: what is stored so, what is not, and that nothing but the adapters learns. With a tiny model, on the GPU where there is
one (`benchmarks/gpu.py --parts checks`), on the CPU elsewhere."""

from types import SimpleNamespace

import pytest
import torch

from data.errors import UserError
from data.records import Message, Prompt
from pipeline.adapters import BASE, POLICY, REFERENCE, REWARD, VALUE, SharedBase
from pipeline.config import Config, LoraConfig, ModelConfig, PpoConfig
from pipeline.generation import Sampling, sample
from pipeline.models import choose_device, load
from pipeline.ppo.rollout import PromptIds
from pipeline.ppo.trainer import PPO
from reward.model import ScalarHead, score
from reward.optimizer import load_tensors, make_optimizer, tensors_of

TEXTS = [[5, 6, 7, 8, 9], [10, 11, 12], [13, 14, 15, 16, 17, 18, 19, 20]]
BLOCK = 64
DEVICE = choose_device("auto")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The tiny model as a directory, which is the only way into quantization."""
    model, tokenizer = load(ModelConfig(name="tiny-random", dtype="float32", device="cpu"))
    folder = tmp_path_factory.mktemp("tiny")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder, {name: p.detach().clone() for name, p in model.named_parameters()}


@pytest.fixture(scope="module", params=["4bit", "8bit"])
def bits(request):
    return request.param


def quantized(folder, bits, **changes):
    settings = {
        "name": str(folder),
        "dtype": "bfloat16",
        "quantization": bits,
        "allow_cpu_quantization": True,
        **changes,
    }
    return load(ModelConfig(**settings))


@pytest.fixture
def make(saved, bits):
    def make(*roles, **changes):
        base = SharedBase(*quantized(saved[0], bits), LoraConfig(rank=4, alpha=8.0, last_layers=2), **changes)
        generator = torch.Generator().manual_seed(1)
        for role in roles:
            base.add(role, trainable=True)
            shake(base, role, generator)
        return base

    return make


def shake(base, role, generator):
    """Random adapters, the same ones on every device."""
    for parameter in base.parameters(role):
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)


def linears(model):
    return {name: m for name, m in model.named_modules() if isinstance(m, torch.nn.Linear) and "lora" not in name}


def towards(states):
    """How far the states point into one direction: their length is fixed by the last norm, and would give no gradient."""
    direction = torch.randn(states.shape[-1], generator=torch.Generator().manual_seed(2))
    return (states.float() @ direction.to(states.device)).sum()


def stored(model):
    return {n: p.detach().clone() for n, p in model.named_parameters() if "lora_" not in n}


def test_four_bits_are_nf4_in_blocks_of_64_with_their_scales_quantized_too(saved):
    model, _ = quantized(saved[0], "4bit")
    small = {n: m for n, m in linears(model).items() if "lm_head" not in n}
    assert len(small) == 4 * 7
    for module in small.values():
        state = module.weight.quant_state
        assert state.quant_type == "nf4" and state.blocksize == BLOCK and state.nested and state.state2.blocksize == 256
        assert module.compute_dtype is torch.bfloat16
        scales = state.absmax.numel() * state.absmax.element_size() + state.state2.absmax.numel() * 4
        assert (module.weight.numel() * module.weight.element_size() + scales) / state.shape.numel() <= 0.55


def test_a_weight_comes_back_within_half_a_bin_of_its_blocks_largest(saved):
    from bitsandbytes.functional import dequantize_4bit, dequantize_blockwise

    model, _ = quantized(saved[0], "4bit")
    for name, module in linears(model).items():
        if "lm_head" in name:
            continue
        state, before = module.weight.quant_state, saved[1][name + ".weight"].to(DEVICE, torch.bfloat16).float()
        codes = state.code.sort().values
        half = float((codes[1:] - codes[:-1]).max()) / 2
        largest = before.reshape(-1, BLOCK).abs().amax(1)
        scale = dequantize_blockwise(state.absmax, state.state2) + state.offset
        # By half a bin of the block's largest, by what the largest itself lost, and by the rounding to bfloat16.
        bound = half * largest + (scale - largest).abs() + largest / 128
        error = (dequantize_4bit(module.weight, state).float() - before).reshape(-1, BLOCK).abs().amax(1)
        assert (error <= bound).all() and error.max() > 0


def test_embeddings_and_norms_stay_in_the_weights_format_and_are_not_blown_up(saved, bits):
    model, _ = quantized(saved[0], bits)
    others = {n: p.dtype for n, p in model.named_parameters() if "embed" in n or "norm" in n}
    assert len(others) == 1 + 2 * 4 + 1 and set(others.values()) == {torch.bfloat16}
    assert not any(p.requires_grad for p in model.parameters())


def test_adapters_and_heads_are_float32_over_a_quantized_base(make):
    base = make(POLICY, VALUE)
    assert {p.dtype for role in (POLICY, VALUE) for p in base.parameters(role)} == {torch.float32}
    assert {p.dtype for p in ScalarHead(base.hidden_size).parameters()} == {torch.float32}
    assert sum("lora_A" in n for n, _ in base.causal_lm.named_parameters()) == 2 * 2 * 7


def test_a_fresh_adapter_is_the_identity_over_a_quantized_base(make):
    base = make()
    with torch.no_grad():
        before = base.encode(TEXTS, BASE)[0]
        base.add(POLICY, trainable=True)
        assert torch.equal(base.encode(TEXTS, POLICY)[0], before)


def test_trunk_and_upper_layers_are_the_quantized_model(make):
    base = make(POLICY)
    with torch.no_grad(), base.acting_as(POLICY):
        whole = base.causal_lm.get_decoder()(torch.tensor([TEXTS[2]], device=DEVICE)).last_hidden_state
    with torch.no_grad():
        assert torch.allclose(base.encode([TEXTS[2]], POLICY)[0].float(), whole.float(), atol=0.05)


def test_ppo_over_a_quantized_base_starts_at_kl_zero_and_moves_the_adapters_alone(make):
    base = make(POLICY)
    base.add(REFERENCE, trainable=False, like=POLICY)
    base.add(REWARD, trainable=False)
    base.add(VALUE, trainable=True, like=REWARD)
    before, frozen, policy = stored(base.causal_lm), base.state(REFERENCE), base.state(POLICY)
    prompts = [PromptIds(Prompt(f"p{i}", (Message("user", str(i)),)), tuple(range(20 + i, 26 + i))) for i in range(4)]
    reward_head = ScalarHead(base.hidden_size).to(base.device)
    ppo = PPO(
        base, ScalarHead(base.hidden_size).to(base.device), prompts,
        PpoConfig(updates=2, episodes=4, minibatch=4, micro_batch=2, epochs=1, max_new_tokens=6, learning_rate=1e-2),
        lambda answers, encode: score(encode, reward_head, [a.ids for a in answers]).detach(), seed=0,
    )  # fmt: skip
    assert ppo.update()[0]["kl"] == 0.0
    ppo.update()
    after = stored(base.causal_lm)
    assert before.keys() == after.keys() and all(torch.equal(before[n], after[n]) for n in before)
    assert all(torch.equal(frozen[n], t) for n, t in base.state(REFERENCE).items())
    assert any(not torch.equal(policy[n], t) for n, t in base.state(POLICY).items())


def test_the_gradient_through_four_bits_is_that_of_the_same_weights_unpacked(saved):
    """Also after answers were drawn: a kernel for drawing alone must not stay for learning."""
    from bitsandbytes.functional import dequantize_4bit

    found, unpacked = [], {}
    for bits in ("4bit", "none"):
        model, tokenizer = quantized(saved[0], bits)
        if bits == "none":
            for name, module in linears(model).items():
                if name in unpacked:
                    module.weight.data.copy_(unpacked[name])
        else:
            small = {n: m for n, m in linears(model).items() if "lm_head" not in n}
            unpacked = {n: dequantize_4bit(m.weight, m.weight.quant_state) for n, m in small.items()}
        base = SharedBase(model, tokenizer, LoraConfig(rank=4, alpha=8.0))
        base.add(POLICY, trainable=True)
        shake(base, POLICY, torch.Generator().manual_seed(1))
        with base.acting_as(POLICY):
            sample(base.causal_lm, TEXTS, Sampling(4, seed=0), eos_id=-1, pad_id=3)
        towards(base.encode(TEXTS, POLICY)[0]).backward()
        first = [p.grad.flatten() for n, p in base.causal_lm.named_parameters() if ".layers.0." in n and "lora_" in n]
        found.append(torch.cat(first))
    assert torch.nn.functional.cosine_similarity(*found, dim=0) > 0.99
    assert 0.95 < float(found[0].norm() / found[1].norm()) < 1.05


def test_sft_leaves_float32_adapters_over_a_quantized_base(saved, tmp_path):
    """The trainer turns them into bfloat16 when it finds a quantized base."""
    from pipeline.stages import sft

    config = Config.model_validate(
        {
            "model": {
                "name": str(saved[0]),
                "dtype": "bfloat16",
                "quantization": "4bit",
                "allow_cpu_quantization": True,
            },
            "lora": {"rank": 4, "last_layers": 2},
            "data": {"demonstrations": "-", "rankings": "-", "heldout_prompts": "-"},
            "sft": {"batch_size": 2, "micro_batch_size": 2, "checkpoint_every": 0, "learning_rate": 1e-6},
        }
    )
    base = SharedBase(*load(config.model), config.lora)
    base.add(POLICY, trainable=True)
    for p in base.parameters(POLICY):
        # A number that bfloat16 does not have: were it stored so for a moment, it would come back as another one.
        p.data.fill_(1.0 + 2**-12)
    bar = SimpleNamespace(advance=lambda *a, **k: None, done=0)
    context = SimpleNamespace(config=config, checkpoints=tmp_path / "c", out=tmp_path, log=lambda line: None)
    sft._train(context, base, [{"input_ids": [5, 6, 7, 8], "completion_mask": [0, 0, 1, 1]}] * 2, 2, bar)
    assert {p.dtype for p in base.parameters(POLICY)} == {torch.float32}
    # One step of Adam moves a number by the rate at most.
    assert all(((p - 1.0 - 2**-12).abs() < 1e-5).all() for p in base.parameters(POLICY))


def gradients(base, role, other):
    states = base.encode(TEXTS, role)[0]
    with base.acting_as(other):
        towards(states).backward()
    found = torch.cat([p.grad.flatten() for p in base.parameters(role)])
    assert all(p.grad is None or not p.grad.any() for p in base.parameters(other))
    return found


@pytest.mark.parametrize("role", [POLICY, VALUE])
def test_states_made_again_give_the_same_gradient_whichever_role_is_active_by_then(role):
    found = []
    for recompute in (False, True):
        model, tokenizer = load(ModelConfig(name="tiny-random", dtype="float32"))
        base = SharedBase(model, tokenizer, LoraConfig(rank=4, alpha=8.0, last_layers=2), recompute=recompute)
        generator = torch.Generator().manual_seed(1)
        for name in (POLICY, VALUE):
            base.add(name, trainable=True)
            shake(base, name, generator)
        found.append(gradients(base, role, VALUE if role == POLICY else POLICY))
    assert found[0].abs().sum() > 0
    # A card may add up in another order the second time.
    assert torch.allclose(*found, rtol=1e-4, atol=1e-6) if DEVICE.type == "cuda" else torch.equal(*found)


def test_states_made_again_are_fewer_bytes_kept():
    kept = []
    for recompute in (False, True):
        model, tokenizer = load(ModelConfig(name="tiny-random", dtype="float32"))
        base = SharedBase(model, tokenizer, LoraConfig(rank=4, alpha=8.0), recompute=recompute)
        base.add(POLICY, trainable=True)
        sizes: list[int] = []
        weights = {p.data_ptr() for p in base.causal_lm.parameters()}

        def note(tensor, sizes=sizes, weights=weights):
            if tensor.data_ptr() not in weights:
                sizes.append(tensor.numel() * tensor.element_size())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            base.encode(TEXTS, POLICY)
        kept.append(sum(sizes))
    assert kept[1] < kept[0] / 3


def test_bytes_as_moments_step_about_as_float32_does_and_come_back_from_tensors():
    """One step of 8-bit Adam on one number a row: the rate, with the gradient's sign, as in float32."""
    torch.manual_seed(0)
    found = {}
    for kind in ("adamw", "paged_adamw_8bit"):
        parameter = torch.nn.Parameter(torch.linspace(-1, 1, 4096).reshape(64, 64).clone().to(DEVICE))
        optimizer = make_optimizer(kind, [parameter], lr=1e-2, eps=1e-5, weight_decay=0.0)
        generator = torch.Generator().manual_seed(0)
        try:
            for _ in range(3):
                parameter.grad = torch.randn(64, 64, generator=generator).to(DEVICE)
                optimizer.step()
        except (NotImplementedError, RuntimeError) as error:
            pytest.skip(
                f"needs a GPU: 8-bit moments are not implemented for the CPU here ({str(error).splitlines()[0][:80]})"
            )
        found[kind] = parameter.detach().clone()
        other = torch.nn.Parameter(parameter.detach().clone())
        again = make_optimizer(kind, [other], lr=1e-2, eps=1e-5, weight_decay=0.0)
        load_tensors(again, {k: t.clone() for k, t in tensors_of(optimizer, "a/").items()}, "a/")
        gradient = torch.randn(64, 64, generator=generator).to(DEVICE)
        for which, stepper in ((parameter, optimizer), (other, again)):
            which.grad = gradient.clone()
            stepper.step()
        assert torch.equal(parameter, other)
    moved = (found["paged_adamw_8bit"] - found["adamw"]).abs()
    assert moved.mean() < 1e-3


def test_bytes_as_moments_of_several_tensors_fit_into_a_checkpoint(tmp_path):
    """They share their table of values, and safetensors refuses to write one piece of memory under two names."""
    from pipeline import checkpoint

    trained = [torch.nn.Parameter(torch.ones(64, 64, device=DEVICE)) for _ in range(2)]
    optimizer = make_optimizer("paged_adamw_8bit", trained, lr=1e-2, eps=1e-5, weight_decay=0.0)
    for parameter in trained:
        parameter.grad = torch.ones_like(parameter)
    try:
        optimizer.step()
    except (NotImplementedError, RuntimeError) as error:
        pytest.skip(f"needs a GPU: 8-bit moments are not implemented for the CPU here ({str(error)[:80]})")
    checkpoint.save(tmp_path, 1, tensors_of(optimizer, "a/"), {})
    kept = checkpoint.newest(tmp_path)[0]
    assert {name.split("/")[1] for name in kept} == {"0", "1"}
    assert torch.equal(kept["a/0/qmap1"], kept["a/1/qmap1"])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_paged_moments_go_through_a_checkpoint_and_on(tmp_path):
    """Tensors of 100,000 numbers and more have theirs in memory that the driver moves; a resumed run holds them on the card."""
    from pipeline import checkpoint

    generator = torch.Generator().manual_seed(0)
    first, other = (torch.nn.Parameter(torch.ones(512, 512, device=DEVICE)) for _ in range(2))
    gradients = [torch.randn(512, 512, generator=generator).to(DEVICE) for _ in range(3)]
    optimizer = make_optimizer("paged_adamw_8bit", [first], lr=1e-2, eps=1e-5, weight_decay=0.0)
    for gradient in gradients[:2]:
        first.grad = gradient.clone()
        optimizer.step()
    assert any(getattr(t, "is_paged", False) for t in optimizer.state[first].values())
    checkpoint.save(tmp_path, 2, tensors_of(optimizer, "a/"), {})
    again = make_optimizer("paged_adamw_8bit", [other], lr=1e-2, eps=1e-5, weight_decay=0.0)
    load_tensors(again, checkpoint.newest(tmp_path)[0], "a/")
    other.data.copy_(first.data)
    for which, stepper in ((first, optimizer), (other, again)):
        which.grad = gradients[2].clone()
        stepper.step()
    assert torch.allclose(first, other, atol=1e-6) and not torch.equal(first, torch.ones_like(first))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_quantized_base_lies_on_the_card_with_all_its_roles(saved, bits):
    base = SharedBase(*quantized(saved[0], bits, device="cuda", allow_cpu_quantization=False), LoraConfig(rank=4))
    base.add(POLICY, trainable=True)
    assert base.device.type == "cuda" and {p.device.type for p in base.causal_lm.parameters()} == {"cuda"}
    states, _ = base.encode(TEXTS, POLICY)
    states.float().sum().backward()
    assert all(p.grad is not None for p in base.parameters(POLICY))


def test_few_bits_without_the_library_for_them_are_one_line(saved, monkeypatch):
    from transformers.quantizers import quantizer_bnb_4bit

    # What its check of the environment answers with where the package is missing.
    def missing(self, *args, **kwargs):
        raise ImportError("Using `bitsandbytes` 4-bit quantization requires bitsandbytes\nand more")

    monkeypatch.setattr(quantizer_bnb_4bit.Bnb4BitHfQuantizer, "validate_environment", missing)
    with pytest.raises(UserError, match=r"model.quantization: 4bit cannot be had here \(Using .* requires bitsandbytes\)"):
        quantized(saved[0], "4bit")


def test_few_bits_without_a_gpu_are_refused_unless_asked_for(saved):
    with pytest.raises(UserError, match="is slower than 'none'"):
        quantized(saved[0], "4bit", allow_cpu_quantization=False, device="cpu")


def test_a_checkpoint_that_was_saved_in_four_bits_is_read_as_such(saved, tmp_path):
    """Its own config says how; a setting of none is not that its bytes are weights."""
    folder, _ = saved
    model, tokenizer = quantized(folder, "4bit")
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path)
    again, _ = quantized(tmp_path, "none")
    ids = torch.arange(5, 15)[None]
    assert torch.equal(again(input_ids=ids).logits, model(input_ids=ids).logits)
    kinds = {type(module).__name__ for module in linears(again).values()}
    assert "Linear4bit" in kinds
    assert not any(getattr(m, "support_avx512bf16_for_cpu", False) for m in again.modules())
