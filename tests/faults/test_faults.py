"""The short form of the fault suite; `python tests/faults/matrix.py` is the long one."""

import shutil
import subprocess
import sys

import faults
import pytest


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nobody strikes."""
    path = tmp_path_factory.mktemp("faults") / "whole"
    ended = faults.run(path)
    assert ended.status == 0, ended.said
    return path, ended.points


# Shares of a run's crash points that lie in SFT, the reward model and PPO.
@pytest.mark.parametrize("shares", [(0.2, 0.5), (0.65,), (0.9,)])
def test_a_killed_run_ends_with_the_bytes_of_one_that_was_not(whole, tmp_path, shares):
    path, points = whole
    for share in shares:
        assert faults.run(tmp_path / "r", "kill", int(share * points)).status == -9
        assert faults.unsound(tmp_path / "r") == []
        points = int((1 - share) * points)
    assert faults.run(tmp_path / "r").status == 0
    assert faults.result(tmp_path / "r") == faults.result(path)


@pytest.mark.parametrize(("fault", "status", "share"), [("term", 143, 0.5), ("full", 28, 0.85)])
def test_a_signal_or_a_full_disk_ends_in_a_line_and_nothing_is_lost(whole, tmp_path, fault, status, share):
    path, points = whole
    ended = faults.run(tmp_path / "r", fault, int(share * points))
    assert ended.status == status and "Traceback" not in ended.said, ended.said
    assert faults.run(tmp_path / "r").status == 0
    assert faults.result(tmp_path / "r") == faults.result(path)


def test_a_second_process_on_a_run_is_told_who_holds_it(whole, tmp_path):
    shutil.copytree(whole[0], tmp_path / "r")
    code = (
        "import sys, time; sys.path.insert(0, sys.argv[1]); from pathlib import Path; from pipeline.run import Run\n"
        "with Run.load(Path(sys.argv[2])).lock(): print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(faults.ROOT), str(tmp_path / "r")], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout.readline() == "held\n"
        ended = faults.run(tmp_path / "r")
        assert ended.status == 75 and f"process {holder.pid}" in ended.said
    finally:
        holder.kill()
