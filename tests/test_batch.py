"""Answers of several checkpoints drawn side by side, on a tiny random model."""

import random

import pytest

from data.errors import UserError
from data.records import Message
from pipeline.adapters import BASE, POLICY, REFERENCE
from pipeline.assistant import Assistant
from pipeline.config import ChatConfig, ModelConfig
from pipeline.lineup import Checkpoint
from pipeline.sampling import Sampling

ROLES = {"base": BASE, "sft": REFERENCE, "ppo": POLICY}


@pytest.fixture
def assistant(make_base, namespace):
    config = namespace(chat=ChatConfig(), model=ModelConfig(name="tiny-random"))
    known = [Checkpoint(name, "r", name, role, name) for name, role in ROLES.items()]
    return Assistant(make_base(REFERENCE, POLICY), config, known)


def requests(count):
    lots = random.Random(3)
    words = ["tell", "me", "how", "to", "bake", "bread", "and", "keep", "it", "fresh", "for", "a", "week"]
    for n in range(count):
        question = " ".join(lots.choices(words, k=lots.choice((1, 4, 15))))
        sampling = Sampling(lots.choice((3, 10, 20)), lots.choice((0.0, 0.8, 1.5)), lots.choice((1.0, 0.9)), seed=n)
        yield [Message("user", question)], lots.choice(tuple(ROLES)), sampling


def whole(deltas):
    ids = tuple(i for delta in deltas for i in delta.token_ids)
    return "".join(delta.text for delta in deltas), ids, deltas[-1].finish, deltas[-1].prompt_tokens


def test_answers_are_those_of_each_checkpoint_alone(assistant):
    asked, lots = list(requests(16)), random.Random(0)
    batch, waiting, heard, whose = assistant.open_batch(), list(enumerate(asked)), {}, {}
    while waiting or len(heard) < len(asked) or not all(deltas[-1].finish for deltas in heard.values()):
        if waiting and lots.random() < 0.6:
            n, (messages, checkpoint, sampling) = waiting.pop(0)
            whose[batch.join(messages, checkpoint=checkpoint, sampling=sampling)] = n
        for number, delta in batch.step():
            heard.setdefault(whose[number], []).append(delta)
    alone = [whole(list(assistant.stream(m, checkpoint=c, sampling=s))) for m, c, s in asked]
    assert [whole(heard[n]) for n in range(len(asked))] == alone
    assert len({text for text, *_ in alone}) > 10, "random weights that say much the same would show nothing"
    assert assistant.base.active == "base"


def test_whoever_leaves_is_stopped_and_the_rest_goes_on(assistant):
    batch, question, sampling = assistant.open_batch(), [Message("user", "hi")], Sampling(5, 1.5, seed=1)
    goes = batch.join(question, checkpoint="ppo", sampling=Sampling(50, 1.5, seed=2))
    stays = batch.join(question, checkpoint="ppo", sampling=sampling)
    first = batch.step()
    last = batch.leave(goes)
    assert last.finish == "stopped" and last.prompt_tokens > 0
    heard = [delta for number, delta in first if number == stays]
    while not heard[-1].finish:
        heard += [delta for _, delta in batch.step()]
    assert whole(heard) == whole(list(assistant.stream(question, checkpoint="ppo", sampling=sampling)))
    assert batch.step() == []


def test_a_checkpoint_that_fails_takes_no_other_with_it(assistant):
    """A policy that has become NaN cannot be drawn from; the base beside it can."""
    for parameter in assistant.base.parameters(POLICY):
        parameter.data.fill_(float("nan"))
    batch, question = assistant.open_batch(), [Message("user", "hi")]
    fails = [batch.join(question, checkpoint="ppo", sampling=Sampling(4, 1.0, seed=n)) for n in range(2)]
    fine = batch.join(question, checkpoint="base", sampling=Sampling(4, 1.0, seed=1))
    heard = batch.step()
    assert [n for n, told in heard if isinstance(told, RuntimeError)] == fails
    assert next(n for n, told in heard if not isinstance(told, Exception)) == fine
    assert all(number == fine for number, _ in batch.step())
    with pytest.raises(RuntimeError):
        list(assistant.stream(question, checkpoint="ppo", sampling=Sampling(4, 1.0, seed=0)))


def test_what_does_not_fit_is_said_and_leaves_the_batch_as_it_was(assistant):
    batch = assistant.open_batch()
    long = [Message("user", "word " * 5000)]
    with pytest.raises(UserError, match="does not fit"):
        batch.join(long, checkpoint="ppo", sampling=Sampling(5))
    assert batch.step() == []
