"""Counting tensors that have no memory, held against hand counts and against tensors that have some."""

import sys
from functools import partial
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent / "benchmarks"))

from counting import META, Counted
from gpu_work import ROLES, SHAPES, answers_without_end, random_base, trainer, with_roles
from plan_counted import base_of, hollow, without_numbers

from pipeline.config import Config
from pipeline.planning.memory import Numbers, forward, trainer_logits
from pipeline.planning.shapes import KNOWN

NUMBERS = 1000 * 1000 * 4


def test_what_is_held_follows_what_lives():
    """By hand: matrices of 4 MB; a view and a change in place hold nothing more, and what nobody names is given back."""
    with Counted() as counted:
        a = torch.empty(1000, 1000, device=META)
        b = a @ a
        assert counted.held == 2 * NUMBERS
        c = b.T[:10]
        b += 1
        assert counted.held == 2 * NUMBERS
        del b
        # The view holds it still.
        assert counted.held == 2 * NUMBERS
        del c
        assert counted.held == NUMBERS and counted.peak == 2 * NUMBERS
        d = torch.zeros(1000, 1000)
        assert counted.held == 2 * NUMBERS and d.sum() == 0


def test_moments_have_peaks_of_their_own():
    with Counted() as counted:
        a = torch.empty(1000, 1000, device=META)
        with counted.moment("drawing"):
            a @ a @ a
        assert counted.peaks == {"learning": NUMBERS, "drawing": 3 * NUMBERS}
        assert counted.begin() == NUMBERS == counted.peak and counted.peaks == {}


def test_gradients_are_counted_as_they_come_and_go():
    """By hand, a frozen and a learnt matrix: the product keeps its input, and the backward pass leaves the learnt one's gradient."""
    with Counted() as counted:
        w = torch.empty(1000, 1000, device=META, requires_grad=True)
        x = torch.empty(1000, 1000, device=META)
        loss = (x @ w).sum()
        # The product itself is not needed for its gradient.
        assert counted.held == 2 * NUMBERS + 4
        loss.backward()
        del loss
        assert counted.held == 3 * NUMBERS and w.grad.shape == w.shape


def test_masks_are_real_so_what_depends_on_data_goes_its_own_way():
    with Counted():
        states = torch.empty(2, 5, 3, device=META)
        mask = torch.tensor([[True] * 5, [True, True, False, False, False]])
        assert states[mask].shape == (7, 3) and not mask.to(META).all()
        assert states.sum().item() == 1.0 and states[0].tolist() == [[1.0] * 3] * 5
        assert torch.multinomial(states[:, 0].softmax(-1), 1).tolist() == [[100], [100]]


@pytest.mark.parametrize("recompute", [False, True])
def test_an_update_holds_as_much_without_numbers_as_with_them(recompute):
    """Two updates of the same PPO, on a base with weights and on one without: the same tensors come and go."""
    peaks = []
    for device in (torch.device("cpu"), META):
        torch.manual_seed(0)
        with Counted() as counted:
            around = without_numbers(counted) if device == META else answers_without_end()
            with around:
                base = random_base(SHAPES["tiny"], "none", device, recompute=recompute)
                counted.count_module(base.causal_lm)
                if device == META:
                    hollow(base)
                base = with_roles(partial(lambda made: made, base), separate=False)
                assert base.roles == ROLES
                counted.begin()
                ppo = trainer(base, rows=2, micro=2, prompt=112, answer=16, vocabulary=260)
                held = []
                for _ in range(2):
                    ppo.update()
                    held.append(counted.held)
        # Once Adam's moments are there, an update leaves nothing behind.
        assert held[0] == held[1]
        peaks.append(counted.peak)
    # Attention is another kernel there and here, with statistics of its own. docs/gpu.md says a thousandth.
    assert peaks[1] == pytest.approx(peaks[0], rel=1e-3)


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "SmolLM2-1.7B"}, {"name": "Qwen3-0.6B"}, {"name": "pythia-1b-deduped"}, {"name": "Qwen3-8B", "quantization": "4bit"},
        {"name": "SmolLM2-1.7B", "dtype": "float32"},
    ],
    ids=lambda changes: " ".join(changes.values()),
)  # fmt: skip
def test_reading_is_planned_as_it_is_counted(changes):
    """One pass without gradients over 32 rows of 512 tokens, at the models' own sizes."""
    name = next(known for known in KNOWN if known.split("/")[-1].startswith(changes["name"]))
    config = Config.model_validate(
        {"model": {"dtype": "bfloat16", **changes, "name": name}, "data": {"demonstrations": "-", "rankings": "-", "heldout_prompts": "-"}}
    )
    rows = [tuple(range(512))] * 31 + [tuple(range(511))]
    with Counted() as counted, without_numbers(counted):
        base = base_of(config)
        counted.count_module(base.causal_lm)
        base.add("reward", trainable=True)
        held = counted.begin()
        with torch.no_grad():
            base.encode(rows, "reward")
    numbers = Numbers(getattr(torch, config.model.dtype).itemsize, config.model.quantization)
    assert forward(KNOWN[name], 32 * 512, numbers, length=512) == pytest.approx(counted.peak - held, rel=0.05)


@pytest.mark.parametrize(("tokens", "dtype"), [(600, "float32"), (600, "bfloat16"), (5000, "bfloat16")])
def test_logits_of_the_library_s_trainers_are_planned_as_they_are_counted(tokens, dtype):
    """The chunked head of SFT and KTO as a machine without a card runs it: forward and backward over one pass's tokens."""
    from trl.kernels.chunked_logprob import ChunkedLogProbFunction
    from trl.trainer.utils import _CHUNKED_LOGPROB_CHUNK_SIZE

    shape, dtype = KNOWN["smollm2-135m-instruct"], getattr(torch, dtype)
    with Counted() as counted:
        states = torch.empty(tokens, shape.hidden, device=META, dtype=dtype, requires_grad=True)
        head = torch.empty(shape.vocabulary, shape.hidden, device=META, dtype=dtype)
        held = counted.begin()
        found = ChunkedLogProbFunction.apply(
            states, head, None, torch.full((tokens,), 7), 1.0, _CHUNKED_LOGPROB_CHUNK_SIZE, None, 1.0, ("log_probs",)
        )
        found[0].sum().backward()
    assert trainer_logits(shape, tokens, Numbers(dtype.itemsize)) == pytest.approx(counted.peak - held, rel=0.03)
