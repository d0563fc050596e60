"""The configs to start from: what their headers promise is what the plan says, and their data come by the command they name."""

import re
import shlex
import sys
from collections import Counter
from pathlib import Path

import pytest

from data.formats import FORMATS
from data.loading import load
from pipeline.config import check_files, load_config
from pipeline.evaluation.expected import refused
from pipeline.planning import show
from pipeline.planning.plan import GB, make_plan

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
ALL = sorted((ROOT / "configs").glob("*.yaml"))
ON_CARDS = [f for f in ALL if "# Card: " in f.read_text(encoding="utf-8")]


def header(file: Path) -> str:
    return "".join(line[2:] + "\n" for line in file.read_text(encoding="utf-8").splitlines() if line.startswith("# "))


@pytest.mark.parametrize("file", ALL, ids=lambda f: f.stem)
def test_every_shipped_config_names_gates_that_will_be_measured_and_a_base_that_can_be_planned(file):
    config = load_config(file)
    # Also those that only warn: none of them asks for a number that the config switches off.
    assert refused({name: {"min": 0} for name in config.gates}, config) == {}
    assert make_plan(config, on_gpu=False, bfloat16=False).peak > 0


@pytest.mark.parametrize("file", ON_CARDS, ids=lambda f: f.stem)
def test_the_header_says_what_the_plan_says_and_it_fits_the_card(file, monkeypatch, tmp_path):
    # Where nobody has fetched the data yet: how many answers a ranking has is not looked up.
    monkeypatch.chdir(tmp_path)
    card, memory, command = re.search(r"Card: (\w+)\. Memory: ([\d.]+) GB \(`([^`]+)`\)", header(file)).groups()
    made = make_plan(load_config(file), on_gpu=True, bfloat16=True)
    assert f"{made.peak / GB:.1f}" == memory and show.fits(made, show.parse_bytes(card))
    assert command == f"python run_pipeline.py plan --config configs/{file.name} --memory {card}"


@pytest.mark.parametrize("file", ON_CARDS, ids=lambda f: f.stem)
def test_the_data_come_by_the_command_in_the_header(file, monkeypatch):
    from fetch_rows import SETS

    monkeypatch.chdir(ROOT)
    words = shlex.split(re.search(r"python scripts/fetch_rows.py ([^\n]+)", header(file))[1])
    assert words[0] in SETS and re.search(r"@[0-9a-f]{40}$", SETS[words[0]][0])
    config = load_config(file)
    for key, source in config.data.sources():
        assert source.startswith(words[1] + "/") and getattr(config.data, f"{key}_format") in FORMATS
    # Nothing else is missing.
    assert all(words[1] in problem for problem in check_files(config))


def test_configs_on_cards_are_more_than_a_few():
    assert {f.stem for f in ON_CARDS} >= {"single_gpu_8b", "single_gpu_1b", "hh_rlhf", "tldr", "quickstart_gpu"}


def pair(question, better, worse):
    return {
        "chosen": f"\n\nHuman: {question}\n\nAssistant: {better}",
        "rejected": f"\n\nHuman: {question}\n\nAssistant: {worse}",
    }


def test_fetched_rows_load_and_nothing_held_out_is_asked_in_training(tmp_path):
    import fetch_rows

    skipped: Counter = Counter()
    train = fetch_rows.read(
        enumerate([pair("a", "x", "y"), pair("b", "x", "y"), {"chosen": 3}, pair("z" * 99, "x", "y")], 1),
        "hh",
        50,
        skipped,
    )
    test = fetch_rows.read(
        enumerate([pair(" A", "x", "y"), pair("c", "u", "v"), pair("c", "v", "u"), pair("d", "x", "y")], 1),
        "hh",
        50,
        skipped,
    )
    fetch_rows.write(train, test, tmp_path, 1, skipped)
    assert [d.response for d in load(tmp_path / "demonstrations.jsonl", "messages")] == ["x", "x"]
    assert [r.responses for r in load(tmp_path / "rankings.jsonl", "ranked")] == [("x", "y")] * 2
    assert [p.messages[0].content for p in load(tmp_path / "heldout_prompts.jsonl", "prompts")] == ["c"]
    assert len(load(tmp_path / "heldout_rankings.jsonl", "ranked")) == 1
    # "A" is asked in training, "c" stands twice; one row is no pair, one prompt too long.
    assert (
        skipped["held out and asked elsewhere too"] == 2
        and skipped["prompt too long"] == 1
        and sum(skipped.values()) == 4
    )
