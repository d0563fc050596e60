"""What does not fit into the model's context is told by whoever would read or draw it, also where the data were looked at long before."""

from pathlib import Path

import pytest
from thumbing import make_context

from data.errors import UserError
from data.records import Message, Prompt, Ranking, Thumb
from data.rows import thumb_row, write_rows
from pipeline.adapters import BASE
from pipeline.config import ModelConfig, load_config
from pipeline.evaluation.answers import answer_prompts
from pipeline.models import context_tokens, load
from pipeline.progress import track
from pipeline.stages import kto, prepare, reward
from pipeline.template import prompt_ids, response_ids

SMOKE = Path("configs/smoke.yaml")


def test_the_context_is_read_without_the_weights(tmp_path):
    from transformers import LlamaConfig, MambaConfig

    tiny = ModelConfig(name="tiny-random")
    assert context_tokens(tiny) == load(tiny)[0].config.max_position_embeddings
    for name, config, tokens in (("a", LlamaConfig(max_position_embeddings=77), 77), ("b", MambaConfig(), None)):
        config.save_pretrained(tmp_path / name)
        assert context_tokens(ModelConfig(name=str(tmp_path / name))) == tokens
    with pytest.raises(UserError, match="model.name"):
        context_tokens(ModelConfig(name=str(tmp_path / "c")))


def test_the_stage_that_looks_at_the_data_knows_the_models_context(namespace, tmp_path):
    config = load_config(SMOKE, ["ppo.max_new_tokens=1023", "evaluation.max_new_tokens=1023"])
    with pytest.raises(UserError) as caught:
        prepare.run(namespace(config=config, out=tmp_path))
    assert [line.split(":")[0] for line in caught.value.problems] == ["evaluation.max_new_tokens", "ppo.max_new_tokens"]


def test_an_evaluation_that_would_outgrow_it_draws_nothing(make_base):
    base, asked = make_base(), [Prompt("p", (Message("user", "Why?"),))]
    tokens = len(prompt_ids(base.tokenizer, asked[0].messages))
    config = load_config(SMOKE, ["evaluation.max_new_tokens=1020"])
    with pytest.raises(UserError, match=f"evaluation.max_new_tokens: 1020 tokens after a prompt of {tokens} exceed the model's context of 1024"):
        answer_prompts(base, BASE, asked, config, samples=1, progress=track, label="")


def folder_of(tmp_path, name):
    (tmp_path / name).mkdir()
    return tmp_path / name


def test_kto_and_its_watch_refuse_what_outgrows_it(tmp_path):
    with pytest.raises(UserError, match=r"kto.max_new_tokens: 1023 tokens after a prompt of \d+ exceed"):
        kto.run(make_context(folder_of(tmp_path, "a"), "kto.max_new_tokens=1023"))
    context = make_context(folder_of(tmp_path, "b"), "reward.max_tokens=4000")
    both = [Thumb(f"t{i}", (Message("user", f"q{i}"),), "y" * 1100, bool(i % 2)) for i in range(16)]
    write_rows(context.inputs["prepare"] / "thumbs.train.jsonl", map(thumb_row, both))
    with pytest.raises(UserError, match=r"reward.max_tokens: a prompt with its answer of 11\d\d tokens exceeds the model's context of 1024"):
        kto.run(context)


def test_rankings_that_outgrow_it_teach_no_reward_model(make_base):
    base = make_base()
    config = load_config(SMOKE, ["reward.max_tokens=4000"])
    ranking = Ranking("r", (Message("user", "q"),), ("y" * 1100, "n"), (0, 1), (True, True))
    tokens = len(prompt_ids(base.tokenizer, ranking.prompt)) + len(response_ids(base.tokenizer, "y" * 1100))
    with pytest.raises(UserError, match=f"reward.max_tokens: a prompt with its answer of {tokens} tokens exceeds"):
        reward._encoded(base, [ranking], config, "reward model")
