"""Opening a base model: padding that is never an end, and weights that are the same each time."""

import json
from types import SimpleNamespace

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from data.errors import UserError
from pipeline.config import ModelConfig
from pipeline.models import load, load_tokenizer
from pipeline.step import StepContext

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


@pytest.fixture
def saved(tmp_path):
    """A model whose tokenizer pads with its end, as many are shipped; `rows` of its embedding, and more special tokens on request."""

    def make(*more: str, pad: str | None = SPECIAL[2], extra_rows: int = 0):
        special = [*SPECIAL, *more]
        vocabulary = {t: i for i, t in enumerate(special + sorted(pre_tokenizers.ByteLevel.alphabet()))}
        backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        backend.decoder = decoders.ByteLevel()
        backend.add_special_tokens(special)
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=SPECIAL[1], eos_token=SPECIAL[2], unk_token=SPECIAL[0])
        if pad:
            tokenizer.pad_token = pad
        sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
        torch.manual_seed(0)
        LlamaForCausalLM(LlamaConfig(vocab_size=len(vocabulary) + extra_rows, tie_word_embeddings=True, **sizes)).save_pretrained(tmp_path)
        tokenizer.save_pretrained(tmp_path)
        return ModelConfig(name=str(tmp_path), dtype="float32"), len(vocabulary)

    return make


@pytest.mark.parametrize("pad", [SPECIAL[2], None])
def test_padding_is_a_token_of_its_own(saved, pad):
    settings, size = saved(pad=pad)
    model, tokenizer = load(settings)
    assert tokenizer.eos_token == SPECIAL[2] and tokenizer.pad_token_id == size != tokenizer.eos_token_id
    assert model.config.pad_token_id == size and model.get_input_embeddings().weight.shape[0] == size + 1
    assert not any(p.requires_grad for p in model.parameters())
    # The end of an answer is nothing that padding hides.
    assert tokenizer.decode([tokenizer.eos_token_id]) == SPECIAL[2]


def test_a_reserved_token_is_taken_where_there_is_one(saved):
    settings, size = saved("<|reserved_7|>")
    model, tokenizer = load(settings)
    assert tokenizer.pad_token == "<|reserved_7|>" and model.get_input_embeddings().weight.shape[0] == size


def test_a_row_that_is_added_is_the_same_whatever_was_drawn_before(saved):
    settings, _ = saved()
    rows = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        rows.append(load(settings)[0].get_output_embeddings().weight[-1].clone())
        # No chance is taken from the run's own.
        assert seed or torch.equal(torch.get_rng_state(), before)
    assert torch.equal(*rows) and rows[0].any()


def test_a_tokenizer_of_another_model_is_refused(saved, tmp_path):
    settings, size = saved()
    tokenizer = load_tokenizer(settings)
    tokenizer.add_tokens(["one", "two"])
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=f"the tokenizer has {size + 3} tokens, the embedding {size} rows"):
        load(settings)


def test_a_figure_that_is_no_number_is_null_in_the_log(tmp_path):
    """Returns that do not vary have no explained variance; readers other than Python's know no NaN."""
    context = StepContext(config=None, run=None, out=tmp_path, inputs={}, resume_dir=None)
    context.log({"update": 0, "explained_variance": float("nan"), "ratio_max": float("inf"), "kl": 0.5, "name": "x"})
    (line,) = (tmp_path / "log.jsonl").read_text().splitlines()
    found = json.loads(line, parse_constant=lambda name: SimpleNamespace())
    assert found == {"update": 0, "explained_variance": None, "ratio_max": None, "kl": 0.5, "name": "x"}


VISION = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}


@pytest.mark.parametrize(
    ("family", "vision", "text"),
    [
        ("Gemma3", {}, {"sliding_window": 4, "head_dim": 8, "layer_types": ["sliding_attention", "full_attention"]}),
        ("Mistral3", {"model_type": "pixtral"}, {"model_type": "mistral", "head_dim": 8}),
        (
            "Gemma4",
            {},
            {
                "sliding_window": 4, "head_dim": 8, "global_head_dim": 8, "hidden_size_per_layer_input": 0, "num_kv_shared_layers": 0,
                "layer_types": ["sliding_attention", "full_attention"],
            },
        ),
        (
            "Qwen3_5",
            {},
            {
                "head_dim": 8, "linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
                "layer_types": ["linear_attention", "full_attention"],
            },
        ),
    ],
)
def test_of_a_model_that_reads_pictures_the_decoder_alone_is_loaded(saved, tmp_path, family, vision, text):
    settings, size = saved("<|reserved_7|>")
    text |= {"vocab_size": size, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = getattr(transformers, f"{family}Config")(
        text_config={**text, "num_key_value_heads": 1, "initializer_range": 0.3}, vision_config={**VISION, **vision}
    )
    whole = getattr(transformers, f"{family}ForConditionalGeneration")(config).eval()
    whole.save_pretrained(tmp_path)
    model, _ = load(settings)
    ids = torch.arange(3, 12)[None]
    assert torch.allclose(model(input_ids=ids).logits, whole(input_ids=ids).logits, atol=1e-5)
    assert not any("vision" in name for name, _ in model.named_parameters())
    assert sum(p.numel() for p in model.parameters()) < sum(p.numel() for p in whole.parameters())


def test_weights_that_are_not_there_are_not_made_up(saved, tmp_path):
    settings, _ = saved()
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    del tensors["model.layers.0.mlp.up_proj.weight"]
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match="lacks 1 of the weights that its config names, model.layers.0.mlp.up_proj.weight first"):
        load(settings)


def _cut(path):
    (path / "model.safetensors").write_bytes((path / "model.safetensors").read_bytes()[:-100])


def _pointer(path):
    (path / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")


def _config(**changed):
    def change(path):
        file = path / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changed))

    return change


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_cut, "could not be loaded .*Something in that directory is missing, damaged"),
        (_pointer, "could not be loaded .*Something in that directory is missing, damaged"),
        (_config(model_type="no-such"), "model type `no-such`"),
        (_config(num_attention_heads="two"), "Field 'num_attention_heads' expected int"),
        (_config(model_type="clip"), "could not be loaded .*CLIP"),
        (_config(intermediate_size=24), r"3 weights have another shape .*, model.layers.0.mlp.down_proj.weight first \(\(16, 16\), not \(16, 24\)\)"),
        (lambda path: (path / "config.json").write_text("[]"), "could not be loaded"),
        (lambda path: (path / "config.json").unlink(), "holds no model: no config.json is there"),
        (lambda path: (path / "tokenizer.json").unlink(), "could not be loaded|reads no word of"),
    ],
)
def test_a_base_that_is_damaged_or_none_is_one_line(saved, tmp_path, damage, said):
    settings, _ = saved()
    load(settings)
    damage(tmp_path)
    with pytest.raises(UserError, match=said) as raised:
        load(settings)
    assert len(raised.value.problems) == 1 and "\n" not in raised.value.problems[0]


def test_an_adapter_is_no_base(saved, tmp_path):
    settings, _ = saved()
    (tmp_path / "config.json").unlink()
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "org/base"}')
    with pytest.raises(UserError, match=r"holds an adapter.*Name the base that it was made for \(org/base\)"):
        load(settings)


def test_an_empty_tokenizer_that_the_library_makes_is_refused(saved, tmp_path):
    """A family with a class of its own has one for a folder without: its few special tokens, and every word is the unknown one."""
    settings, size = saved("<|reserved_7|>")
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8}
    transformers.Gemma2ForCausalLM(transformers.Gemma2Config(vocab_size=size, **sizes)).save_pretrained(tmp_path)
    for file in tmp_path.glob("tokenizer*"):
        file.unlink()
    assert len(transformers.AutoTokenizer.from_pretrained(tmp_path)) < 10
    with pytest.raises(UserError, match="its tokenizer reads no word of"):
        load(settings)
