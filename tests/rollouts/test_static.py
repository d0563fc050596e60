"""Drawing from a cache of fixed size: the same answers and log-probabilities as the loop whose rows come and go."""

from types import SimpleNamespace

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, Qwen2Config, Qwen2ForCausalLM

from pipeline.adapters import POLICY
from pipeline.generation import Sample, Sampling
from pipeline.rollouts.engine import InProcess
from pipeline.rollouts.static import LOOK_EVERY, StaticEngine, _cut

PROMPTS = [[5, 6, 7, 8, 9, 10, 11], [12], [13, 14, 15], [20, 21, 22, 23]]


def drawn(engine, base, prompts, sampling, batch_size=8):
    with base.acting_as(POLICY):
        return engine.sample(
            base, prompts, sampling, generator=torch.Generator().manual_seed(3), batch_size=batch_size
        )


@pytest.mark.parametrize("batch_size", [8, 2, 1])
@pytest.mark.parametrize("prompts", [PROMPTS, PROMPTS[1:2]], ids=["mixed", "one token"])
def test_answers_without_an_end_are_those_of_the_other_loop(make_base, prompts, batch_size):
    base = make_base(POLICY)
    # No token ends an answer, so that every row meets the same chance in both.
    base.tokenizer = type("T", (), {"eos_token_id": -1, "pad_token_id": 3})()
    sampling = Sampling(2 * LOOK_EVERY + 3, 1.2)
    expected, found = (drawn(e, base, prompts, sampling, batch_size) for e in (InProcess(), StaticEngine()))
    assert [a.ids for a in found] == [a.ids for a in expected] and not any(a.finished for a in found)
    for a, b in zip(found, expected, strict=True):
        assert a.logprobs == pytest.approx(b.logprobs, abs=1e-4)


def test_positions_are_those_that_the_other_loop_gives():
    """GPT-2 adds a learnt vector for each position; under rotations, which see differences alone, all could be shifted unseen."""
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=90, n_positions=32, n_embd=16, n_layer=2, n_head=2)).eval()
    for parameter in model.parameters():
        parameter.data.normal_(std=0.3)
    base = SimpleNamespace(causal_lm=model, tokenizer=SimpleNamespace(eos_token_id=-1, pad_token_id=3))
    expected, found = (
        e.sample(base, PROMPTS, Sampling(12, 1.0), generator=torch.Generator().manual_seed(3), batch_size=8)
        for e in (InProcess(), StaticEngine())
    )
    assert [a.ids for a in found] == [a.ids for a in expected]
    for a, b in zip(found, expected, strict=True):
        assert a.logprobs == pytest.approx(b.logprobs, abs=1e-4)


def test_an_answer_ends_at_its_first_end_and_all_stop_when_all_have(make_base):
    base = make_base(POLICY)
    sampling = Sampling(200, 1.0)
    endless = type("T", (), {"eos_token_id": -1, "pad_token_id": 3})()
    base.tokenizer = endless
    whole = drawn(StaticEngine(), base, PROMPTS, sampling)
    # An end that every answer comes to: the token that is the last of them to appear first.
    common = set.intersection(*(set(a.ids) for a in whole))
    firsts = {token: max(a.ids.index(token) for a in whole) for token in common}
    end = min(firsts, key=firsts.get)
    base.tokenizer = type("T", (), {"eos_token_id": end, "pad_token_id": 3})()
    calls = []
    plain = base.causal_lm.forward
    base.causal_lm.forward = lambda *a, **k: (calls.append(1), plain(*a, **k))[1]
    found = drawn(StaticEngine(), base, PROMPTS, sampling)
    for a, b in zip(found, whole, strict=True):
        first = b.ids.index(end) + 1
        assert a.ids == b.ids[:first] and a.finished and len(a.logprobs) == first
    assert len(calls) == -(-(firsts[end] + 1) // LOOK_EVERY) * LOOK_EVERY < 200


@pytest.mark.parametrize(
    ("drawn_ids", "kept", "finished"), [([5, 2, 7, 2], 2, True), ([5, 7, 2], 3, True), ([2, 7, 7], 1, True), ([5, 7, 8], 3, False)]
)
def test_an_answer_is_cut_after_the_first_of_its_ends(drawn_ids, kept, finished):
    """Rows go on until all have ended: what comes behind an end may hold another one, and the last token may be the first."""
    logprobs = [-float(i) for i, _ in enumerate(drawn_ids)]
    assert _cut(drawn_ids, logprobs, 2) == Sample(tuple(drawn_ids[:kept]), tuple(logprobs[:kept]), finished)


def test_a_pass_asks_no_tensor_for_its_number(make_base, monkeypatch):
    """While a card records, a number that Python waits for ends the recording. The CPU gives it without a word, so all ways to ask are shut."""
    from pipeline.rollouts import static

    base, seen = make_base(POLICY), []
    plain = static._step

    def shut(*args, **kwargs):
        step = plain(*args, **kwargs)

        def watched():
            def asked(*_, **__):
                raise AssertionError("a tensor was asked for its number")

            with monkeypatch.context() as patch:
                for name in ("item", "tolist", "__bool__", "__int__", "__float__", "__index__"):
                    patch.setattr(torch.Tensor, name, asked)
                seen.append(1)
                return step()

        return watched

    monkeypatch.setattr(static, "_step", shut)
    assert len(drawn(StaticEngine(), base, PROMPTS, Sampling(5, 1.0))) == 4 and len(seen) == 5


def test_another_kind_of_cache_is_drawn_from_by_the_other_loop(make_base, monkeypatch, capsys):
    from pipeline.rollouts import static

    base = make_base(POLICY)
    expected = drawn(InProcess(), base, PROMPTS, Sampling(6, 1.0))
    monkeypatch.setattr(static, "_filled", lambda *args, **kwargs: None)
    engine = StaticEngine()
    assert drawn(engine, base, PROMPTS, Sampling(6, 1.0)) == expected
    assert "engine static has no cache; engine hf draws" in capsys.readouterr().err
    drawn(engine, base, PROMPTS, Sampling(6, 1.0))
    assert not capsys.readouterr().err


def test_a_model_with_a_window_in_one_of_its_layers_is_drawn_from_by_the_other_loop(capsys):
    """A layer with a window keeps the last few keys: it is a kind of the layers that keep all, and has no place in this cache."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=90, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2,
        use_sliding_window=True, sliding_window=4, layer_types=["full_attention", "sliding_attention"],
    )  # fmt: skip
    tokenizer = SimpleNamespace(eos_token_id=-1, pad_token_id=3)
    base = SimpleNamespace(causal_lm=Qwen2ForCausalLM(config).eval(), tokenizer=tokenizer)
    expected, found = (
        e.sample(base, PROMPTS, Sampling(12, 1.0), generator=torch.Generator().manual_seed(3), batch_size=8)
        for e in (InProcess(), StaticEngine())
    )
    assert found == expected and "engine hf draws" in capsys.readouterr().err
