"""A file is there whole or not at all."""

import errno
import hashlib
import os

import pytest

from pipeline.disk import sha256, write_json, write_whole


def test_what_was_written_is_read_back_byte_for_byte(tmp_path):
    write_whole(tmp_path / "a", "one\ntwo é\n")
    assert (tmp_path / "a").read_bytes() == "one\ntwo é\n".encode()
    assert sha256(tmp_path / "a") == hashlib.sha256("one\ntwo é\n".encode()).hexdigest()
    assert [f.name for f in tmp_path.iterdir()] == ["a"]


def test_a_full_disk_leaves_the_old_content_and_nothing_beside_it(tmp_path, monkeypatch):
    write_whole(tmp_path / "a", "old")

    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_whole(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "old" and [f.name for f in tmp_path.iterdir()] == ["a"]


def test_a_number_that_json_does_not_know_is_refused_before_anything_is_written(tmp_path):
    write_json(tmp_path / "a", {"x": 1.5})
    with pytest.raises(ValueError):
        write_json(tmp_path / "a", {"x": float("nan")})
    assert (tmp_path / "a").read_text() == '{\n "x": 1.5\n}\n'
