"""Which folder is a round's run, by files alone."""

import json

import pytest

from pipeline import round_runs

FILES = ("demonstrations", "rankings", "prompts", "heldout_prompts")


@pytest.fixture
def runs(tmp_path):
    """`now`, which was `before` when it made rounds 1 and 12: their snapshots, and the runs that were prepared from them."""
    (tmp_path / "now").mkdir()
    (tmp_path / "now" / "config.yaml").write_text("run_name: before\n", encoding="utf-8")
    for number in (1, 12):
        begin(tmp_path / "now", number)
        prepare(tmp_path / f"before-round-{number:03d}", number)
    return tmp_path


def begin(base, number):
    folder = base / "rounds" / f"{number:03d}"
    folder.mkdir(parents=True)
    files = {f"{name}.jsonl": {"sha256": f"{name} {number}"} for name in FILES}
    (folder / "snapshot.json").write_text(json.dumps({"files": files}), encoding="utf-8")


def prepare(run, number):
    """A run's manifest names more files than a snapshot has: the rubric's facts, say."""
    folder = run / "stages" / "prepare"
    folder.mkdir(parents=True)
    files = [{"sha256": f"{name} {number}"} for name in (*FILES, "facts")]
    (folder / "manifest.json").write_text(json.dumps({"files": files}), encoding="utf-8")


def test_rounds_are_found_by_number_under_the_name_that_the_run_had_or_has(runs):
    now = runs / "now"
    # Of round 13 the record is gone and the run is there, of round 4 it is the other way round; the last is another run's.
    prepare(runs / "now-round-013", 13)
    begin(now, 4)
    prepare(runs / "other-round-005", 5)
    found = {1: runs / "before-round-001", 12: runs / "before-round-012", 13: runs / "now-round-013"}
    assert list(round_runs.of_rounds(now).items()) == list(found.items())
    assert round_runs.of_round(now, 4) == runs / "now-round-004"
    # Where both names are taken, the present one is meant, whatever lies in it.
    (runs / "now-round-001").mkdir()
    assert round_runs.of_round(now, 1) == runs / "now-round-001"


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("before-round-001/stages/prepare/manifest.json", '{"files": [{"sha256": "rankings 1"}]}'),
        ("before-round-001/stages/prepare/manifest.json", '{"files": [{"sha256": "rankings 2"}, {"sha256": "prompts 2"}]}'),
        ("before-round-001/stages/prepare/manifest.json", "{bad"),
        ("before-round-001/stages/prepare/manifest.json", "{}"),
        ("before-round-001/stages/prepare/manifest.json", "[]"),
        ("now/rounds/001/snapshot.json", "{bad"),
        ("now/rounds/001/snapshot.json", '{"files": {}}'),
    ],
)
def test_a_run_under_an_earlier_name_that_is_not_shown_to_be_the_rounds_is_none_of_it(runs, file, text):
    (runs / file).write_text(text, encoding="utf-8")
    assert round_runs.of_round(runs / "now", 1) == runs / "now-round-001"
    assert list(round_runs.of_rounds(runs / "now")) == [12]
