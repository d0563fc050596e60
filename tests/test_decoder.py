"""Continuous batching: whoever comes and goes meanwhile, every row draws what it would draw alone."""

import random

import pytest
import torch
from transformers import DynamicCache, MistralConfig, MistralForCausalLM

from pipeline.decoder import Decoder
from pipeline.generation import stream
from pipeline.kv_cache import can_be_joined
from pipeline.sampling import Sampling

EOS, PAD, VOCABULARY = 0, 1, 60


@pytest.fixture(scope="module", params=["full", "sliding"])
def model(request, tiny_llama):
    """A decoder that looks back on everything, and one that looks back on 8 columns."""
    if request.param == "full":
        return tiny_llama
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}
    return MistralForCausalLM(
        MistralConfig(vocab_size=VOCABULARY, num_hidden_layers=2, sliding_window=8, initializer_range=0.3, **shape)
    ).eval()


@pytest.fixture(scope="module")
def tiny_llama():
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}
    return LlamaForCausalLM(
        LlamaConfig(vocab_size=VOCABULARY, num_hidden_layers=2, initializer_range=0.3, **shape)
    ).eval()


def requests(count, seed=0):
    """Prompts of 1 to 30 tokens, each with a way to draw and a seed of its own."""
    lots = random.Random(seed)
    ways = [(1.0, 1.0, 0), (0.0, 1.0, 0), (0.7, 0.8, 0), (1.3, 1.0, 5), (1.0, 0.9, 20)]
    for n in range(count):
        prompt = [lots.randrange(2, VOCABULARY) for _ in range(lots.choice((1, 1, 2, 5, 11, 30)))]
        temperature, top_p, top_k = lots.choice(ways)
        yield prompt, Sampling(lots.choice((1, 4, 12, 25)), temperature, top_p, top_k, seed=n)


def alone(model, prompt, sampling):
    return list(stream(model, [prompt], sampling, eos_id=EOS, pad_id=PAD))


def in_company(model, asked, places, lots):
    """Every request's steps, with at most `places` rows at once, joining and sometimes leaving between any two tokens."""
    decoder, waiting, said, left = Decoder(model, eos_id=EOS, pad_id=PAD), list(enumerate(asked)), {}, set()
    whose = {}
    while waiting or decoder.rows:
        while waiting and len(decoder.rows) < places and lots.random() < 0.5:
            number, (prompt, sampling) = waiting.pop(0)
            (row,) = decoder.join([prompt], sampling)
            whose[row], said[number] = number, []
        for step in decoder.step():
            said[whose[step.row]].append(step)
        if decoder.rows and lots.random() < 0.1:
            gone = lots.choice(decoder.rows)
            left.add(whose[gone])
            decoder.leave([gone])
    return said, left


def test_a_seed_draws_the_same_alone_and_in_company(model):
    asked = list(requests(40))
    said, left = in_company(model, asked, places=6, lots=random.Random(1))
    assert left and len(left) < len(asked), "some must leave early, and some stay"
    ends = set()
    for number, (prompt, sampling) in enumerate(asked):
        own = alone(model, prompt, sampling)
        if number in left:
            own = own[: len(said[number])]
        assert [(s.token, s.last) for s in said[number]] == [(s.token, s.last) for s in own], number
        assert [s.logprob for s in said[number]] == pytest.approx([s.logprob for s in own], abs=1e-4)
        ends.add((own[-1].token == EOS, own[-1].last))
    assert ends >= {(True, True), (False, True)}, "the case must hold answers that end and answers that are cut off"


def test_rows_of_one_call_share_its_generator_also_in_company(model):
    """A batch that joins another's draws what it would draw by itself."""
    prompts, sampling = [[3, 4, 5], [6] * 9, [7]], Sampling(15, 1.0, seed=4)
    own = [(s.row, s.token) for s in stream(model, prompts, sampling, eos_id=EOS, pad_id=PAD)]
    decoder = Decoder(model, eos_id=EOS, pad_id=PAD)
    decoder.join([[8] * 20, [9]], Sampling(30, 1.0, seed=5))
    for _ in range(6):
        decoder.step()
    first, *_ = rows = decoder.join(prompts, sampling)
    drawn = []
    while set(rows) & set(decoder.rows):
        drawn += [(s.row - first, s.token) for s in decoder.step() if s.row in rows]
    assert drawn == own


def test_columns_that_nobody_needs_any_more_go_when_the_next_one_joins(model):
    decoder = Decoder(model, eos_id=EOS, pad_id=PAD)
    (long,) = decoder.join([[5] * 200], Sampling(50, 0.0))
    decoder.join([[6] * 3], Sampling(50, 0.0))
    decoder.leave([long])
    decoder.join([[7] * 4], Sampling(50, 0.0))
    assert decoder._mask.shape == (2, 4) and decoder._cache.get_seq_length() == 3


def test_nothing_is_drawn_for_nobody_and_who_is_unknown_cannot_leave(model):
    decoder = Decoder(model, eos_id=EOS, pad_id=PAD)
    assert decoder.step() == [] and decoder.rows == ()
    (row,) = decoder.join([[5, 6]], Sampling(3, 0.0))
    decoder.leave([row + 1])
    assert decoder.rows == (row,)
    decoder.leave([row, row])
    # What nobody needs any more holds no memory.
    assert decoder.step() == [] and decoder._cache is None


def test_a_model_with_a_recurrent_state_lets_nobody_join_a_running_batch(tiny_llama):
    """Its state is a sum over all that was read, padding included: it cannot be set beside another's."""
    from transformers import Qwen3NextConfig

    hybrid = DynamicCache(config=Qwen3NextConfig(num_hidden_layers=4))
    assert not can_be_joined(hybrid) and can_be_joined(DynamicCache(config=tiny_llama.config))
    decoder = Decoder(tiny_llama, eos_id=EOS, pad_id=PAD)
    decoder.join([[5]], Sampling(3, 0.0))
    decoder._cache = hybrid
    with pytest.raises(ValueError, match="must join together"):
        decoder.join([[6]], Sampling(3, 0.0))
