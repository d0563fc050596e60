"""Models of other families than the embedded one: read in two parts, and with answers side by side, as their own forward pass reads a text
that stands alone; and refused where that cannot be."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import transformers

from data.errors import UserError
from pipeline.adapters import BASE, POLICY, SharedBase
from pipeline.batches import Lists
from pipeline.config import LoraConfig
from pipeline.generation import Sampling, sample
from pipeline.lm_head import LMHead
from pipeline.ppo.logprobs import token_logprobs
from pipeline.reading import check_reading
from pipeline.roles import open_base

VOCABULARY, WINDOW = 64, 4
SIZES = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "initializer_range": 0.3, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
MIXED = {"sliding_window": WINDOW, "layer_types": ["sliding_attention"] * 3 + ["full_attention"]}
FAMILIES = {
    "Llama": {},
    "Mistral": {"sliding_window": WINDOW},
    "Qwen3": {"head_dim": 8},
    "Qwen3Moe": {"head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
    "GptOss": {"head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2, **MIXED},
    "Olmo3": MIXED,
    "SmolLM3": {},
    "Glm4": {"head_dim": 8},
    "Qwen2": {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 2},
    "Gemma3Text": {"head_dim": 8, **MIXED},
    "Phi": {},
    # Its router is made from a linear layer, and returns two tensors.
    "Phimoe": {"num_local_experts": 4, "num_experts_per_tok": 2},
    # Logits that are scaled, capped or both.
    "Granite": {"logits_scaling": 4.0, "embedding_multiplier": 3.0},
    "HyperCLOVAX": {"logits_scaling": 0.25, "embedding_multiplier": 3.0},
    "Cohere": {"logit_scale": 0.25},
    "Cohere2": {"logit_scale": 0.25, **MIXED},
    "Gemma2": {"head_dim": 8, "final_logit_softcapping": 2.0, "query_pre_attn_scalar": 8, **MIXED},
    "Gemma4Text": {
        "head_dim": 8, "global_head_dim": 8, "final_logit_softcapping": 2.0, "hidden_size_per_layer_input": 0, "num_kv_shared_layers": 0, **MIXED,
    },
}
# Layers that carry a state from token to token: linear attention, convolutions, state spaces, between layers that look back or without any.
STATES = {
    "Qwen3_5Text": {
        "head_dim": 8, "linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
        "layer_types": ["linear_attention", "linear_attention", "full_attention", "linear_attention"],
    },
    "Lfm2": {"layer_types": ["conv", "full_attention"] * 2},
    "GraniteMoeHybrid": {
        "layer_types": ["mamba", "attention"] * 2, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_n_groups": 1, "mamba_d_state": 8,
        "num_local_experts": 0, "shared_intermediate_size": 64, "logits_scaling": 4.0, "embedding_multiplier": 3.0,
    },
}  # fmt: skip
BAMBA = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_n_groups": 1, "mamba_d_state": 8, "attn_layer_indices": [1]}
# Longer than the window, of unlike lengths.
TEXTS = [[5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16], [20, 21, 22, 23, 24, 25, 26], [30, 31, 32, 33, 34, 35, 36, 37, 38], [40, 41]]


def base_of(family: str, last_layers: int | None = None, targets="all-linear", **more) -> SharedBase:
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**{**SIZES, **FAMILIES.get(family, {}), **STATES.get(family, {}), **more})
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval().requires_grad_(False)
    tokenizer = SimpleNamespace(pad_token_id=0, eos_token_id=2, bos_token_id=1)
    return SharedBase(model, tokenizer, LoraConfig(rank=2, alpha=4.0, last_layers=last_layers, target_modules=targets))


@torch.no_grad()
def alone(base, text) -> torch.Tensor:
    """(t, v) logits by the model's own forward pass."""
    return base.causal_lm(input_ids=torch.tensor([text])).logits[0]


@pytest.mark.parametrize("last_layers", [None, 2, 1])
@pytest.mark.parametrize("family", [*FAMILIES, *STATES])
def test_in_two_parts_and_side_by_side_a_model_reads_as_it_does_alone(family, last_layers):
    base = base_of(family, last_layers)
    base.add(POLICY, trainable=True)
    for parameter in base.parameters(POLICY):
        parameter.data.normal_(std=0.2, generator=torch.Generator().manual_seed(1))
    prompt, *answers = TEXTS
    with base.acting_as(POLICY), torch.no_grad():
        states, _ = base.encode(TEXTS, POLICY)
        for text, found in zip(TEXTS, states, strict=True):
            assert torch.allclose(base.lm_head.logits(found[: len(text)]), alone(base, text), atol=1e-3)
        listed = base.encode_lists([(prompt, answers), (answers[0], [prompt])], POLICY)
        together = [prompt + a for a in answers] + [answers[0] + prompt]
        for text, found in zip(together, listed, strict=True):
            assert torch.allclose(base.lm_head.logits(found), alone(base, text)[-1], atol=1e-3)
    check_reading(base)


@pytest.mark.parametrize("family", [*FAMILIES, *STATES])
def test_log_probabilities_and_their_gradient_are_those_of_the_model_itself(family):
    base, temperature = base_of(family, 2), 0.7
    if family == "Phi":
        base.causal_lm.get_output_embeddings().bias.data.normal_(generator=torch.Generator().manual_seed(0))
    base.add(POLICY, trainable=True)
    text, said = torch.tensor(TEXTS[0]), torch.tensor(TEXTS[0][1:])

    def own():
        with base.acting_as(POLICY):
            logits = base.causal_lm(input_ids=text[None]).logits[0, :-1]
        return (logits / temperature).log_softmax(-1).gather(1, said[:, None]).squeeze(1)

    def training():
        return token_logprobs(base.encode([TEXTS[0]], POLICY)[0][0, :-1], base.lm_head, said, temperature=temperature)[0]

    def gradient(of):
        for parameter in base.parameters(POLICY):
            parameter.grad = None
        (of() * torch.arange(1.0, len(said) + 1)).sum().backward()
        return torch.cat([p.grad.flatten() for p in base.parameters(POLICY)])

    assert torch.allclose(training(), own(), atol=1e-4)
    expected = gradient(own)
    assert expected.abs().max() > 0.1 and torch.allclose(gradient(training), expected, atol=1e-3 * float(expected.abs().max()))
    check_reading(base)


def test_learned_positions_count_real_tokens_alone():
    """With rotary positions a row may begin anywhere: only the distance of two tokens counts. Here a shifted row is another text."""
    base = base_of("OPT", ffn_dim=64, word_embed_proj_dim=32)
    base.add(POLICY, trainable=True)
    together = sample(base.causal_lm, TEXTS, Sampling(6, 0.0), eos_id=-1, pad_id=0)
    for text, found in zip(TEXTS, together, strict=True):
        ids = list(text)
        for _ in range(6):
            ids.append(int(alone(base, ids)[-1].argmax()))
        assert list(found.ids) == ids[len(text) :]
    with torch.no_grad():
        for text, states in zip(TEXTS, base.encode(TEXTS, POLICY)[0], strict=True):
            assert torch.allclose(states[: len(text)] @ base.lm_head.weight.T, alone(base, text), atol=1e-3)


def test_the_windows_are_short_enough_to_matter():
    """Else the test above would pass without any: the first tokens of a text no longer reach the last one's layer."""
    for family in ("Mistral", "Qwen2", "Gemma3Text"):
        near, far = base_of(family), base_of(family, sliding_window=64)
        assert not torch.allclose(alone(near, TEXTS[0])[-1], alone(far, TEXTS[0])[-1], atol=1e-2)


@pytest.mark.parametrize(
    ("family", "more", "last_layers"),
    [
        ("FalconH1", {"lm_head_multiplier": 0.25, "embedding_multiplier": 3.0}, 2),
        ("OPT", {"ffn_dim": 64, "word_embed_proj_dim": 32}, 2),
    ],
)
def test_a_model_that_training_would_misread_is_refused(family, more, last_layers):
    said = "Leave out lora.last_layers" if last_layers else "Take another model"
    with pytest.raises(UserError, match=f"{family}.* makes its logits in a way that training does not know.*{said}"):
        check_reading(base_of(family, last_layers, **more))


@pytest.mark.parametrize("made", ["scale", "cap", "bias"])
def test_logits_that_the_config_does_not_explain_are_noticed(made, monkeypatch):
    """What a family of tomorrow may do under another name: the model does it, and nobody told `LMHead`."""
    base = base_of("Phi" if made == "bias" else "Granite" if made == "scale" else "Gemma2")
    if made == "bias":
        base.causal_lm.get_output_embeddings().bias.data.normal_(generator=torch.Generator().manual_seed(0))
    check_reading(base)
    told = base.lm_head
    monkeypatch.setattr(SharedBase, "lm_head", replace(told, **{made: LMHead(told.weight).__dict__[made]}))
    with pytest.raises(UserError, match="makes its logits in a way"):
        check_reading(base)


def test_a_cap_above_all_logits_is_a_cap(monkeypatch):
    """It changes them by a few hundredths at most, of which an adapter would be trained on every token; and its name is another here."""
    base = base_of("RecurrentGemma", lru_width=32, attention_window_size=WINDOW, logits_soft_cap=200.0)
    base.lm_head.weight.data.normal_(generator=torch.Generator().manual_seed(0))
    check_reading(base)
    assert 0.2 * base.lm_head.cap < alone(base, TEXTS[0]).abs().max() < 0.3 * base.lm_head.cap
    monkeypatch.setattr(SharedBase, "lm_head", replace(base.lm_head, cap=None))
    with pytest.raises(UserError, match="RecurrentGemmaForCausalLM makes its logits in a way"):
        check_reading(base)


def test_rounding_is_no_other_model():
    base = base_of("Gemma2")
    base.causal_lm.to(torch.bfloat16)
    check_reading(base)


def test_a_model_that_minds_what_stands_beside_an_answer_is_refused():
    """Its positions are learned ones that it counts by itself, whatever it is told."""
    more = {"d_model": 32, "decoder_layers": 2, "decoder_attention_heads": 4, "decoder_ffn_dim": 64, "encoder_layers": 1}
    with pytest.raises(UserError, match="PLBartForCausalLM reads an answer otherwise where another one stands beside it"):
        check_reading(base_of("PLBart", num_hidden_layers=2, **more))


def test_a_cache_that_rows_cannot_come_and_go_in_is_one_line():
    with pytest.raises(UserError, match="MiniMaxForCausalLM cannot draw tokens for rows that come and go .ValueError: MiniMax uses cache of its own"):
        check_reading(base_of("MiniMax", head_dim=8, num_local_experts=4, num_experts_per_tok=2))


def test_every_run_asks(monkeypatch, namespace):
    from pipeline import roles

    base = base_of("OPT", 2, ffn_dim=64, word_embed_proj_dim=32)
    monkeypatch.setattr(roles, "load", lambda settings: (base.causal_lm, base.tokenizer))
    with pytest.raises(UserError, match="training does not know"):
        open_base(namespace(model=namespace(gradient_checkpointing=False), lora=LoraConfig(last_layers=2)))


def test_a_family_that_cannot_be_run_in_parts_is_one_line():
    with pytest.raises(UserError, match="GPT2Model keeps its layers under another name"):
        base_of("GPT2", n_embd=32, n_layer=2, n_head=2)


@pytest.mark.parametrize("family", STATES)
def test_answers_are_not_put_side_by_side_where_layers_carry_a_state(family):
    """Their kinds are a field of the config, or follow from the architecture."""
    base = base_of(family)
    assert not base.side_by_side and base_of("Gemma3Text").side_by_side
    layout = Lists.of([(TEXTS[0], TEXTS[1:])], 0)
    with pytest.raises(ValueError, match="carry a state from token to token"):
        base.list_states(base.list_trunk(layout), layout, BASE)


def test_what_a_kernel_reads_past_its_layer_is_not_adapted():
    base = base_of("Mamba", state_size=4)
    base.add(POLICY, trainable=True)
    assert {name.split(".")[-3] for name in base.state(POLICY)} == {"in_proj", "x_proj", "dt_proj"}
    with pytest.raises(UserError, match="lora.target_modules: out_proj of MambaModel cannot be adapted"):
        base_of("Mamba", targets=["out_proj"], state_size=4)


def test_a_model_whose_layers_look_tokens_up_is_refused():
    more = {**FAMILIES["Gemma4Text"], "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": VOCABULARY}
    with pytest.raises(UserError, match="every layer of Gemma4ForCausalLM looks tokens up by itself"):
        check_reading(base_of("Gemma4Text", **more))


def test_kinds_of_layers_that_do_not_follow_the_parts_are_noticed():
    """They stand by their numbers: in the upper part, layer 1 is another one. Only padding tells, which no text alone has."""
    with pytest.raises(UserError, match="BambaForCausalLM cannot be read the way training does .*Leave out lora.last_layers"):
        check_reading(base_of("Bamba", 2, **BAMBA))
    check_reading(base_of("Bamba", **BAMBA))


def test_the_door_takes_no_chance_from_the_run():
    """What is made at random afterwards, adapters first, is the same whether a model was asked in or not."""
    base = base_of("Llama")
    before = torch.get_rng_state()
    check_reading(base)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_model_that_passes_over_the_cache_is_refused():
    """Mamba has another name for it, and draws every token as if nothing stood before; it is read well."""
    with pytest.raises(UserError, match="MambaForCausalLM draws otherwise than it reads.*nats on average"):
        check_reading(base_of("Mamba", state_size=4))


def test_a_model_that_cannot_be_read_in_parts_is_one_line(monkeypatch):
    base = base_of("Llama", 2)
    monkeypatch.setattr(base, "_trunk", lambda **given: {}["sliding_attention"])
    with pytest.raises(UserError, match="LlamaForCausalLM cannot be read the way training does .KeyError.*Leave out lora.last_layers"):
        check_reading(base)
    monkeypatch.setattr(base, "_trunk", lambda **given: (_ for _ in ()).throw(torch.OutOfMemoryError("out of memory")))
    with pytest.raises(torch.OutOfMemoryError):
        check_reading(base)


@pytest.mark.parametrize("family", [*FAMILIES, *STATES])
def test_rows_that_come_and_go_are_drawn_as_they_would_be_alone(family):
    """Greedily; the end is a token that the first row comes to after two, and its neighbours do not."""
    base = base_of(family)
    expected = []
    for text in TEXTS:
        ids = list(text)
        for _ in range(4):
            ids.append(int(alone(base, ids)[-1].argmax()))
        expected.append(ids[len(text) :])
    eos = expected[0][1]
    together = sample(base.causal_lm, TEXTS, Sampling(4, 0.0), eos_id=eos, pad_id=0)
    cut = [ids[: ids.index(eos) + 1] if eos in ids else ids for ids in expected]
    assert [list(found.ids) for found in together] == cut and len({len(ids) for ids in cut}) > 1
