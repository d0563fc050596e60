"""Drawing by the library's continuous batching: answers of the policy as the code that trains reads it, and nothing left behind."""

import gc
import os
import signal
import threading
from types import SimpleNamespace

import pytest
import torch
from transformers.generation.continuous_batching.cache import PagedAttentionCache

from pipeline import stopping
from pipeline.adapters import POLICY, REFERENCE, SharedBase
from pipeline.config import LoraConfig, ModelConfig
from pipeline.generation import Sampling, sample
from pipeline.memory import MicroBatch
from pipeline.models import load
from pipeline.rollouts import paged
from pipeline.rollouts.continuous import ContinuousEngine
from pipeline.rollouts.paged import PAGE
from pipeline.stopping import Stopped

PROMPTS = [[5, 6, 7, 8, 9, 10, 11], [12], [13, 14, 15], [20, 21, 22, 23]]


def drawn(base, sampling, *, prompts=PROMPTS, role=POLICY, engine=None, seed=3, batch_size=8):
    generator = torch.Generator().manual_seed(seed)
    with base.acting_as(role):
        return (engine or ContinuousEngine()).sample(
            base, prompts, sampling, generator=generator, batch_size=batch_size
        )


def ending_with(end):
    return type("T", (), {"eos_token_id": end, "pad_token_id": 3})()


@torch.no_grad()
def read(base, prompt, ids, role, temperature):
    """log softmax(z / τ) of an answer's tokens, the whole text in one pass."""
    states, _ = base.encode([[*prompt, *ids]], role)
    logits = states[0, len(prompt) - 1 : -1] @ base.lm_head.weight.T / temperature
    return logits.log_softmax(-1).gather(1, torch.tensor(ids)[:, None])[:, 0].tolist()


def threads() -> set[threading.Thread]:
    """Those at work, without the one that watches progress bars, which any test before may have begun."""
    return {t for t in threading.enumerate() if type(t).__name__ != "TMonitor"}


@pytest.fixture
def nothing_left(make_base):
    """A base, and afterwards: no thread and no page more, the attention, what learns, the role and torch's own chance as before."""
    base = make_base(POLICY, REFERENCE)
    base.tokenizer = ending_with(-1)
    model = base.causal_lm

    def state():
        learns = [p.requires_grad for p in model.parameters()]
        modes = [m.training for m in model.modules()]
        return model.config._attn_implementation, learns, modes, base.active, threads()

    before, chance = state(), torch.get_rng_state()
    yield base
    assert state() == before and torch.equal(torch.get_rng_state(), chance)
    assert not any(type(thing) is PagedAttentionCache for thing in gc.get_objects()) and not gc.get_freeze_count()


@pytest.mark.parametrize("batch_size", [8, 2])
def test_log_probabilities_are_those_of_the_code_that_trains(nothing_left, batch_size):
    """More rows than are drawn for at a time, and answers that go over the end of a page."""
    base, sampling = nothing_left, Sampling(PAGE + 9, 1.3)
    found = drawn(base, sampling, batch_size=batch_size)
    for prompt, answer in zip(PROMPTS, found, strict=True):
        assert len(answer.ids) == PAGE + 9 and not answer.finished
        assert answer.logprobs == pytest.approx(read(base, prompt, answer.ids, POLICY, 1.3), abs=1e-4)
    # The adapter that is active and no other; under the reference the same tokens are told apart by far.
    apart = [a - b for a, b in zip(found[0].logprobs, read(base, PROMPTS[0], found[0].ids, REFERENCE, 1.3), strict=True)]
    assert max(map(abs, apart)) > 0.1
    other = drawn(base, sampling, role=REFERENCE)
    assert other[1].logprobs == pytest.approx(read(base, PROMPTS[1], other[1].ids, REFERENCE, 1.3), abs=1e-4)


def test_the_attention_is_switched_for_the_time_only():
    """With eager attention, which every version of the library has another kind of for pages."""
    model, _ = load(ModelConfig(name="tiny-random", dtype="float32"))
    model.set_attn_implementation("eager")
    base, seen = SharedBase(model, ending_with(-1), LoraConfig(rank=4, last_layers=2)), []
    base.add(POLICY, trainable=True)
    with Failing(base, lambda: seen.append(model.config._attn_implementation)):
        found = drawn(base, Sampling(9, 1.0))
    assert model.config._attn_implementation == "eager" and set(seen) == {"paged|eager"}
    assert found[0].logprobs == pytest.approx(read(base, PROMPTS[0], found[0].ids, POLICY, 1.0), abs=1e-4)
    with Failing(base, raises(ValueError("no"))):
        drawn(base, Sampling(9, 1.0))
    assert model.config._attn_implementation == "eager"


def test_a_model_that_trains_goes_on_training(make_base):
    base = make_base(POLICY)
    base.tokenizer = ending_with(-1)
    base.causal_lm.train()
    drawn(base, Sampling(2, 1.0))
    assert all(m.training for m in base.causal_lm.modules())


@pytest.mark.parametrize(("ids", "logprobs"), [([], []), ([1, 2, 3], [-1.0] * 3), ([1, 2], [-1.0])])
def test_answers_that_cannot_be_are_a_failure(ids, logprobs):
    given = SimpleNamespace(generated_tokens=ids, logprobs=logprobs)
    with pytest.raises(paged.Failed, match=f"{len(ids)} tokens with {len(logprobs)} log-probabilities"):
        paged._answer(given, Sampling(2, 1.0), eos_id=9)


@pytest.mark.parametrize(("rows", "tokens"), [(3, paged.PASS_TOKENS), (paged.PASS_TOKENS + 5, paged.PASS_TOKENS + 5)])
def test_a_pass_has_room_for_a_token_of_every_row(rows, tokens):
    found = paged.settings(PROMPTS, Sampling(4, 1.0), rows, 0, flash=False, record=None)
    assert found.max_batch_tokens == tokens and found.max_requests_per_batch == rows
    # No text here goes over a page: one that is begun and one ahead, for each of the longest rows.
    assert found.num_blocks == 2 * min(rows, len(PROMPTS))


def test_a_failure_is_told_in_one_line_of_bounded_length():
    assert paged._first_line(ValueError(" x" * 300 + "\nmore")) == ("x " * 300)[:200]
    assert paged._first_line(KeyError()) == "KeyError"


def test_all_chance_follows_from_the_generator(nothing_left):
    one, again, other = (drawn(nothing_left, Sampling(12, 1.0), seed=seed) for seed in (3, 3, 4))
    assert one == again and one != other
    # Equal prompts get answers of their own.
    twins = drawn(nothing_left, Sampling(12, 1.0), prompts=[PROMPTS[0]] * 3)
    assert len({a.ids for a in twins}) == 3


def test_tokens_fall_as_often_as_their_probability_says(nothing_left):
    """The mean of −log p over n draws is the entropy, with variance Var(log p) / n."""
    base, n, temperature = nothing_left, 600, 0.2
    found = drawn(base, Sampling(1, temperature), prompts=[PROMPTS[0]] * n, batch_size=n)
    with torch.no_grad():
        states, _ = base.encode([PROMPTS[0]], POLICY)
        logprobs = (states[0, -1] @ base.lm_head.weight.T / temperature).log_softmax(-1).double()
    entropy = -(logprobs.exp() * logprobs).sum()
    spread = ((logprobs.exp() * logprobs**2).sum() - entropy**2).sqrt()
    seen = -torch.tensor([a.logprobs[0] for a in found], dtype=torch.double).mean()
    assert spread > 0.5 and abs(seen - entropy) < 4 * spread / n**0.5
    best = drawn(base, Sampling(1, 0.0), prompts=[PROMPTS[0]])[0]
    assert best.ids == (int(logprobs.argmax()),) and best.logprobs == (0.0,)


def test_an_answer_ends_at_the_tokenizers_end_and_at_no_other(nothing_left):
    base, sampling = nothing_left, Sampling(60, 1.0)
    ends = base.causal_lm.generation_config.eos_token_id
    base.causal_lm.generation_config.eos_token_id = list(range(200))
    try:
        whole = drawn(base, sampling)
        assert all(len(a.ids) == 60 and not a.finished for a in whole)
        # An end that some answer comes to before all others: up to there nobody's company has changed.
        end = whole[2].ids[20]
        base.tokenizer = ending_with(end)
        found = drawn(base, sampling)
    finally:
        base.causal_lm.generation_config.eos_token_id = ends
    first = min(a.ids.index(end) for a in whole if end in a.ids)
    for answer, plain in zip(found, whole, strict=True):
        assert answer.ids[: first + 1] == plain.ids[: first + 1] and len(answer.logprobs) == len(answer.ids)
        assert answer.finished == (end in answer.ids) == (answer.ids[-1] == end)
        assert answer.ids.count(end) == answer.finished and (answer.finished or len(answer.ids) == 60)
    assert any(a.finished and len(a.ids) == first + 1 for a in found)


def test_pages_are_as_many_as_the_rows_need(nothing_left):
    """Each row of those at work: its tokens, the page it has begun and one ahead. No figure of the machine's memory comes in."""
    settings = paged.settings(PROMPTS, Sampling(100), 2, 0, flash=False, record=None)
    assert 107 + 104 <= settings.num_blocks * PAGE <= 107 + 104 + 2 * 2 * PAGE
    assert settings.max_requests_per_batch == 2


class Failing:
    """The model's forward pass, which fails in the library's hands while more than `rows` are drawn for."""

    def __init__(self, base, error, *, rows=0):
        self.model, self.error, self.rows, self.count = base.causal_lm, error, rows, 0

    def __enter__(self):
        plain = self.model.forward

        def forward(*args, **kwargs):
            if "cu_seq_lens_q" in kwargs and len(kwargs["cu_seq_lens_q"]) - 1 > self.rows:
                self.count += 1
                if self.count > 1:
                    self.error()
            return plain(*args, **kwargs)

        self.model.forward = forward
        return self

    def __exit__(self, *_):
        del self.model.forward


def raises(error):
    def go():
        raise error

    return go


def test_when_memory_runs_out_fewer_rows_are_drawn_for(nothing_left):
    said = []
    at_once = MicroBatch(4, "ppo.rollout.batch", "ppo.max_new_tokens", said.append)
    engine = ContinuousEngine()
    with Failing(nothing_left, raises(RuntimeError("CUDA out of memory. Tried to allocate")), rows=2):
        found = at_once.attempt(lambda rows: drawn(nothing_left, Sampling(9, 1.0), engine=engine, batch_size=rows))
    assert at_once.size == 2 and len(said) == 1
    assert found == drawn(nothing_left, Sampling(9, 1.0), batch_size=2)


def test_a_rollout_that_the_library_fails_in_is_drawn_by_the_other_loop_and_the_next_by_it_again(nothing_left, capfd):
    """A run that is taken up after such a rollout knows nothing of it."""
    base, engine, sampling, before = nothing_left, ContinuousEngine(), Sampling(9, 1.0), threads()
    with Failing(base, raises(KeyError("such a model"))) as failing:
        found = drawn(base, sampling, engine=engine)
        assert failing.count == 2 and threads() == before
        again = drawn(base, sampling, engine=engine)
        # What measures the engine must know that it was not the library.
        assert "such a model" in engine.refused
    assert drawn(base, sampling, engine=engine) == drawn(base, sampling) and engine.refused is None
    said = capfd.readouterr().err
    assert said.count("ppo.rollout: ") == 1 and "such a model" in said and "engine hf draws this" in said
    assert "Traceback" not in said
    # The other loop from where the seed was drawn, at every rollout: also a run that tries the library anew comes to the same.
    generator = torch.Generator().manual_seed(3)
    torch.randint(2**62, (), generator=generator)
    with base.acting_as(POLICY):
        expected = sample(base.causal_lm, PROMPTS, sampling, eos_id=-1, pad_id=3, batch_size=8, generator=generator)
    assert found == again == expected


@pytest.mark.parametrize("raised", [KeyboardInterrupt, Stopped])
def test_ctrl_c_ends_the_thread_too(nothing_left, raised):
    """Python's own way, and that of a run, whose second signal ends at once."""
    sent = []

    def interrupt():
        # Once: the thread may read on until it is told, and a second one would end the wait for it.
        if not sent:
            sent.append(os.kill(os.getpid(), signal.SIGINT))

    old = signal.signal(signal.SIGINT, signal.default_int_handler)
    if raised is Stopped:
        signal.signal(signal.SIGINT, stopping._handle)
    try:
        with Failing(nothing_left, interrupt), pytest.raises(raised):
            drawn(nothing_left, Sampling(2000, 1.0))
    finally:
        signal.signal(signal.SIGINT, old)


@pytest.mark.parametrize(("factor", "temperature"), [(40, 1.0), (-1, 0.0)])
def test_a_model_that_the_library_misreads_is_not_drawn_from_by_it(nothing_left, capfd, factor, temperature):
    """Here: logits that the model scales in its own way, of which the code that trains knows nothing. Where the likeliest token is taken no
    log-probability can tell, and a factor above 0 would change nothing."""
    engine = ContinuousEngine()
    hook = nothing_left.causal_lm.get_output_embeddings().register_forward_hook(lambda m, x, logits: factor * logits)
    try:
        found = drawn(nothing_left, Sampling(9, temperature), engine=engine)
    finally:
        hook.remove()
    assert "nats a token from those that training reads" in capfd.readouterr().err
    assert len(found) == 4 and engine.refused
    assert drawn(nothing_left, Sampling(9, temperature), engine=(right := ContinuousEngine())) and right.refused is None


@pytest.mark.parametrize("kind", ["windows", "recurrent"])
def test_what_has_no_pages_is_left_to_the_other_loop(kind, capfd):
    from types import SimpleNamespace

    from transformers import MambaConfig, MambaForCausalLM, MistralConfig, MistralForCausalLM

    torch.manual_seed(0)
    sizes = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 2}
    heads = {"intermediate_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1, "sliding_window": 4}
    if kind == "windows":
        model = MistralForCausalLM(MistralConfig(**sizes, **heads))
    else:
        model = MambaForCausalLM(MambaConfig(**sizes, state_size=4))
    base = SimpleNamespace(causal_lm=model.eval(), tokenizer=ending_with(-1))
    prompts = PROMPTS if kind == "windows" else [p[:1] for p in PROMPTS]
    found = ContinuousEngine().sample(
        base, prompts, Sampling(6, 1.0), generator=torch.Generator().manual_seed(0), batch_size=8
    )
    assert [len(a.ids) for a in found] == [6] * 4
    said = capfd.readouterr().err
    assert said.count("ppo.rollout: the library's continuous batching cannot draw") == 1
    assert ("it keeps windows" if kind == "windows" else "MambaForCausalLM does not take its attention") in said
