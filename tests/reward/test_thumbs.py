"""Lone thumbs: the likelihood against scipy, what the offsets can and cannot explain, and that they teach."""

import math
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.optimize import minimize, minimize_scalar
from scipy.special import expit, log_expit

import reward.train
from pipeline.adapters import REWARD
from reward.model import ScalarHead
from reward.thumbs import EncodedThumbs, prompt_offset, rater_offsets, thumb_loss
from reward.train import EncodedRanking, train


def test_a_raters_offset_makes_the_rate_by_hand():
    given = [("ann", True)] * 9 + [("ann", False)] + [("bob", True)] * 2 + [("bob", False)] * 8
    found = rater_offsets(given, prior=10)
    # Everybody: 11 of 20, with half a thumb of each kind 11.5 / 21. Ann: (9 + 10 · 11.5/21) / 20.
    everybody = 11.5 / 21
    assert expit(-found["ann"]) == pytest.approx((9 + 10 * everybody) / 20)
    assert expit(-found["bob"]) == pytest.approx((2 + 10 * everybody) / 20)


def test_a_prior_of_half_a_thumb_counts_as_half_a_thumb():
    # Everybody: 2.5 of 4. Ann: (2 + ½ · 2.5/4) of 2½; Bob: ½ · 2.5/4 of 1½.
    found = rater_offsets([("ann", True), ("ann", True), ("bob", False)], prior=0.5)
    assert expit(-found["ann"]) == pytest.approx((2 + 0.5 * 2.5 / 4) / 2.5)
    assert expit(-found["bob"]) == pytest.approx(0.5 * 2.5 / 4 / 1.5)


def test_where_every_thumb_pulls_with_all_its_force_the_offset_lies_at_its_bound():
    # σ(m − b) is 0 to eight digits wherever b may be, so Σ (0 − 1) = b/σ².
    assert prompt_offset(torch.full((4,), -200.0), [True] * 4, 5.0) == pytest.approx(-25.0 * 4)


def test_with_many_thumbs_a_rater_is_taken_at_the_word_with_one_hardly_at_all():
    many = [("lazy", i % 10 > 0) for i in range(10_000)]
    few = [("new", True)] + [("others", i % 2 > 0) for i in range(1000)]
    assert rater_offsets(many, prior=10)["lazy"] == pytest.approx(-math.log(9), abs=0.01)
    assert expit(-rater_offsets(few, prior=10)["new"]) == pytest.approx(0.5 + 0.5 / 11, abs=0.01)
    # Without a prior one thumb is all there is of a person; half a thumb of each kind keeps the offset finite.
    assert expit(-rater_offsets(few, prior=0)["new"]) == pytest.approx(1.5 / 2)


def test_somebody_unknown_has_everybodys_offset():
    assert expit(-rater_offsets([(None, True), (None, True), (None, False)], prior=5)[None]) == pytest.approx(2.5 / 4)


def test_at_equal_scores_each_raters_thumbs_push_no_score_up_or_down():
    ups = [True] * 9 + [False]
    scores = torch.zeros(10, requires_grad=True)
    offset = -math.log(0.9 / 0.1)
    sum(thumb_loss(scores[i : i + 1], [up], [offset], 0.0) for i, up in enumerate(ups)).backward()
    assert scores.grad.sum().item() == pytest.approx(0.0, abs=1e-6)
    # A single 👎 of somebody who nearly always presses 👍 says nine times as much as one 👍.
    assert scores.grad[-1].item() == pytest.approx(-9 * scores.grad[0].item())


@pytest.mark.parametrize("spread", [0.3, 1.0, 5.0])
def test_a_prompts_offset_is_the_maximum_that_scipy_finds(spread):
    rng = np.random.default_rng(0)
    for n in (1, 2, 7):
        m, y = rng.normal(size=n) * 2, rng.integers(0, 2, n).astype(bool)
        found = prompt_offset(torch.tensor(m), y.tolist(), spread)
        minus = lambda b: b * b / (2 * spread**2) - log_expit(np.where(y, 1, -1) * (m - b)).sum()  # noqa: B023, E731
        assert found == pytest.approx(minimize_scalar(minus, options={"xtol": 1e-12}).x, abs=1e-5)


def test_one_thumb_can_move_a_prompts_offset_by_the_variance_and_no_further():
    for spread in (0.0, 0.1, 1.0):
        for m in (-3.0, 0.0, 8.0):
            b = prompt_offset(torch.tensor([m]), [False], spread)
            # The optimum is b = σ² · P(👍).
            assert b == pytest.approx(spread**2 * expit(m - b), abs=1e-8) and 0 <= b <= spread**2


def test_a_free_offset_leaves_one_thumb_nothing_to_teach_and_no_offset_leaves_logistic_regression():
    def pull(spread):
        score = torch.zeros(1, requires_grad=True)
        thumb_loss(score, [True], [0.0], spread).backward()
        return -score.grad.item()

    assert pull(0.0) == pytest.approx(0.5) and pull(0.0) > pull(1.0) > pull(5.0) > pull(1000.0)
    assert pull(1000.0) < 1e-4


def test_two_thumbs_of_one_prompt_still_say_which_answer_is_better_when_the_offset_is_free():
    scores = torch.zeros(2, requires_grad=True)
    thumb_loss(scores, [True, False], [0.0, 0.0], 100.0).backward()
    up, down = scores.grad.tolist()
    assert up == pytest.approx(-0.25) and down == pytest.approx(0.25)


def test_the_gradient_is_that_of_the_loss_minimised_over_the_offset():
    ups, offsets, spread = [True, True, False], [0.4, -1.0, 0.2], 1.5
    at = torch.tensor([0.3, -0.7, 1.1], requires_grad=True)
    thumb_loss(at, ups, offsets, spread).backward()
    for i in range(3):
        sides = []
        for step in (1e-2, -1e-2):
            moved = at.detach().clone()
            moved[i] += step
            sides.append(thumb_loss(moved, ups, offsets, spread).item())
        assert at.grad[i].item() == pytest.approx((sides[0] - sides[1]) / 2e-2, abs=2e-4)


def test_on_fixed_features_it_is_logistic_regression_with_a_random_intercept_a_prompt():
    """All weights and all offsets at once by scipy, against ours, which puts each offset at its best inside the loss."""
    rng = np.random.default_rng(1)
    prompts, each, spread, ridge = 12, 4, 0.8, 0.05
    features = rng.normal(size=(prompts, each, 3))
    hard = rng.normal(size=prompts) * spread
    ups = rng.random((prompts, each)) < expit(features @ [1.5, -1.0, 0.0] - hard[:, None])

    def joint(z):
        w, b = z[:3], z[3:]
        m = features @ w - b[:, None]
        return -log_expit(np.where(ups, m, -m)).sum() + (b @ b) / (2 * spread**2) + ridge * w @ w

    theirs = minimize(joint, np.zeros(3 + prompts), tol=1e-10).x[:3]
    w = torch.zeros(3, requires_grad=True)
    x = torch.tensor(features, dtype=torch.float32)
    optimizer = torch.optim.LBFGS([w], lr=0.5, max_iter=200, tolerance_grad=1e-9, tolerance_change=1e-12)

    def closure():
        optimizer.zero_grad()
        loss = ridge * w.square().sum()
        for i in range(prompts):
            loss = loss + each * thumb_loss(x[i] @ w, ups[i].tolist(), [0.0] * each, spread)
        loss.backward()
        return loss

    optimizer.step(closure)
    assert w.tolist() == pytest.approx(theirs.tolist(), abs=2e-3)


def test_a_lazy_rater_spoils_the_slope_without_an_offset_and_less_with_one():
    """Half of all thumbs are pressed without looking, nine in ten of them 👍, on answers that are mostly bad."""
    rng = random.Random(0)
    rows = []
    for i in range(4000):
        x = rng.gauss(-1.0, 1.0)
        lazy = i % 2 == 1
        rows.append((x, rng.random() < (0.9 if lazy else expit(2 * x)), "lazy" if lazy else "reader"))
    x = np.array([r[0] for r in rows])
    y = np.array([r[1] for r in rows])

    def slope(offsets):
        b = np.array([offsets[r[2]] for r in rows])

        def loss(z):
            m = z[0] * x + z[1] - b
            return -log_expit(np.where(y, m, -m)).sum()

        return minimize(loss, [0.0, 0.0]).x[0]

    own = rater_offsets([(r[2], r[1]) for r in rows], prior=10)
    shared = dict.fromkeys(own, rater_offsets([(None, r[1]) for r in rows], prior=10)[None])
    assert 0 < slope(shared) < slope(own) < 2


def test_thumbs_alone_teach_the_order_that_pairs_would(make_base):
    """👍 where an answer holds the token 100 twice or more, one thumb a prompt; then pairs that nobody has compared."""
    rng = random.Random(0)

    def answer(k):
        return tuple(rng.sample([100] * k + [rng.randrange(20, 90) for _ in range(6 - k)], 6))

    thumbs = []
    for _ in range(160):
        k = rng.randrange(4)
        thumbs.append(EncodedThumbs((rng.randrange(20, 90),) * 3, (answer(k),), (k >= 2,), (0.0,)))
    pair = EncodedRanking((30,) * 3, (answer(3), answer(0)), ((0, 1),), 0)
    torch.manual_seed(0)
    base = make_base()
    base.add(REWARD, trainable=True)
    head = ScalarHead(base.hidden_size)
    settings = SimpleNamespace(
        epochs=1.0, learning_rate=5e-3, head_learning_rate=1e-2, lists_per_step=4, micro_lists=4, warmup_share=0.1, weight_decay=0.0,
        center_coef=0.01, optimizer="adamw", mismatched_negatives=False, max_grad_norm=1.0, thumbs_weight=1.0, thumbs_prompt_spread=0.5,
    )  # fmt: skip
    held = [((rng.randrange(20, 90),) * 3, tuple(answer(k) for k in (3, 2, 1, 0))) for _ in range(40)]

    def right():
        with torch.no_grad():
            scores = head(base.encode_lists(held, REWARD)).view(-1, 4)
        return (scores[:, :2, None] > scores[:, None, 2:]).float().mean().item()

    before, steps = right(), []
    encode = lambda lists: base.encode_lists(lists, REWARD)  # noqa: E731
    on_step = lambda figures, state: steps.append(figures)  # noqa: E731
    train(encode, head, base.parameters(REWARD), [pair], settings, seed=0, thumbs=thumbs, on_step=on_step)
    # 161 elements, four a step.
    assert len(steps) == 41 and all(0 <= s["accuracy"] <= 1 for s in steps)
    assert right() > 0.8 > before + 0.2, (before, right())


def test_many_thumbs_on_one_question_are_read_in_rows_that_do_not_grow(make_base, monkeypatch):
    """Everybody greets an assistant: one row of all answers would need the square of their tokens."""
    rng = random.Random(0)
    answers = tuple(tuple(rng.randrange(20, 90) for _ in range(rng.randrange(1, 7))) for _ in range(100))
    element = EncodedThumbs((30, 31), answers, tuple(rng.random() < 0.5 for _ in answers), (0.1,) * len(answers))
    settings = SimpleNamespace(thumbs_weight=1.0, thumbs_prompt_spread=0.5, center_coef=0.0)
    found, widths = [], []
    for most in (10**6, reward.train.SIDE_BY_SIDE):
        monkeypatch.setattr(reward.train, "SIDE_BY_SIDE", most)
        base = make_base(REWARD)
        torch.manual_seed(0)
        head = ScalarHead(base.hidden_size)
        optimizer = torch.optim.SGD([*base.parameters(REWARD), *head.parameters()])

        def encode(lists, base=base):
            widths.append(max(len(prompt) + sum(map(len, many)) for prompt, many in lists))
            return base.encode_lists(lists, REWARD)

        loss = reward.train._backward(encode, head, optimizer, [element], settings, 4)[0]
        found.append((loss, torch.cat([p.grad.flatten() for p in base.parameters(REWARD)])))
    assert widths[0] == 2 + sum(map(len, answers)) and widths[1] <= 2 + 16 * 6
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5) and found[0][1].abs().max() > 1e-4
    assert torch.allclose(found[0][1], found[1][1], atol=1e-5)


def test_a_prompts_thumbs_count_by_their_weight_beside_a_ranking(make_base):
    base = make_base(REWARD)
    torch.manual_seed(0)
    head = ScalarHead(base.hidden_size)
    optimizer = torch.optim.SGD([*base.parameters(REWARD), *head.parameters()])
    thumbs = EncodedThumbs((30, 31), ((40, 41), (42,)), (True, False), (0.1, -0.2))
    ranking = EncodedRanking((33,), ((50, 51), (52,)), ((0, 1),), 0)

    def loss(batch, weight):
        settings = SimpleNamespace(thumbs_weight=weight, thumbs_prompt_spread=0.5, center_coef=0.0)
        return reward.train._backward(lambda x: base.encode_lists(x, REWARD), head, optimizer, batch, settings, 4)[0]

    alone, other = loss([thumbs], 1.0), loss([ranking], 1.0)
    assert alone > 0.1 and loss([thumbs, ranking], 0.25) == pytest.approx((0.25 * alone + other) / 2, rel=1e-5)
