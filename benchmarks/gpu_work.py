"""The work that `benchmarks/gpu.py` times: bases of any shape with random weights, one PPO on one base or on four, and what it costs in
operations and bytes by count."""

from __future__ import annotations

import signal
import sys
import time
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import torch

from data.records import Message, Prompt
from pipeline.adapters import POLICY, REFERENCE, REWARD, VALUE, SharedBase
from pipeline.config import LoraConfig, PpoConfig
from pipeline.planning.memory import Numbers, weights
from pipeline.planning.shapes import KNOWN, Shape
from pipeline.ppo.rollout import PromptIds
from pipeline.ppo.trainer import PPO
from pipeline.rollouts import engine
from reward.model import ScalarHead, score

sys.path.insert(0, str(Path(__file__).resolve().parent / "peer"))
from task import llama

SHAPES = {
    "135m": KNOWN["smollm2-135m-instruct"],
    "8b": KNOWN["meta-llama/Llama-3.1-8B"],
    "tiny": KNOWN["tiny-random"],
}
ROLES = (POLICY, REFERENCE, REWARD, VALUE)


def random_base(
    shape: Shape, bits: str, device: torch.device, *, recompute: bool, last_layers: int | None = None
) -> SharedBase:
    """A bfloat16 Llama of that shape with random weights, its layers' matrices in NF4 where `bits` is 4bit; made on the device."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(**llama(asdict(shape)))
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            model = LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(default)
    if bits == "4bit":
        in_four_bits(model, device)
    model.requires_grad_(False).eval()
    tokenizer = SimpleNamespace(eos_token_id=2, pad_token_id=0, decode=lambda ids, **_: " ".join(map(str, ids)))
    return SharedBase(model, tokenizer, LoraConfig(rank=16, last_layers=last_layers), recompute=recompute)


def in_four_bits(model, device: torch.device) -> None:
    from bitsandbytes.nn import Linear4bit, Params4bit

    for layer in model.get_decoder().layers:
        for parent in (layer.self_attn, layer.mlp):
            for name, old in list(parent.named_children()):
                if isinstance(old, torch.nn.Linear):
                    new = Linear4bit(
                        old.in_features,
                        old.out_features,
                        bias=False,
                        compute_dtype=torch.bfloat16,
                        quant_type="nf4",
                        device="meta",
                    )
                    weight = Params4bit(
                        old.weight.data, requires_grad=False, compress_statistics=True, quant_type="nf4"
                    )
                    # A move to the device that has no memory quantizes nothing by itself.
                    new.weight = weight._quantize(device) if device.type == "meta" else weight.to(device)
                    if hasattr(new, "support_avx512bf16_for_cpu"):
                        new.support_avx512bf16_for_cpu = False
                    setattr(parent, name, new)
                    del old
    model.is_loaded_in_4bit = True


class FourBases:
    """A model for each role behind the interface of one base: what the shared base is held against."""

    def __init__(self, bases: dict[str, SharedBase]):
        self.bases = bases
        first = bases[POLICY]
        self.tokenizer, self.device, self.hidden_size, self.lm_head = (
            first.tokenizer,
            first.device,
            first.hidden_size,
            first.lm_head,
        )
        self.causal_lm = first.causal_lm

    def parameters(self, role):
        return self.bases[role].parameters(role)

    def state(self, role):
        return self.bases[role].state(role)

    def trunk(self, batch):
        # All layers are adapted: the trunk is the embedding, which is as good as any role's.
        return self.bases[POLICY].trunk(batch)

    def states(self, trunk, mask, role):
        return self.bases[role].states(trunk, mask, role)

    @contextmanager
    def acting_as(self, role):
        with self.bases[role].acting_as(role):
            yield


def with_roles(make_base, *, separate: bool):
    """One base with four roles, or four bases with one each."""
    if not separate:
        base = make_base()
        for role in ROLES:
            base.add(role, trainable=role in (POLICY, VALUE))
        return base
    bases = {}
    for role in ROLES:
        bases[role] = make_base()
        bases[role].add(role, trainable=role in (POLICY, VALUE))
    return FourBases(bases)


def trainer(base, *, rows: int, micro: int, prompt: int, answer: int, vocabulary: int) -> PPO:
    """PPO on random prompts whose answers all have full length."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, vocabulary, (rows, prompt), generator=generator).tolist()
    prompts = [PromptIds(Prompt(f"p{i}", (Message("user", str(i)),)), tuple(row)) for i, row in enumerate(ids)]
    heads = [ScalarHead(base.hidden_size).to(base.device) for _ in range(2)]
    heads[1].requires_grad_(False)

    @torch.no_grad()
    def scorer(answers, encode):
        return score(encode, heads[1], [a.ids for a in answers])

    settings = PpoConfig(
        updates=1000, episodes=rows, minibatch=rows, micro_batch=micro, epochs=2, max_new_tokens=answer, temperature=1.0
    )
    return PPO(base, heads[0], prompts, settings, scorer, seed=0)


@contextmanager
def answers_without_end():
    """No token ends an answer: all have full length, and each run the same work."""
    plain = engine.sample
    engine.sample = lambda *a, eos_id, **k: plain(*a, eos_id=-1, **k)
    try:
        yield
    finally:
        engine.sample = plain


@contextmanager
def within(seconds: float):
    """Raises TimeoutError in the block after so many seconds, and again a while later should the block not have ended by it."""

    def late(*_):
        raise TimeoutError(f"more than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds, 10.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


def wait(device: torch.device) -> float:
    """The time once everything that was sent to the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.monotonic()


def update_flops(shape: Shape, rows: int, prompt: int, answer: int, *, epochs: int, recompute: bool) -> float:
    """Operations of one update with all layers adapted, by count: 2 a parameter and token forward, and 2 more for the gradient of a layer's
    input (a frozen matrix has none of its own); 4·d a pair of positions for attention; the logits of answer tokens.

    Four roles read; policy and value learn, twice `epochs`.
    """
    length = prompt + answer
    attention = 2 * shape.query * length
    layer = 2 * shape.linear_parameters + attention
    forward = rows * length * shape.layers * layer
    head = rows * answer * 2 * shape.vocabulary * shape.hidden
    learning = forward * (2 + recompute) * 2 * epochs
    # Policy and reference read the vocabulary; learning makes its logits twice and their gradient once.
    return 4 * forward + 2 * head + learning + 3 * head * epochs


def decode_bytes(shape: Shape, bits: str, rows: int, prompt: int, answer: int) -> float:
    """Bytes that drawing `answer` tokens for each row must read: all weights once a step, and the keys and values so far."""
    numbers = Numbers(2, bits)
    held = weights(shape, numbers) - (0 if shape.tied else 2 * shape.vocabulary * shape.hidden)
    per_token = 2 * shape.key_value * shape.layers * 2
    return answer * held + rows * per_token * sum(prompt + i for i in range(answer))
