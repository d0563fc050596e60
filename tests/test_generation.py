"""The sampling loop: right probabilities, padding without effect, rows that leave, and stopping."""

import math
import threading

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from pipeline.generation import Sampling, draw, sample, stream

PROMPTS = [[5, 6, 7], [9, 10, 11, 12, 13, 14, 15], [8]]


@pytest.fixture
def model(make_base):
    return make_base().causal_lm


def teacher_forced(model, prompt, answer, temperature):
    """log π of each answer token from one forward pass over the unpadded text."""
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 : -1] / temperature
    return logits.log_softmax(-1).gather(1, torch.tensor(answer)[:, None])[:, 0].tolist()


def options(tokenizer):
    return {"eos_id": tokenizer.eos_token_id, "pad_id": tokenizer.pad_token_id}


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.6])
def test_logprobs_while_generating_equal_the_teacher_forced_ones(model, tokenizer, temperature):
    answers = sample(model, PROMPTS * 4, Sampling(20, temperature, seed=0), **options(tokenizer))
    for prompt, answer in zip(PROMPTS * 4, answers, strict=True):
        assert answer.logprobs == pytest.approx(teacher_forced(model, prompt, answer.ids, temperature), abs=1e-3)


def test_positions_are_counted_from_the_first_token_of_each_prompt():
    """A learnt vector for each position: under rotations, which see differences alone, all could be shifted unseen."""
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=90, n_positions=32, n_embd=16, n_layer=2, n_head=2)).eval()
    for parameter in model.parameters():
        parameter.data.normal_(std=0.3)
    for prompt, answer in zip(PROMPTS, sample(model, PROMPTS, Sampling(12, seed=0), eos_id=-1, pad_id=3), strict=True):
        assert answer.logprobs == pytest.approx(teacher_forced(model, prompt, answer.ids, 1.0), abs=1e-3)


def test_greedy_answers_do_not_depend_on_padding_or_company(model, tokenizer):
    together = sample(model, PROMPTS, Sampling(16, 0.0), **options(tokenizer))
    alone = [sample(model, [p], Sampling(16, 0.0), **options(tokenizer))[0] for p in PROMPTS]
    assert [a.ids for a in together] == [a.ids for a in alone]


def test_greedy_equals_the_librarys_generate(model, tokenizer):
    prompt = PROMPTS[1]
    theirs = model.generate(
        torch.tensor([prompt]),
        max_new_tokens=16,
        do_sample=False,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    assert (
        list(sample(model, [prompt], Sampling(16, 0.0), **options(tokenizer))[0].ids)
        == theirs[0, len(prompt) :].tolist()
    )


def test_an_answer_ends_at_its_first_eos_or_at_the_limit(model, tokenizer):
    eos = tokenizer.eos_token_id
    answers = sample(model, PROMPTS * 100, Sampling(60, 1.5, seed=3), **options(tokenizer))
    finished = [a for a in answers if a.finished]
    assert 0 < len(finished) < len(answers), "the case must hold both kinds"
    assert all(a.ids[-1] == eos and eos not in a.ids[:-1] for a in finished)
    assert all(len(a.ids) == 60 and eos not in a.ids for a in answers if not a.finished)


def test_rows_that_leave_do_not_disturb_those_that_stay(model, tokenizer):
    """Whatever the others did, each row's probabilities are those of its own text."""
    answers = sample(model, PROMPTS * 30, Sampling(60, 1.5, seed=3), batch_size=90, **options(tokenizer))
    lengths = [len(a.ids) for a in answers]
    assert len(set(lengths)) > 3
    for prompt, answer in list(zip(PROMPTS * 30, answers, strict=True))[::7]:
        assert answer.logprobs == pytest.approx(teacher_forced(model, prompt, answer.ids, 1.5), abs=1e-3)


def test_a_seed_repeats_and_another_differs(model, tokenizer):
    one, same, other = (sample(model, PROMPTS, Sampling(20, 1.0, seed=s), **options(tokenizer)) for s in (1, 1, 2))
    assert one == same and one != other


def test_draws_follow_the_softmax():
    logits = torch.tensor([[0.0, 1.0, 2.0, -1.0]]).repeat(200_000, 1)
    drawn, logprobs = draw(logits, Sampling(1, 0.5), torch.Generator().manual_seed(0))
    expected = (logits[0] / 0.5).softmax(-1)
    assert torch.bincount(drawn, minlength=4) / len(drawn) == pytest.approx(expected, abs=0.005)
    assert logprobs.exp() == pytest.approx(expected[drawn])


def test_as_it_stands_the_distribution_is_whole_and_is_counted_in_single_precision():
    """PPO's probabilities: of bfloat16 logits too, as a loop in double precision finds them."""
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(0)).mul(4).bfloat16()
    for sampling in (Sampling(1), Sampling(1, top_k=50), Sampling(1, top_p=1.0)):
        drawn, logprobs = draw(logits, sampling, torch.Generator().manual_seed(1))
        exact = [float(row[i]) - math.log(sum(math.exp(float(x)) for x in row)) for row, i in zip(logits, drawn, strict=True)]
        assert logprobs.tolist() == pytest.approx(exact, abs=1e-5)
    drawn, logprobs = draw(logits, Sampling(1, 0.0), None)
    assert drawn.tolist() == [max(range(50), key=lambda i: float(row[i])) for row in logits]
    assert logprobs.tolist() == [0.0] * 3 and logprobs.dtype == torch.float32


def test_top_k_and_top_p_cut_where_they_say():
    logits = torch.tensor([[4.0, 3.0, 2.0, 1.0]]).log_softmax(-1).repeat(4000, 1)  # 0.644 0.237 0.087 0.032
    assert set(draw(logits, Sampling(1, 1.0, top_k=1), torch.Generator().manual_seed(0))[0].tolist()) == {0}
    assert set(draw(logits, Sampling(1, 1.0, top_k=2), torch.Generator().manual_seed(0))[0].tolist()) == {0, 1}
    # A row alone, as in a chat: fewer rows than tokens to keep.
    chance = torch.Generator().manual_seed(0)
    assert {int(draw(logits[:1], Sampling(1, 1.0, top_k=2), chance)[0]) for _ in range(200)} == {0, 1}
    assert set(draw(logits, Sampling(1, 1.0, top_p=0.7), torch.Generator().manual_seed(0))[0].tolist()) == {0, 1}
    assert set(draw(logits, Sampling(1, 1.0, top_p=0.6), torch.Generator().manual_seed(0))[0].tolist()) == {0}


def test_stop_ends_the_stream_between_two_tokens(model, tokenizer):
    stop = threading.Event()
    steps = []
    for step in stream(model, [PROMPTS[0]], Sampling(50, 0.0), stop=stop, **options(tokenizer)):
        steps.append(step)
        if len(steps) == 3:
            stop.set()
    assert len(steps) == 3


def test_an_empty_prompt_is_refused(model, tokenizer):
    with pytest.raises(ValueError, match="at least one prompt token"):
        sample(model, [[5], []], Sampling(5), **options(tokenizer))
