"""Which checkpoints stay, which are taken up, and what a failed attempt leaves."""

import errno

import pytest
import torch

from pipeline import checkpoint


def folder(directory, name, sealed=True):
    (directory / name / "deeper").mkdir(parents=True)
    (directory / name / "deeper" / "weights").write_text(name)
    if sealed:
        checkpoint.seal(directory / name)
    return directory / name


def test_the_two_of_the_largest_numbers_stay_and_what_was_never_sealed_goes(tmp_path):
    """Numbers, not names: 12 comes after 9."""
    for number in (2, 12, 9):
        folder(tmp_path, f"checkpoint-{number}")
    folder(tmp_path, "checkpoint-13", sealed=False)
    folder(tmp_path, "checkpoint-best", sealed=False)
    assert checkpoint.newest_sealed(tmp_path, "checkpoint-").name == "checkpoint-12"
    checkpoint.rotate(tmp_path, "checkpoint-")
    assert {f.name for f in tmp_path.iterdir()} == {"checkpoint-9", "checkpoint-12", "checkpoint-best"}


def test_whole_is_every_file_as_it_was_sealed_and_no_other(tmp_path):
    def altered(name, change):
        one = folder(tmp_path, name)
        assert checkpoint.is_whole(one)
        change(one)
        return checkpoint.is_whole(one)

    assert not altered("a", lambda one: (one / "deeper" / "weights").write_text("other"))
    assert not altered("b", lambda one: (one / "deeper" / "more").write_text("x"))
    assert not altered("c", lambda one: (one / "seal.json").write_text("{"))
    assert not altered("d", lambda one: (one / "seal.json").write_text("[]"))
    assert not altered("e", lambda one: (one / "seal.json").unlink())


def test_a_step_saved_again_replaces_itself_and_a_third_one_pushes_out_the_first(tmp_path):
    # What a process that was killed left, with a file that is none of this attempt's.
    folder(tmp_path, ".partial-00000004", sealed=False)
    for step, value in ((4, 0.0), (4, 1.0), (6, 2.0)):
        checkpoint.save(tmp_path, step, {"x": torch.full((2, 3), value).T}, {"value": value})
        tensors, facts = checkpoint.newest(tmp_path)
        assert tensors["x"].tolist() == [[value] * 2] * 3 and facts == {"value": value}
        assert {f.name for f in (tmp_path / f"step-{step:08d}").iterdir()} == {"tensors.safetensors", "facts.json", "seal.json"}
    checkpoint.save(tmp_path, 8, {}, {})
    assert sorted(f.name for f in tmp_path.iterdir()) == ["step-00000006", "step-00000008"]


def test_a_save_that_fails_is_told_and_leaves_what_was_there_and_nothing_beside_it(tmp_path, monkeypatch):
    checkpoint.save(tmp_path, 4, {"x": torch.ones(1)}, {"done": 4})

    def full(partial):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "seal", full)
    for step in (4, 5):
        with pytest.raises(OSError, match="No space"):
            checkpoint.save(tmp_path, step, {"x": torch.zeros(1)}, {"done": step})
    assert [f.name for f in tmp_path.iterdir()] == ["step-00000004"] and checkpoint.newest(tmp_path)[1] == {"done": 4}
