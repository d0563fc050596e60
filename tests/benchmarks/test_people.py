"""The floors, folds, agreement and readings that the experiments on people's labels rest on."""

import json
from collections import Counter
from itertools import product

import pytest
import torch

from benchmarks import labelled
from benchmarks.floors import folds, longer, others_agree
from benchmarks.trunk_cache import TrunkCache
from data.records import Message
from pipeline.adapters import REWARD


def test_longer_counts_characters():
    assert [longer(p) for p in [("abc", "de"), ("a", "bc"), ("ab", "cd")]] == [1.0, 0.0, 0.5]


def test_no_group_is_in_two_folds_and_folds_are_even():
    groups = ["a"] * 7 + ["b"] * 3 + [f"single {i}" for i in range(40)] + ["b"] * 2
    of = folds(groups, 5, seed=3)
    assert all(len({f for f, g in zip(of, groups, strict=True) if g == name}) == 1 for name in set(groups))
    sizes = Counter(of)
    assert set(sizes) == set(range(5)) and max(sizes.values()) - min(sizes.values()) <= 1
    assert of == folds(groups, 5, seed=3) != folds(groups, 5, seed=4)


def test_agreement_with_the_others_counted_by_hand():
    assert others_agree((1, 1, -1)) == [(0, 0.5), (1, 0.5), (2, 0.0)]  # the others: 1 and −1; −1 and 1; both 1
    assert others_agree((1, 1, 1)) == [(0, 1.0), (1, 1.0), (2, 1.0)]
    assert others_agree((1, 0, 0)) == [(0, 0.5)]  # the ties are judged by nobody, and judge as undecided
    assert others_agree((1, 0, -1)) == [(0, 0.0), (2, 0.0)]
    assert others_agree((1, 0)) == [(0, 0.5)] and others_agree((1, 1)) == [(0, 1.0), (1, 1.0)]
    assert others_agree((1,)) == [] and others_agree(()) == []


def test_what_annotators_say_together_does_not_depend_on_their_order():
    for votes in product((-1, 0, 1), repeat=3):
        ones, minus = votes.count(1), votes.count(-1)
        assert labelled.label(votes) == (1 if ones > minus else -1 if minus > ones else 0)


def lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def vote(a, b, preference, evaluator, prompt="Q?"):
    return {
        "prompt": prompt,
        "completion_a": a,
        "completion_b": b,
        "preference": preference,
        "evaluator": evaluator,
    }


def test_votes_on_one_pair_are_joined_whichever_answer_came_first(tmp_path):
    rows = [
        vote("x", "y", "a-is-better", "p"),
        vote("y", "x", "b-is-slightly-better", "q"),
        vote("y", "x", "a-is-better", "r"),
        vote("x", "y", "b-is-better", "p"),
        vote("x", "y", "tie", "p", prompt="Other?"),
        vote("same", "same", "a-is-better", "p"),
    ]
    found = labelled.votes_of_tulu(lines(tmp_path / "v.jsonl", rows))
    assert [(i.answers, i.votes, i.pairs) for i in found.lists] == [
        (("x", "y"), (1, 1, -1), ((0, 1),)),
        (("x", "y"), (0,), ()),
        (("same", "same"), (1,), ()),
    ]
    assert found.left_out == {"second vote of one person on one pair": 1}


def test_three_judges_and_rows_that_no_format_takes(tmp_path):
    row = {"instruction": "Add", "input": "1 and 2", "response1": "3", "response2": "4"}
    said = {"annotator1": 2, "annotator2": 0, "annotator3": 2}
    found = labelled.pandalm(lines(tmp_path / "p.jsonl", [row | said, row | said | {"response1": True}]))
    (item,) = found.lists
    assert (item.votes, item.pairs, item.question) == ((-1, 0, -1), ((1, 0),), "add1and2")
    assert found.left_out == {"an answer is true or false, expected text": 1}


def test_faulty_rows_are_counted_by_their_reason(tmp_path):
    good = {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: a\n\nAssistant: c"}
    rows = [good, {**good, "chosen": "\n\nHuman: a\n\nAssistant: "}, {**good, "rejected": "\n\nHuman: a\n\nAssistant:"}]
    found = labelled.by_format("hh")(lines(tmp_path / "h.jsonl", rows))
    assert len(found.lists) == 1 and found.left_out == {"a turn content is empty": 2}


def test_a_long_prompt_loses_its_oldest_tokens_and_a_long_answer_its_end(tokenizer, monkeypatch):
    monkeypatch.setattr(labelled, "MAX_TOKENS", 30)
    monkeypatch.setattr(labelled, "ANSWER_TOKENS", 10)
    item = labelled.Labelled("i", "", "q", (Message("user", "w " * 60),), ("v " * 40, "v"), ((1, 0),))
    ranking, cut, answers_cut = labelled.encode(tokenizer, item)
    whole = labelled.encode(tokenizer, item.__class__(**{**item.__dict__, "prompt": (Message("user", "w"),)}))[0].prompt
    assert len(ranking.answers[0]) == 10 and answers_cut == 1 and ranking.best == 1
    assert ranking.answers[0][-1] != tokenizer.eos_token_id and ranking.answers[1][-1] == tokenizer.eos_token_id
    assert len(ranking.prompt) == 20 and cut > 0
    assert ranking.prompt[-3:] == whole[-3:]


def test_states_from_disk_are_those_of_a_fresh_reading(make_base, tmp_path):
    base = make_base(REWARD)
    lists = [([5, 6, 7], [[8, 9], [10, 11, 12]]), ([13, 14, 15, 16, 17], [[18], [19, 20], [21]])]
    cache = TrunkCache(base, tmp_path, "tiny")
    with pytest.raises(FileNotFoundError):
        cache.encode(lists, REWARD)
    read = []
    cache.fill(lists, read.append)
    cache.fill(lists, read.append)
    assert read == [8, 9, 0, 0]
    found, fresh = cache.encode(lists, REWARD), base.encode_lists(lists, REWARD)
    assert found.shape == fresh.shape == (5, base.hidden_size)
    assert torch.allclose(found, fresh, atol=1e-5)
    found.sum().backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in base.parameters(REWARD))
