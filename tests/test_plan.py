"""The memory plan against counts from elsewhere: real modules, torch's own saved tensors, published sizes."""

import inspect
import json
from dataclasses import replace

import pytest
import torch
import transformers

from data.errors import UserError
from pipeline.adapters import POLICY, REFERENCE, Batch, SharedBase
from pipeline.config import Config, LoraConfig
from pipeline.planning import here, memory, rows, show
from pipeline.planning.plan import make_plan
from pipeline.planning.shapes import KNOWN, Shape, shape_in, shape_of

DATA = {"demonstrations": "-", "rankings": "-", "heldout_prompts": "-"}
GATED = {
    "model_type": "llama", "hidden_size": 96, "intermediate_size": 160, "num_hidden_layers": 3, "num_attention_heads": 6,
    "num_key_value_heads": 2, "vocab_size": 300, "tie_word_embeddings": False,
}  # fmt: skip
NORMED = {**GATED, "model_type": "qwen3", "head_dim": 16}
CAPPED = {**GATED, "model_type": "gemma2", "head_dim": 16, "attn_logit_softcapping": 50.0, "tie_word_embeddings": True}
FOUR_NORMS = {**GATED, "model_type": "gemma3_text", "head_dim": 16, "tie_word_embeddings": True}
ONE_MATRIX = {**GATED, "model_type": "phi3", "pad_token_id": 0}
OLD = {
    "model_type": "gpt_neox", "hidden_size": 96, "intermediate_size": 160, "num_hidden_layers": 3, "num_attention_heads": 6,
    "vocab_size": 300, "tie_word_embeddings": False,
}  # fmt: skip


def model_of(config: dict, dtype=torch.float32):
    from transformers import AutoConfig, AutoModelForCausalLM

    settings = {k: v for k, v in config.items() if k != "model_type"}
    made = AutoModelForCausalLM.from_config(AutoConfig.for_model(config["model_type"], **settings))
    return made.to(dtype).eval().requires_grad_(False)


def written(tmp_path, config: dict):
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


@pytest.mark.parametrize(
    "config", [GATED, {**GATED, "tie_word_embeddings": True}, CAPPED, ONE_MATRIX], ids=["untied", "tied", "four norms", "one matrix"]
)
def test_parameters_are_those_of_the_model(tmp_path, config):
    shape = shape_in(written(tmp_path, config) / "config.json")
    assert shape.parameters == sum(p.numel() for p in model_of(config).parameters())


def test_parameters_of_an_older_family_but_for_the_biases_of_its_norms(tmp_path):
    shape = shape_in(written(tmp_path, OLD) / "config.json")
    assert shape.parameters + (2 * 3 + 1) * 96 == sum(p.numel() for p in model_of(OLD).parameters())


# What each model's card says, in billions.
@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("meta-llama/Llama-3.1-8B", 8.03), ("meta-llama/Llama-3.2-1B", 1.236), ("Qwen/Qwen3-8B", 8.19), ("Qwen/Qwen3-0.6B", 0.596),
        ("EleutherAI/pythia-1b-deduped", 1.0117), ("HuggingFaceTB/SmolLM2-135M-Instruct", 0.1345),
        ("HuggingFaceTB/SmolLM2-1.7B-Instruct", 1.711),
    ],
)  # fmt: skip
def test_known_shapes_have_the_published_number_of_parameters(name, billions):
    assert shape_of(name).parameters / 1e9 == pytest.approx(billions, rel=2e-3)


@pytest.mark.parametrize("last_layers", [None, 2])
def test_adapters_have_as_many_parameters_as_peft_gives_them(tmp_path, last_layers):
    shape = shape_in(written(tmp_path, GATED) / "config.json")
    base = SharedBase(model_of(GATED), None, LoraConfig(rank=4, last_layers=last_layers))
    base.add(POLICY, trainable=True)
    assert memory.adapter_parameters(shape, 4, last_layers or 3) == sum(p.numel() for p in base.parameters(POLICY))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("config", [GATED, NORMED, CAPPED, FOUR_NORMS, OLD], ids=["gated", "qk-norm", "capped", "four norms", "fused"])
def test_what_a_layer_keeps_for_its_backward_pass_is_what_torch_keeps(tmp_path, config, dtype):
    """One layer more, less one layer less, over one and the same batch: what surrounds the layers falls out. One row is shorter, as most are."""
    shape = shape_in(written(tmp_path, config) / "config.json")
    rows, tokens, kept = 4, 64, []
    for layers in (1, 2):
        base = SharedBase(model_of(config, dtype), None, LoraConfig(rank=4, last_layers=layers))
        base.add(POLICY, trainable=True)
        own = {p.untyped_storage().data_ptr() for p in base.causal_lm.parameters()}
        seen: dict[int, torch.Tensor] = {}

        def note(tensor, own=own, seen=seen):
            if (place := tensor.untyped_storage().data_ptr()) not in own:
                seen[place] = tensor
            return tensor

        mask = torch.ones(rows, tokens, dtype=torch.bool)
        mask[0, -1] = False
        batch = Batch(torch.randint(0, 300, (rows, tokens)), mask)
        trunk = base.trunk(batch)
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            base.states(trunk, batch.mask, POLICY)
        kept.append(sum(t.untyped_storage().nbytes() for t in seen.values()))
    expected = rows * tokens * memory.layer_activations(shape, 4, memory.Numbers(dtype.itemsize), length=tokens)
    assert kept[1] - kept[0] == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"layer_types": ["linear_attention", "full_attention"]}, "layers of the kind linear_attention"),
        ({"mamba_d_state": 16}, "layers of the kind mamba"),
        ({"head_dim": 16, "global_head_dim": 32}, "layers of several shapes"),
        ({"num_experts": 8}, "a mixture of experts"),
    ],
)
def test_what_the_formulas_are_not_made_for_is_not_planned(tmp_path, more, why):
    with pytest.raises(UserError, match=f"{why}, whose memory this plan does not know"):
        shape_in(written(tmp_path, {**GATED, **more}) / "config.json")


def test_the_cache_is_as_large_as_the_models(tmp_path):
    from transformers import DynamicCache

    shape = shape_in(written(tmp_path, GATED) / "config.json")
    cache = DynamicCache()
    model_of(GATED)(torch.randint(0, 300, (2, 10)), past_key_values=cache, use_cache=True)
    held = sum(t.numel() * t.element_size() for layer in cache.layers for t in (layer.keys, layer.values))
    # The plan counts one layer twice, for the moment in which it grows.
    assert memory.cache(shape, 20, memory.Numbers(4)) == held * 4 / 3


def test_four_bits_take_what_qlora_says():
    """Dettmers et al. 2023, section 3: block 64 costs half a bit a parameter, double quantization brings that to 0.127 bits."""
    shape = KNOWN["meta-llama/Llama-3.1-8B"]
    linear = shape.layers * shape.linear_parameters
    rest = shape.other_parameters * 2
    assert (memory.weights(shape, memory.Numbers(2, "4bit")) - rest) * 8 / linear == pytest.approx(4.127, abs=1e-3)
    assert memory.weights(shape, memory.Numbers(2)) == 2 * shape.parameters


def config_of(name="meta-llama/Llama-3.1-8B", **changes):
    return Config.model_validate({"model": {"name": name, **changes.pop("model", {})}, "data": DATA, **changes})


def test_each_setting_moves_the_part_that_it_is_about():
    plain = {s.name: s for s in make_plan(config_of(), on_gpu=True, bfloat16=True).stages}

    def stage(name, **changes):
        return next(s for s in make_plan(config_of(**changes), on_gpu=True, bfloat16=True).stages if s.name == name)

    assert stage("ppo", model={"quantization": "4bit"}).parts["weights"] < plain["ppo"].parts["weights"] / 2.5
    eight = stage("ppo", ppo={"optimizer": "paged_adamw_8bit"}).parts["optimizer"]
    # Moments of a byte and a 64th, gradients of four: 6.03 bytes instead of 12.
    assert eight / plain["ppo"].parts["optimizer"] == pytest.approx(6.03 / 12, abs=0.01)
    assert (
        stage("ppo", model={"gradient_checkpointing": True}).moments["learning"] < plain["ppo"].moments["learning"] / 4
    )
    assert stage("ppo", ppo={"micro_batch": 4}).moments["learning"] < plain["ppo"].moments["learning"] / 2
    assert stage("ppo", lora={"last_layers": 8}).parts["adapters"] == plain["ppo"].parts["adapters"] / 4
    assert stage("ppo", reward={"members": 3}).parts["adapters"] == plain["ppo"].parts["adapters"] * 6 / 4
    assert plain["ppo"].tokens["drawn"] == 20 * 32 * 32


def test_kto_is_planned_in_ppo_s_place_with_its_own_batch_and_roles(tmp_path):
    """By hand: 80 thumbs, a tenth kept out, in batches of 16 twice are 10 steps; looks before the first, and after 4, 8 and 10."""
    thumbs = tmp_path / "thumbs.jsonl"
    thumbs.write_text("{}\n" * 80)

    def stage(**changes):
        learner = {"learner": "kto", "data": {**DATA, "thumbs": str(thumbs)}, "kto": {"epochs": 2}}
        stages = make_plan(config_of(**{**learner, **changes}), on_gpu=True, bfloat16=True).stages
        assert [s.name for s in stages] == ["sft", "reward", changes.get("learner", "kto"), "evaluate"]
        return stages[2]

    plain = stage()
    ppo = make_plan(config_of(), on_gpu=True, bfloat16=True).stages[2]
    # Policy and reference of PPO's four roles, and one of its two that learn.
    assert plain.parts["adapters"] == ppo.parts["adapters"] / 2 and plain.parts["optimizer"] == ppo.parts["optimizer"] / 2
    assert plain.tokens == {"learnt": 72 * 2 * 128, "read": 3 * 72 * 2 * 128, "drawn": 4 * 24 * 32}
    half = stage(kto={"epochs": 2, "batch_size": 8}).moments
    # All but the logits of TRL's trainer, whose tile has a size of its own.
    logits = [memory.trainer_logits(KNOWN["meta-llama/Llama-3.1-8B"], tokens, memory.Numbers(2, on_card=True)) for tokens in (1024, 2048)]
    assert half["learning"] - logits[0] == pytest.approx((plain.moments["learning"] - logits[1]) / 2)
    assert stage(ppo={"micro_batch": 1}).moments == plain.moments
    assert stage(detectors={"enabled": False}).moments.keys() == {"learning"}
    assert stage(detectors={"enabled": False}).tokens["drawn"] is None
    judged = {"evaluation": {"gold": "test_model"}, "reward": {"test_share": 0.3}}
    assert stage(**judged).parts["adapters"] == plain.parts["adapters"] * 3 / 2
    # PPO has two roles more than KTO, and asks the test model on the same terms.
    for changes, more in (({}, 1), ({"detectors": {"enabled": False}}, 0), ({"detectors": {"judge_every": 0}}, 0)):
        asked = [stage(**judged, **changes), stage(**judged, **changes, learner="ppo", kto={})]
        assert [s.parts["adapters"] / (plain.parts["adapters"] / 2) for s in asked] == [2 + more, 4 + more]
        assert ("reading for the judge" in asked[1].moments) == bool(more)
    small = make_plan(config_of(learner="kto", kto={"batch_size": 512}), on_gpu=True, bfloat16=True)
    assert "lower kto.batch_size" in "\n".join(show.lines(small, 24e9, {}))


def test_each_stage_is_planned_with_its_own_optimizer():
    """8-bit moments in SFT alone; the stages that keep Adam's four bytes a moment keep them in the plan too."""
    plain, mixed = (
        {s.name: s.parts["optimizer"] for s in make_plan(config_of(**changes), on_gpu=True, bfloat16=True).stages}
        for changes in ({}, {"sft": {"optimizer": "paged_adamw_8bit"}})
    )
    assert mixed["sft"] < plain["sft"] * 0.6 and mixed["ppo"] == plain["ppo"] and mixed["reward"] == plain["reward"]


def test_what_is_read_without_learning_is_planned_as_many_rows_as_are_read():
    """The code reads so many at once whatever the micro-batch is: with one row learnt from at a time, reading is what fills the memory."""
    from pipeline.memory import READ_AT_ONCE
    from pipeline.planning.plan import LISTS_AT_ONCE
    from pipeline.roles import RewardModel

    small = {"reward": {"micro_lists": 1, "max_tokens": 4096}, "model": {"gradient_checkpointing": True}}
    stages = {s.name: s for s in make_plan(config_of(**small), on_gpu=True, bfloat16=True).stages}
    shape = KNOWN["meta-llama/Llama-3.1-8B"]
    assert stages["reward"].moments["measuring the scale"] == memory.forward(shape, 32 * 4096, memory.Numbers(2), length=4096)
    assert stages["evaluate"].fullest.startswith("reading") and READ_AT_ONCE == 32
    assert inspect.signature(RewardModel.score_lists).parameters["batch_size"].default == LISTS_AT_ONCE


def test_rows_of_a_file_that_is_there_give_tokens_and_answers(tmp_path):
    """Seven rows, a tenth of the questions kept out: by hand. A file that is not there leaves the tokens unknown."""
    file = tmp_path / "rows.jsonl"
    answers = [2, 3, 2, 2, 3, 2, 2]
    file.write_text("\n".join(json.dumps({"responses": ["x"] * n}) for n in answers) + "\n\nno JSON\n")
    data = {**DATA, "demonstrations": str(file), "rankings": str(file), "max_prompt_tokens": 100, "limit": 7}
    settings = {
        "data": data,
        "sft": {"epochs": 2, "max_tokens": 200},
        "reward": {"epochs": 1, "max_tokens": 300, "members": 2, "test_share": 0.5, "mismatched_negatives": True},
    }
    made = Config.model_validate({"model": {"name": "meta-llama/Llama-3.1-8B"}, **settings})
    stages = {s.name: s for s in make_plan(made, on_gpu=True, bfloat16=True).stages}
    assert stages["sft"].tokens["learnt"] == round(7 * 0.9 * 2 * 200)
    # A prompt of 100 tokens and 3 + 1 answers of 200; two members on one half, the test model on the other.
    assert stages["reward"].tokens["learnt"] == round(7 * 0.9 * (100 + 4 * 200) * 1.5)
    assert {s.name: s for s in make_plan(config_of(), on_gpu=True, bfloat16=True).stages}["sft"].tokens["learnt"] is None
    said = "\n".join(show.lines(make_plan(made, on_gpu=True, bfloat16=True), None, {"learnt": 10.0}))
    assert f"at most {7 * 0.9 * 400 / 1e6:.2f} million tokens learnt; {7 * 0.9 * 400 / 10 / 3600:.1f} hours" in said


# Matrices of a layer, in × out: 64, 32, 32, 64 and three of 96 in 480 parameters; their outputs are 56 wide together.
SMALL = Shape(2, hidden=8, inner=12, heads=2, kv_heads=1, head_dim=4, vocabulary=30, tied=True)
SINGLE, HALF = memory.Numbers(4), memory.Numbers(2)


def test_bytes_of_a_small_model_by_hand():
    """Two layers; beside them 30 · 8 of the embedding and five norms of 8."""
    assert memory.weights(SMALL, memory.Numbers(2, "8bit")) == 2 * 480 + 2 * 56 * 4 + 280 * 2
    assert memory.unpacked(SMALL, HALF) == 0
    # The largest matrix has 96 numbers in blocks of 64: 1½ maxima of four bytes.
    assert memory.unpacked(SMALL, memory.Numbers(2, "4bit")) == 96 * 2 + 1.5 * 4
    # Ten tokens: both halves of 12 and four times the states of 8; in float32 twice 12, and the states where they are not float32.
    assert memory.forward(SMALL, 10, SINGLE, length=10) == 10 * (4 * 56 + 4 * 24)
    assert memory.forward(SMALL, 10, HALF, length=10) == 10 * (2 * 56 + 4 * 32)
    assert memory.forward(replace(SMALL, gated=False), 10, HALF, length=10) == 10 * (2 * 44 + 4 * 32)
    assert memory.forward(SMALL, 10, memory.Numbers(2, "4bit"), length=10) == 10 * (2 * 56 + 4 * 32) + 198
    # Scores that are capped are all made: of ten tokens each looks back on fifty, under two heads; beside them four times the queries.
    capped = replace(SMALL, capped_attention=True)
    assert memory.forward(capped, 10, HALF, length=50) == 10 * 2 * 50 * (2 + 4) + 10 * 2 * (2 * 8 + 4 * 8)
    one = 10 * memory.layer_activations(SMALL, 4, HALF, length=10)
    assert memory.backward(SMALL, 4, 2, 10, HALF, length=10) == 2 * one
    assert memory.backward(SMALL, 4, 2, 10, memory.Numbers(2, recompute=True), length=10) == one + 2 * 10 * 8 * 2
    # Logits of 256 positions at most, in the weights' numbers and two or three times in float32.
    assert memory.logits(SMALL, 1000, HALF, learning=True) == 256 * 30 * (2 + 3 * 4)
    assert memory.logits(SMALL, 100, HALF, learning=False) == 100 * 30 * (2 + 2 * 4)
    assert memory.sampling_logits(SMALL, 3, HALF) == 3 * 30 * (2 + 4 * 4)
    wide = replace(SMALL, vocabulary=40_000)
    assert memory.trainer_logits(SMALL, 10, HALF) == 10 * 30 * (2 + 7 * 4 + 1) + 10 * 8 * 4
    assert memory.trainer_logits(wide, 5000, memory.Numbers(2, on_card=True)) == 4096 * 32768 * 2 + 5000 * 8 * 4


def test_a_moment_holds_all_its_parts_at_once(tmp_path):
    """The parts have their own tests; here is which of them lie in memory together, and over how many rows of which length."""
    thumbs = tmp_path / "thumbs.jsonl"
    thumbs.write_text("{}\n")
    shape = KNOWN["tiny-random"]
    settings = {
        "data": {**DATA, "thumbs": str(thumbs), "max_prompt_tokens": 100},
        "lora": {"last_layers": 2, "rank": 4},
        "ppo": {"episodes": 8, "minibatch": 8, "micro_batch": 4, "max_new_tokens": 20, "rollout": {"batch": 6}},
        "kto": {"max_new_tokens": 30},
        "sft": {"max_tokens": 150},
        "evaluation": {"batch_size": 5, "max_new_tokens": 40},
        "detectors": {"judge_prompts": 7},
    }

    def moments(**more):
        made = config_of("tiny-random", **{**settings, **more})
        return {s.name: s.moments for s in make_plan(made, on_gpu=False, bfloat16=False).stages}

    def drawing(rows, length):
        parts = memory.cache(shape, rows * length, SINGLE), memory.sampling_logits(shape, rows, SINGLE)
        return sum(parts) + memory.forward(shape, rows, SINGLE, length=length)

    def reading(rows, length):
        return memory.cache(shape, rows * length, SINGLE) + memory.forward(shape, rows * length, SINGLE, length=length)

    plain = moments()
    assert plain["ppo"]["drawing"] == drawing(6, 120) and plain["ppo"]["reading the prompts"] == reading(6, 100)
    # The trunk's states of all eight answers; and of the four that are learnt from what backward passes keep, and logits of 80 tokens.
    kept = 8 * 120 * 64 * 4 + memory.backward(shape, 4, 2, 480, SINGLE, length=120)
    assert plain["ppo"]["learning"] == kept + memory.logits(shape, 80, SINGLE, learning=True)
    assert plain["evaluate"]["drawing"] == drawing(5, 140) and plain["evaluate"]["reading the prompts"] == reading(5, 100)
    assert plain["evaluate"]["reading answers"] == memory.forward(shape, 32 * 150, SINGLE, length=150)
    longer = moments(sft={"max_tokens": 110})["evaluate"]
    assert longer["reading answers"] == memory.forward(shape, 32 * 140, SINGLE, length=140)
    kto = moments(learner="kto")["kto"]
    assert kto["drawing for the detectors"] == drawing(7, 130)
    assert kto["reading for the detectors"] == memory.forward(shape, 7 * 130, SINGLE, length=130)


def test_known_shapes_hold_together():
    """Published vocabularies are filled up to a multiple of 64; but for Qwen3 0.6B the heads are together as wide as the states."""
    for name, shape in KNOWN.items():
        assert shape.vocabulary % 64 == 0 or name == "tiny-random"
        assert shape.query == shape.hidden or name == "Qwen/Qwen3-0.6B"
        assert shape.qk_norm == name.startswith("Qwen/Qwen3")


def test_a_shape_is_read_where_the_model_lies_or_was_left_by_a_download(tmp_path, monkeypatch):
    directory = written(tmp_path, GATED)
    expected = Shape(3, 96, 160, 6, 2, 16, 300, tied=False)
    assert shape_of(str(directory)) == expected
    left = {("some/body", "config.json"): str(directory / "config.json")}
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda name, file: left.get((name, file)))
    assert shape_of("some/body") == expected


def test_rows_and_answers_are_seen_without_reading_them_as_records(tmp_path):
    file = tmp_path / "rows.jsonl"
    # A carriage return between two fields ends no row.
    file.write_bytes(b'no JSON\n{"responses":\r ["a", "b"]}\n  \n{"responses": 7}\n[1, 2, 3]\n')
    assert rows.rows_of(str(file), None) == 4 and rows.rows_of(str(file), 3) == 3 and rows.answers_of(str(file)) == 2
    file.write_text('{"prompt": "q"}\n')
    assert rows.answers_of(str(file)) is None and rows.rows_of(str(tmp_path / "none.jsonl"), None) is None


def test_a_plan_says_what_fits_and_what_to_change_where_it_does_not(capsys):
    made = make_plan(config_of(), on_gpu=True, bfloat16=True)
    said = "\n".join(show.lines(made, 12e9, {}))
    assert "does not fit" in said and "model.quantization: 4bit" in said and "hours unknown" in said
    assert not show.fits(made, 12e9) and show.fits(made, 141e9)
    told = "\n".join(show.lines(made, None, {"drawn": 100.0, "read": 1000.0, "learnt": 500.0}))
    drawn, read, learnt = 20480 / 100, 61440 / 1000, 20 * 32 * 96 * 4 / 500
    assert f"{(drawn + read * 4 + learnt) / 3600:.1f} hours" in told and "say --memory" in told


@pytest.mark.parametrize(
    ("text", "size"), [("24GB", 24e9), ("23.5 GiB", 23.5 * 2**30), ("16000mb", 16e9), ("1T", 1e12)]
)
def test_memory_reads_as_people_write_it(text, size):
    assert show.parse_bytes(text) == size


@pytest.mark.parametrize("text", ["24", "GB", "-1GB", "24 cards"])
def test_other_words_for_memory_are_refused(text):
    with pytest.raises(UserError, match="24GB or 23.5GiB"):
        show.parse_bytes(text)


@pytest.mark.parametrize("text", ["drawn", "drawn=", "drawn=-3", "drawn=inf", "dreamt=3", "read=0"])
def test_other_words_for_a_rate_are_refused(text):
    with pytest.raises(UserError, match="tokens a second"):
        show.parse_rates([text])


def test_a_model_that_nobody_knows_is_said_with_the_way_on(tmp_path):
    with pytest.raises(UserError, match="is not known here"):
        shape_of("nobody/has-this-one")
    with pytest.raises(UserError, match="no hidden_size"):
        shape_in(
            written(
                tmp_path, {"num_hidden_layers": 2, "intermediate_size": 3, "num_attention_heads": 1, "vocab_size": 5}
            )
            / "config.json"
        )
    with pytest.raises(UserError, match="mixture of experts"):
        shape_in(written(tmp_path, {**GATED, "num_experts": 8}) / "config.json")


def test_the_lower_layers_of_an_older_family_run_without_its_final_norm():
    """GPT-NeoX calls it final_layer_norm; left in, the trunk's states would be normed twice."""
    model = model_of(OLD)
    base = SharedBase(model, None, LoraConfig(rank=4, last_layers=1, target_modules=["query_key_value"]))
    base.add(REFERENCE, trainable=False)
    ids = torch.randint(0, 300, (2, 12))
    batch = Batch(ids, torch.ones_like(ids, dtype=torch.bool))
    with torch.no_grad():
        whole = model.get_decoder()(ids).last_hidden_state
        assert torch.allclose(base.states(base.trunk(batch), batch.mask, REFERENCE), whole, atol=1e-5)


def test_prepare_says_that_the_machine_is_too_small_and_nothing_where_nothing_is_known(monkeypatch):
    monkeypatch.setattr(here, "this_machine", lambda model: (True, True, 12e9))
    assert here.warning(config_of()).startswith("memory: the plan is ") and "this card has 12.0 GB" in here.warning(
        config_of()
    )
    monkeypatch.setattr(here, "this_machine", lambda model: (True, True, 141e9))
    assert here.warning(config_of()) is None
    assert here.warning(config_of("nobody/has-this-one")) is None


def test_plan_is_a_verb_and_its_status_says_whether_it_fits():
    import subprocess
    import sys
    from pathlib import Path

    root = Path(__file__).resolve().parent.parent

    def plan(*words):
        command = [sys.executable, "run_pipeline.py", "plan", "--config", "configs/smoke.yaml", *words]
        return subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)

    fits = plan("--memory", "2GB")
    assert fits.returncode == 0 and "fits: " in fits.stdout
    small = plan("--memory", "2MB")
    assert small.returncode == 2 and "does not fit" in small.stdout and "nothing was started" in small.stderr


def test_keys_of_experts_without_a_value_are_no_experts(tmp_path):
    """As a dense model of a family that also has mixtures writes them."""
    dense = {**GATED, "num_experts": None, "num_local_experts": 0, "top_k_experts": None}
    assert shape_in(written(tmp_path, dense) / "config.json") == shape_in(written(tmp_path, GATED) / "config.json")


@pytest.mark.parametrize(("whole", "part", "tied"), [(True, False, True), (False, True, False), (None, False, False), (True, None, True)])
def test_whether_the_embeddings_are_tied_is_said_of_the_whole_model(tmp_path, whole, part, tied):
    from pipeline.models import _text_alone

    text = {**GATED, "model_type": "mistral", "tie_word_embeddings": part}
    config = {"model_type": "mistral3", "text_config": {k: v for k, v in text.items() if v is not None}}
    if whole is not None:
        config["tie_word_embeddings"] = whole
    assert shape_in(written(tmp_path, config) / "config.json").tied is tied
    if whole is not None:
        # As what is loaded.
        assert _text_alone(transformers.Mistral3Config(**config))["config"].tie_word_embeddings is tied
