"""KTO that is killed, stopped, or finds no room on the disk goes on from its last whole checkpoint, to the same result bit for bit."""

import errno
import json
import signal

import pytest
import torch
from thumbing import make_context

from pipeline import checkpoint, stopping
from pipeline.evaluation.detectors import REPORT
from pipeline.roles import ADAPTER
from pipeline.stages import kto
from pipeline.stages.kto_watch import TENSORS
from pipeline.stages.trl import LINES, PREFIX

# Ten steps of eight thumbs, two passes of five.
EVERY_OTHER = "kto.checkpoint_every=2"
WEIGHTS, MOMENTS = "adapter_model.safetensors", "optimizer.pt"


class Killed(BaseException):
    """As SIGKILL: nobody catches it, nothing is written any more."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A training that nothing struck, and its figures."""
    context = make_context(tmp_path_factory.mktemp("whole"), EVERY_OTHER)
    return context, kto.run(context)


@pytest.fixture
def taken(monkeypatch):
    """The optimiser steps that were taken."""
    steps, real = [], torch.optim.AdamW.step

    def step(self, *args, **kwargs):
        steps.append(len(steps))
        return real(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    return steps


def result(context):
    """The adapter's bytes, the figures of every step, and what the failure detectors saw."""
    figures = [{name: value for name, value in line.items() if name != "seconds"} for line in context.lines]
    return (context.out / ADAPTER / WEIGHTS).read_bytes(), figures, (context.out / REPORT).read_bytes()


def kept(context):
    return [int(folder.name.removeprefix(PREFIX)) for folder in checkpoint.numbered(context.checkpoints, PREFIX)]


def struck(context, step, blow, raises):
    """Runs KTO until it logs `step`, where the blow falls. Afterwards the context is one as another process would have it."""

    def log(line, lines=context.lines):
        lines.append(line)
        if len(lines) == step:
            blow()

    context.log = log
    with pytest.raises(raises):
        kto.run(context)
    anew(context)


def anew(context):
    context.lines = []
    context.log = context.lines.append


def die():
    raise Killed


@pytest.mark.parametrize(("step", "before"), [(7, [4, 6]), (10, [6, 8])])
def test_killed_and_taken_up_it_is_the_same_run_bit_for_bit(whole, taken, tmp_path, step, before):
    context = make_context(tmp_path, EVERY_OTHER)
    struck(context, step, die, Killed)
    # What belongs to the step at hand is lost, the two checkpoints before it are there.
    assert kept(context) == before
    taken.clear()
    assert kto.run(context) == whole[1] and len(taken) == 10 - before[-1]
    assert result(context) == result(whole[0])


@pytest.mark.parametrize(("file", "way"), [(MOMENTS, "flipped"), (WEIGHTS, "gone")])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(whole, taken, tmp_path, file, way):
    context = make_context(tmp_path, EVERY_OTHER)
    struck(context, 7, die, Killed)
    damaged = context.checkpoints / f"{PREFIX}6" / file
    data = bytearray(damaged.read_bytes())
    data[len(data) // 2] ^= 1
    damaged.unlink()
    if way == "flipped":
        damaged.write_bytes(data)
    taken.clear()
    kto.run(context)
    assert len(taken) == 6 and result(context) == result(whole[0])


def test_with_no_whole_checkpoint_it_begins_again_and_without_the_moments_it_is_another_run(whole, taken, tmp_path):
    context = make_context(tmp_path, EVERY_OTHER)
    struck(context, 7, die, Killed)
    for folder in checkpoint.numbered(context.checkpoints, PREFIX):
        (folder / checkpoint.SEAL).unlink()
    taken.clear()
    struck(context, 7, die, Killed)
    assert len(taken) == 7
    # TRL's trainer takes up a checkpoint without the optimiser's moments in silence: what the seal is there for.
    newest = context.checkpoints / f"{PREFIX}6"
    (newest / MOMENTS).unlink()
    checkpoint.seal(newest)
    kto.run(context)
    assert result(context) != result(whole[0])


def test_a_signal_lets_the_step_finish_and_keeps_it(whole, tmp_path):
    context = make_context(tmp_path, "kto.checkpoint_every=100")
    struck(context, 3, lambda: stopping._handle(signal.SIGTERM, None), stopping.Stopped)
    # Asked while the third step's line was written: the fourth is finished, kept, and the last.
    assert kept(context) == [4]
    kto.run(context)
    assert result(context) == result(whole[0])


def test_a_full_disk_costs_no_more_than_the_steps_since_the_last_checkpoint(whole, taken, tmp_path, monkeypatch):
    context = make_context(tmp_path, EVERY_OTHER)
    real, written = checkpoint.seal, []

    def seal(folder):
        written.append(folder)
        if len(written) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(folder)

    with monkeypatch.context() as full:
        full.setattr(checkpoint, "seal", seal)
        with pytest.raises(OSError, match="No space left"):
            kto.run(context)
    anew(context)
    taken.clear()
    kto.run(context)
    assert len(taken) == 6 and result(context) == result(whole[0])


def test_a_checkpoint_holds_the_adapter_that_learns_and_no_other(whole):
    newest = checkpoint.newest_sealed(whole[0].checkpoints, PREFIX)
    # Beside the policy that the watch would go back to.
    assert {file.name for file in newest.rglob("*.safetensors")} == {WEIGHTS, TENSORS}
    assert (newest / WEIGHTS).read_bytes() == result(whole[0])[0]
    assert len(json.loads((newest / LINES).read_text(encoding="utf-8"))) == 10
