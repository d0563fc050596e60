"""The reward model: the loss is the paper's, the score is read at the right place, training learns what is there."""

import itertools
import math
import random
import statistics
from collections import Counter
from types import SimpleNamespace

import pytest
import torch

import reward.train
from pipeline.adapters import REWARD
from pipeline.config import PpoConfig
from pipeline.memory import MicroBatch
from pipeline.roles import RewardEnsemble, RewardModel, member_folder, member_role
from reward.metrics import pair_outcomes, pairs_by
from reward.model import ScalarHead, last_states, score, score_all
from reward.optimizer import load_tensors, make_optimizer, tensors_of
from reward.scale import Scale
from reward.thumbs import EncodedThumbs
from reward.train import EncodedRanking, _batches, centring, ranking_loss, total_steps, train, with_mismatched


def test_the_loss_of_equal_scores_is_ln_2():
    assert ranking_loss(torch.zeros(4), list(itertools.combinations(range(4), 2))).item() == pytest.approx(math.log(2))


def test_the_loss_is_the_mean_over_all_pairs_by_hand():
    scores = [1.5, -0.5, 0.25, 0.0]
    pairs = [(0, 1), (0, 2), (0, 3), (2, 1), (3, 1), (2, 3)]
    by_hand = sum(math.log(1 + math.exp(-(scores[b] - scores[w]))) for b, w in pairs) / 6
    assert ranking_loss(torch.tensor(scores), pairs).item() == pytest.approx(by_hand)


def test_the_loss_survives_margins_of_200():
    assert ranking_loss(torch.tensor([200.0, 0.0]), [(1, 0)]).item() == pytest.approx(200.0)
    assert ranking_loss(torch.tensor([200.0, 0.0]), [(0, 1)]).item() == pytest.approx(0.0, abs=1e-6)


def test_the_head_starts_with_the_stated_spread():
    torch.manual_seed(0)
    head = ScalarHead(4096)
    assert head.weight.std().item() == pytest.approx(4097**-0.5, rel=0.1) and head.bias.item() == 0.0
    assert head.weight.dtype == torch.float32
    small = torch.cat([ScalarHead(3).weight.detach() for _ in range(2000)])
    # 6,000 numbers know their spread to 0.9 %.
    assert small.std().item() == pytest.approx(0.5, rel=0.04)


def test_states_of_half_the_precision_are_scored_in_single():
    head, states = ScalarHead(64), torch.randn(3, 5, 64).bfloat16()
    expected = [[math.fsum(a * b for a, b in zip(row, head.weight[0].tolist(), strict=True)) for row in rows] for rows in states.tolist()]
    assert head(states).dtype == torch.float32 and torch.allclose(head(states), torch.tensor(expected), atol=1e-5)


def test_the_score_is_read_at_the_last_real_token():
    states = torch.arange(24.0).reshape(2, 4, 3)
    assert last_states(states, torch.tensor([2, 4])).tolist() == [[3.0, 4.0, 5.0], [21.0, 22.0, 23.0]]


def test_company_and_padding_leave_a_score_alone(make_base):
    base, texts = make_base(REWARD), [[5, 6, 7], [8, 9, 10, 11, 12, 13], [14]]
    head = ScalarHead(base.hidden_size)
    encode = lambda s: base.encode(s, REWARD)  # noqa: E731
    together = score(encode, head, texts)
    alone = torch.cat([score(encode, head, [t]) for t in texts])
    assert torch.allclose(together, alone, atol=1e-5)
    pairs = lambda rows, work: [work(rows[k : k + 2]) for k in range(0, len(rows), 2)]  # noqa: E731
    seen = []
    found = score_all(encode, head, texts, in_parts=pairs, on_batch=seen.append)
    assert torch.allclose(found, alone, atol=1e-5) and seen == [2, 1] and not found.requires_grad


def test_the_score_sees_the_prompt_and_the_end(make_base):
    base = make_base(REWARD)
    head = ScalarHead(base.hidden_size)
    eos = base.tokenizer.eos_token_id
    scores = score(lambda s: base.encode(s, REWARD), head, [[5, 9, 9], [6, 9, 9], [5, 9, 9, eos]])
    assert len({round(x, 4) for x in scores.tolist()}) == 3


def settings(**changes):
    base = {
        "epochs": 1.0, "learning_rate": 5e-3, "head_learning_rate": 1e-2, "lists_per_step": 4, "micro_lists": 4,
        "warmup_share": 0.1,
        "weight_decay": 0.0, "center_coef": 0.01, "optimizer": "adamw", "mismatched_negatives": False, "max_grad_norm": 1.0,
    }  # fmt: skip
    return SimpleNamespace(**{**base, **changes})


def lists_about_a_token(count: int, seed: int) -> list[EncodedRanking]:
    """The better an answer, the more often it holds the token 100."""
    rng = random.Random(seed)
    out = []
    for _ in range(count):
        answers = tuple(
            tuple(rng.sample([100] * k + [rng.randrange(20, 90) for _ in range(6 - k)], 6)) for k in (3, 2, 1, 0)
        )
        out.append(
            EncodedRanking((rng.randrange(20, 90),) * 3, answers, ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)), 0)
        )
    return out


def accuracy(base, head, rankings):
    outcomes = []
    for r in rankings:
        with torch.no_grad():
            found = head(base.encode_lists([(r.prompt, r.answers)], REWARD)).tolist()
        outcomes += pair_outcomes(found, r.pairs)
    return sum(outcomes) / len(outcomes)


def test_training_learns_a_visible_rule_and_leaves_the_base_alone(make_base):
    torch.manual_seed(0)
    base = make_base()
    base.add(REWARD, trainable=True)
    head = ScalarHead(base.hidden_size)
    frozen = {n: p.clone() for n, p in base.causal_lm.named_parameters() if "lora_" not in n}
    held = lists_about_a_token(40, seed=9)
    before = accuracy(base, head, held)
    steps = []
    train(
        lambda lists: base.encode_lists(lists, REWARD), head, base.parameters(REWARD), lists_about_a_token(160, seed=1), settings(), seed=0,
        on_step=lambda figures, state: steps.append(figures),
    )  # fmt: skip
    after = accuracy(base, head, held)
    assert after > 0.9 > before, (before, after)
    assert len(steps) == 40 == total_steps(160, settings())
    assert steps[-1]["learning_rate"] <= 0.1 * max(s["learning_rate"] for s in steps)
    assert all(torch.equal(p, frozen[n]) for n, p in base.causal_lm.named_parameters() if n in frozen)


@pytest.mark.parametrize("level", [5.0, -5.0])
def test_centring_brings_the_level_of_the_scores_towards_zero(make_base, level):
    """Pairs say nothing of the level, so the way in which the head's bias moves is the centring term's doing."""
    base = make_base()
    base.add(REWARD, trainable=True)
    head = ScalarHead(base.hidden_size)
    head.bias.data.fill_(level)
    train(
        lambda lists: base.encode_lists(lists, REWARD), head, base.parameters(REWARD), lists_about_a_token(8, 0),
        settings(epochs=3.0), seed=0,
    )  # fmt: skip
    assert abs(head.bias.item()) < 4.98


@pytest.mark.parametrize("scores", [[0.5, -0.2], [3.0, 1.0, -1.0, 0.25]])
def test_the_centring_term_is_the_papers_for_a_pair_and_grows_with_the_level(scores):
    found = centring(torch.tensor(scores)).item()
    if len(scores) == 2:
        # (r_c + r_r)² of Eisenstein et al. (2023), section on underspecification.
        assert found == pytest.approx((scores[0] + scores[1]) ** 2)
    assert found == pytest.approx((2 * statistics.mean(scores)) ** 2)
    assert centring(torch.tensor(scores) + 1.0).item() > found


@pytest.mark.parametrize(("flips", "floor"), [(10, 0.325), (20, 0.500), (25, 0.562)])
def test_no_scorer_gets_below_the_entropy_of_noisy_labels(flips, floor):
    """Of 100 pairs, so many have the wrong label. The best that scores can do is H(η) nats, at a margin of logit(1 − η)."""
    eta = flips / 100
    labels = [(1, 0)] * flips + [(0, 1)] * (100 - flips)

    def loss(margin: float) -> float:
        return statistics.mean(ranking_loss(torch.tensor([margin, 0.0]), [pair]).item() for pair in labels)

    best = math.log((1 - eta) / eta)
    assert loss(best) == pytest.approx(floor, abs=5e-4)
    assert loss(best) < min(loss(best - 0.1), loss(best + 0.1), loss(0.0), loss(50.0))
    # A scorer that is right on all true labels is right on 1 − η of the noisy ones: η + (1 − 2η) · 1.
    assert statistics.mean(pair_outcomes([1.0, 0.0], labels)) == pytest.approx(eta + (1 - 2 * eta))


@pytest.mark.parametrize("bad", ["loss", "gradient"])
def test_a_loss_or_gradient_that_is_not_finite_stops_before_its_step(make_base, bad):
    base = make_base()
    base.add(REWARD, trainable=True)
    head = ScalarHead(base.hidden_size)
    if bad == "loss":
        head.weight.data.fill_(math.nan)
    else:
        head.weight.register_hook(lambda gradient: gradient * math.inf)
    before = reward_weights(base, head)
    with pytest.raises(FloatingPointError, match="loss [^ ]+, gradient norm (nan|inf) at step 0"):
        train(
            lambda x: base.encode_lists(x, REWARD),
            head,
            base.parameters(REWARD),
            lists_about_a_token(4, 0),
            settings(),
            seed=0,
        )
    assert all(torch.equal(p.nan_to_num(), was.nan_to_num()) for p, was in zip(reward_weights(base, head), before, strict=True))


def one_step_caught(monkeypatch, base, head, rankings, thumbs, changed):
    """The gradient of one step over everything, the optimizer's groups and what the step says of itself."""
    caught, told = {}, []
    real = reward.train.make_optimizer

    def caught_optimizer(*args, **kwargs):
        optimizer = real(*args, **kwargs)

        def step():
            caught["gradient"] = [p.grad.clone() for group in optimizer.param_groups for p in group["params"]]
            caught["groups"] = [(g["lr"], g["weight_decay"]) for g in optimizer.param_groups]

        optimizer.step = step
        return optimizer

    monkeypatch.setattr(reward.train, "make_optimizer", caught_optimizer)
    train(
        lambda lists: base.encode_lists(lists, REWARD), head, base.parameters(REWARD), rankings, changed, seed=0, thumbs=thumbs,
        on_step=lambda figures, state: told.append(figures),
    )  # fmt: skip
    return caught, told


@pytest.mark.parametrize("size", [4, 1])
def test_a_step_is_that_of_a_slow_loop_over_rankings_and_thumbs(make_base, monkeypatch, size):
    """Answers read one by one, losses written out; the centring term counts in the gradient and not in the loss that is told."""
    torch.manual_seed(0)
    base = make_base(REWARD)
    head = ScalarHead(base.hidden_size)
    rankings = [
        EncodedRanking((30, 31), ((40, 41), (42,), (43, 44, 45)), ((2, 0), (2, 1), (0, 1)), 2),
        EncodedRanking((32,), ((46,), (47, 48)), ((0, 1),), 0),
    ]
    thumbs = [EncodedThumbs((33, 34), ((50,), (51, 52), (53,)), (True, False, True), (0.4, 0.3, -2.0))]
    changed = settings(
        micro_lists=size, center_coef=0.3, thumbs_weight=0.7, thumbs_prompt_spread=0.0, max_grad_norm=1e9, weight_decay=0.02
    )

    def slow(prompt, answers):
        return [head(base.encode([(*prompt, *a)], REWARD)[0][0, -1]) for a in answers]

    told, centre, right = 0.0, 0.0, []
    for r in rankings:
        s = slow(r.prompt, r.answers)
        told = told + sum(torch.log1p(torch.exp(s[w] - s[b])) for b, w in r.pairs) / len(r.pairs) / 3
        centre = centre + (2 * sum(s) / len(s)) ** 2 / 3
        right += [bool(s[b] > s[w]) for b, w in r.pairs]
    s = [x - offset for x, offset in zip(slow(thumbs[0].prompt, thumbs[0].answers), thumbs[0].offsets, strict=True)]
    told = told + 0.7 * sum(torch.log1p(torch.exp(-x if up else x)) for x, up in zip(s, thumbs[0].ups, strict=True)) / 3 / 3
    right += [bool(x > 0) == up for x, up in zip(s, thumbs[0].ups, strict=True)]
    expected = torch.autograd.grad(told + 0.3 * centre, [*base.parameters(REWARD), *head.parameters()])
    assert 0 < sum(right) < len(right) == 7

    caught, (figures,) = one_step_caught(monkeypatch, base, head, rankings, thumbs, changed)
    assert len(expected) == len(caught["gradient"])
    assert all(torch.allclose(a, b, rtol=1e-3, atol=1e-5) for a, b in zip(caught["gradient"], expected, strict=True))
    norm = math.sqrt(sum(float(g.square().sum()) for g in expected))
    assert figures["loss"] == pytest.approx(told.item(), rel=1e-4) and figures["grad_norm"] == pytest.approx(norm, rel=1e-3)
    assert figures["accuracy"] == pytest.approx(sum(right) / 7) and figures["learning_rate"] == 5e-3
    assert caught["groups"] == [(5e-3, 0.02), (1e-2, 0.02)] and 0 <= figures["seconds"] < 60


def test_rankings_borrow_answers_and_thumbs_stay_as_they_are(make_base):
    base = make_base(REWARD)
    head, read = ScalarHead(base.hidden_size), []

    def encode(lists):
        read.extend((prompt, tuple(answers)) for prompt, answers in lists)
        return base.encode_lists(lists, REWARD)

    thumbs = [EncodedThumbs((33,), ((50,), (51, 52)), (True, False), (0.0, 0.0)), EncodedThumbs((34,), ((53,),), (True,), (0.0,))]
    rankings = [EncodedRanking((20 + i,), ((10 + i,), (40 + i,)), ((1, 0),), best=1) for i in range(3)]
    changed = settings(lists_per_step=5, mismatched_negatives=True, thumbs_weight=1.0, thumbs_prompt_spread=1.0)
    train(encode, head, base.parameters(REWARD), rankings, changed, seed=0, thumbs=thumbs)
    own = {r.prompt: r.answers for r in (*rankings, *thumbs)}
    assert len(read) == 5 and all(answers[: len(own[prompt])] == own[prompt] for prompt, answers in read)
    assert sorted(len(answers) for _, answers in read) == [1, 2, 3, 3, 3]


def test_everybody_lends_as_often_as_everybody_else():
    rankings = [EncodedRanking((i,), ((10 + i,), (20 + i,)), ((1, 0),), best=1) for i in range(5)]
    rng, lent = random.Random(0), Counter()
    for _ in range(2000):
        lent.update((i, r.answers[2][0] - 20) for i, r in enumerate(with_mismatched(rankings, rng)))
    # Four others each: Binomial(2000, 1/4), whose standard deviation is 19.4; twenty counts within five of them.
    assert len(lent) == 20 and all(abs(n - 500) < 5 * 19.4 for n in lent.values())


def test_an_optimizer_is_the_one_asked_for_and_its_state_has_one_name_for_each_piece_of_memory():
    assert type(make_optimizer("adamw", [torch.nn.Parameter(torch.zeros(2))], lr=0.1)) is torch.optim.AdamW
    table = torch.arange(4.0)
    inner = {"map": table, "moment": torch.ones(3)}
    # As bitsandbytes keeps it: a number of steps, a dictionary within, a table that all share.
    state = {0: {"step": 7, "__bnb_optimizer_quant_state__": inner}, 1: {"step": 7, "map": table}}
    loaded = {}
    theirs = SimpleNamespace(state_dict=lambda: {"state": state, "groups": 1}, load_state_dict=loaded.update)
    found = tensors_of(theirs, "adam/")
    assert {n: t.tolist() for n, t in found.items()} == {
        "adam/0/step": 7, "adam/0/map": [0, 1, 2, 3], "adam/0/moment": [1, 1, 1], "adam/1/step": 7, "adam/1/map": [0, 1, 2, 3],
    }  # fmt: skip
    assert found["adam/0/map"].data_ptr() != found["adam/1/map"].data_ptr()
    load_tensors(theirs, {**found, "head/weight": table}, "adam/")
    assert loaded["groups"] == 1 and loaded["state"].keys() == {0, 1}
    assert type(loaded["state"][0]["step"]) is int and loaded["state"][1]["step"] == 7
    assert loaded["state"][0]["moment"].tolist() == [1, 1, 1]


def test_the_rates_rise_over_the_warm_up_and_fall_linearly_to_zero(make_base):
    base = make_base(REWARD)
    head = ScalarHead(base.hidden_size)
    told = []
    train(
        lambda lists: base.encode_lists(lists, REWARD), head, base.parameters(REWARD), lists_about_a_token(20, 0),
        settings(lists_per_step=2, warmup_share=0.4), seed=0, on_step=lambda figures, state: told.append(figures["learning_rate"]),
    )  # fmt: skip
    expected = [1 / 4, 2 / 4, 3 / 4, 1, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]
    assert told == pytest.approx([5e-3 * share for share in expected])


def reward_weights(base, head):
    return [p.detach().clone() for p in (*base.parameters(REWARD), *head.parameters())]


def trained(make_base, stop_after=None, resume=None, in_parts=None, **changes):
    """Weights after training, or the state after `stop_after` steps; learning is the same in every call."""
    torch.manual_seed(0)
    base = make_base()
    base.add(REWARD, trainable=True)
    head = ScalarHead(base.hidden_size)
    kept = []

    class Enough(Exception):
        pass

    def on_step(figures, state):
        if figures["step"] + 1 == stop_after:
            kept.append(state())
            raise Enough

    try:
        train(
            lambda x: base.encode_lists(x, REWARD),
            head,
            base.parameters(REWARD),
            lists_about_a_token(24, 1),
            settings(mismatched_negatives=True, **changes),
            seed=3,
            resume=resume,
            on_step=on_step,
            in_parts=in_parts,
        )
    except Enough:
        return kept[0]
    return reward_weights(base, head)


def test_training_taken_up_half_way_ends_bit_for_bit_where_it_would_have(make_base):
    whole = trained(make_base)
    again = trained(make_base, resume=(trained(make_base, stop_after=3), 3))
    assert len(whole) > 5 and all(torch.equal(a, b) for a, b in zip(whole, again, strict=True))
    # And each part of what is kept is needed.
    for part in ("adapter/", "head/", "adam/"):
        state = trained(make_base, stop_after=3)
        lacking = {
            n: torch.zeros_like(t) if n.startswith(part) and not n.endswith("/step") else t for n, t in state.items()
        }
        other = trained(make_base, resume=(lacking, 3))
        assert not all(torch.equal(a, b) for a, b in zip(whole, other, strict=True)), part


def test_fewer_rankings_a_pass_give_the_same_step(make_base):
    at_once, in_turn = trained(make_base, micro_lists=4), trained(make_base, micro_lists=1)
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(at_once, in_turn, strict=True))


def test_out_of_memory_halves_the_rankings_a_pass_and_changes_nothing_else(make_base):
    said, failed = [], []
    micro = MicroBatch(4, "reward.micro_lists", "reward.max_tokens", said.append)

    def in_parts(attempt):
        def once_too_much(size):
            if size == 4:
                # After half of the gradient was made: what it left must not be counted twice.
                attempt(4)
                failed.append(size)
                raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")
            return attempt(size)

        return micro.attempt(once_too_much)

    plain, halved = trained(make_base, micro_lists=2), trained(make_base, in_parts=in_parts)
    assert failed == [4] and micro.size == 2 and "2 rows a forward pass" in said[0]
    assert all(torch.equal(a, b) for a, b in zip(plain, halved, strict=True))


def test_a_borrowed_answer_stands_under_another_prompt_and_loses_to_the_best_alone():
    rankings = [EncodedRanking((i,), ((10 + i,), (20 + i,)), ((1, 0),), best=1) for i in range(5)]
    mixed = with_mismatched(rankings, random.Random(0))
    for i, ranking in enumerate(mixed):
        assert ranking.prompt == (i,) and ranking.answers[:2] == rankings[i].answers
        assert ranking.answers[2] in {(20 + j,) for j in range(5) if j != i}
        assert ranking.pairs == ((1, 0), (1, 2))


def test_every_epoch_has_every_ranking_once_in_an_order_of_its_own():
    rankings = lists_about_a_token(10, 0)
    batches = list(_batches(rankings, [], settings(epochs=3.0), 9, random.Random(0), None))
    orders = [[r.prompt + r.answers[0] for batch in batches[k : k + 3] for r in batch] for k in (0, 3, 6)]
    assert [len(b) for b in batches] == [4, 4, 2] * 3
    assert all(sorted(order) == sorted(r.prompt + r.answers[0] for r in rankings) for order in orders)
    assert len(set(map(tuple, orders))) == 3


def test_an_answer_to_the_same_question_is_never_borrowed_as_one_to_another():
    """Comparisons of summaries, or votes: several rankings of one prompt. Chance alone would borrow from it in 2 of 3 cases here."""
    rankings = [EncodedRanking((i % 2,), ((10 + i,), (20 + i,)), ((1, 0),), best=1) for i in range(7)]
    for seed in range(20):
        for i, ranking in enumerate(with_mismatched(rankings, random.Random(seed))):
            assert ranking.answers[2][0] % 2 != i % 2
    same = [EncodedRanking((1,), ((10 + i,), (20 + i,)), ((1, 0),), best=1) for i in range(3)]
    assert with_mismatched(same, random.Random(0)) == same
    assert with_mismatched(same[:1], random.Random(0)) == same[:1]


def test_a_borrowed_answer_fits_into_the_models_context():
    rankings = [EncodedRanking((i,) * n, ((9,) * m, (8,)), ((0, 1),), best=0) for i, (n, m) in enumerate([(2, 8), (8, 2), (5, 5)])]
    found = with_mismatched(rankings, random.Random(0), most=10)
    assert [len(r.answers[2]) if len(r.answers) > 2 else None for r in found] in ([2, None, 2], [5, None, 2])
    assert found[1] is rankings[1]
    # A prompt of 8 and an answer of 5 fill a context of 13.
    assert len(with_mismatched(rankings, random.Random(0), most=13)[1].answers[2]) == 5


def test_the_scale_makes_reference_scores_standard_and_keeps_the_order():
    raw = torch.tensor([3.0, 5.0, 4.0, 9.0])
    scaled = Scale.of(raw)(raw)
    assert scaled.mean().item() == pytest.approx(0.0, abs=1e-6) and scaled.std().item() == pytest.approx(1.0)
    assert scaled.argsort().tolist() == raw.argsort().tolist()
    for nothing in ([1.0] * 5, [1.0], [1.0, math.nan, 2.0], [1.0, math.inf, 2.0]):
        with pytest.raises(ValueError, match="tells no answers apart"):
            Scale.of(torch.tensor(nothing))
    assert Scale()(raw).tolist() == raw.tolist()
    assert Scale.of(torch.tensor([1.0, 3.0])) == Scale(2.0, pytest.approx(math.sqrt(2))), "two are enough"


def test_saved_and_loaded_scores_the_same(make_base, tmp_path):
    base = make_base(REWARD)
    model = RewardModel(base, ScalarHead(base.hidden_size), Scale(0.5, 2.0))
    model.save(tmp_path)
    again = RewardModel.open(make_base(), tmp_path)
    assert again.score_all([[5, 6, 7], [8, 9]]) == model.score_all([[5, 6, 7], [8, 9]])


def test_scores_of_training_answers_are_kept_and_combined_like_any_others(make_base, tmp_path):
    base = make_base(member_role(0), member_role(1))
    for i, seen in enumerate(([0.0, 1.0, 2.0], [2.0, 1.0, -2.0])):
        RewardModel(base, ScalarHead(base.hidden_size), Scale(), member_role(i), seen).save(member_folder(tmp_path, i))
    for how, expected in (("mean", [1.0, 1.0, 0.0]), ("worst", [0.0, 1.0, -2.0]), ("uncertainty", [0.0, 1.0, -4.0])):
        ensemble = RewardEnsemble.open(make_base(), tmp_path, PpoConfig(ensemble=how))
        assert ensemble.seen().tolist() == expected
    assert ensemble.member_scores([[5, 6, 7]]).shape == (2, 1)
    (tmp_path / "training_scores.json").unlink()
    assert RewardEnsemble.open(make_base(), tmp_path, PpoConfig()).seen().numel() == 0


def test_an_ensemble_is_its_members_scores_combined_by_hand(make_base, tmp_path):
    members = 3
    base = make_base(*(member_role(i) for i in range(members)))
    for i in range(members):
        model = RewardModel(base, ScalarHead(base.hidden_size), Scale(0.1 * i, 1.0 + i), member_role(i))
        model.save(member_folder(tmp_path, i))
    texts, lists = [[5, 6, 7], [8, 9]], [([5, 6], [[7], [8, 9]]), ([4], [[3, 3]])]
    fresh = make_base()
    alone = [
        RewardModel.open(fresh, member_folder(tmp_path, i), member_role(i)).score_all(texts) for i in range(members)
    ]
    columns = list(zip(*alone, strict=True))
    assert len({round(s, 4) for s in columns[0]}) == members
    by_hand = {
        "mean": [statistics.fmean(c) for c in columns],
        "worst": [min(c) for c in columns],
        "uncertainty": [statistics.fmean(c) - 2.0 * statistics.pvariance(c) for c in columns],
    }
    for how, expected in by_hand.items():
        ensemble = RewardEnsemble.open(make_base(), tmp_path, PpoConfig(ensemble=how, ensemble_coef=2.0))
        assert ensemble.score_all(texts) == pytest.approx(expected, abs=1e-5)
        with torch.no_grad():
            assert ensemble.score(texts).tolist() == pytest.approx(expected, abs=1e-5)
        found = ensemble.score_lists(lists)
        assert [len(row) for row in found] == [2, 1]
        flat = ensemble.score_all([[5, 6, 7], [5, 6, 8, 9], [4, 3, 3]])
        assert [s for row in found for s in row] == pytest.approx(flat, abs=1e-4)


def test_pairs_and_outcomes_by_hand():
    assert pairs_by([1.0, 3.0, 1.0]) == [(1, 0), (1, 2)]
    assert pairs_by([1.0, 3.0, 2.0], margin=1.0) == [(1, 0)], "a difference of the margin itself tells nothing apart"
    assert pair_outcomes([0.0, 1.0, 1.0], [(1, 0), (1, 2), (0, 2)]) == [1.0, 0.5, 0.0]
