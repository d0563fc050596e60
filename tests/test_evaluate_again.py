"""`evaluate` measures what is not measured and what is outdated, `evaluate --again` everything; what was trained stays."""

import json
import shutil
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest

from pipeline import cli, conductor
from pipeline.errors import UserError
from pipeline.evaluation.cards import Card, Entry, write_card
from pipeline.step import Step

BODIES = "bodies_of_again_test"
STAGES = tuple(Step(name, (), ("seed",), 1, f"{BODIES}:{name}") for name in ("prepare", "reward", "ppo"))
# As in a real run: the last card is held against the first, the one between against none.
JUDGING = {
    "prepare": Step("evaluate-base", ("prepare",), ("evaluation",), 1, f"{BODIES}:base"),
    "reward": Step("evaluate-reward", ("reward",), ("evaluation.temperature",), 1, f"{BODIES}:judge"),
    "ppo": Step("evaluate-ppo", ("ppo", "evaluate-base"), ("evaluation.temperature",), 1, f"{BODIES}:verdict"),
}


@pytest.fixture
def door(monkeypatch, capsys, tmp_path):
    """The command line over three stages and their evaluations; gives the status, what was made, and what was said and complained."""
    made: list[str] = []

    def body(name):
        def run(ctx):
            made.append(name)
            if name in call.fails:
                raise UserError("it cannot")
            call.count += 1
            write_card(ctx.out / "card.json", Card(name, (Entry("gold", float(call.count), 2),)))
            return {}

        return run

    names = ("prepare", "reward", "ppo", "base", "judge", "verdict")
    monkeypatch.setitem(sys.modules, BODIES, SimpleNamespace(**{name: body(name) for name in names}))

    def call(verb, *arguments, raised=()):
        judging = {s: replace(e, version=2) if e.name in raised else e for s, e in JUDGING.items()}
        monkeypatch.setattr(conductor, "registry", lambda: (STAGES, judging))
        config = ["--config", "configs/smoke.yaml"] if verb == "run" else []
        monkeypatch.setattr(sys, "argv", ["x", verb, "--run", str(tmp_path / "r"), *config, *arguments])
        made.clear()
        try:
            cli.main()
            status = 0
        except SystemExit as stopped:
            status = stopped.code
        written = capsys.readouterr()
        return status, " ".join(made), written.out + written.err

    call.run, call.count, call.fails = tmp_path / "r", 0, ()
    assert call("run")[:2] == (0, "prepare base reward judge ppo verdict")
    return call


def card(door, name: str) -> str:
    return (door.run / "evaluation" / name / "card.json").read_text()


def test_again_measures_everything_and_the_report_shows_it(door):
    assert door("evaluate")[:2] == (0, "")
    asked = door.run / "evaluation" / "benchmarks"
    asked.mkdir()
    write_card(asked / "card.json", Card("benchmarks", (Entry("ppo_a_b", 0.25, 4),)))
    assert door("evaluate", "--again")[:2] == (0, "base judge verdict")
    # Six were made before it.
    assert json.loads(card(door, "base"))["entries"][0]["value"] == 7.0
    # The policies are the same, so what benchmarks said of them still holds.
    assert (asked / "card.json").exists()
    assert "| gold | 7.00 |" in (door.run / "report.md").read_text()
    assert door("evaluate")[:2] == (0, "")


def test_a_card_of_an_older_version_alone_is_measured_anew(door):
    before = {name: card(door, name) for name in ("base", "ppo")}
    raised = ("evaluate-reward",)
    status, made, said = door("run", raised=raised)
    assert (status, made) == (2, "") and "'evaluate-reward' was made with code version 1, now 2. Use `evaluate`" in said
    status, made, said = door("evaluate", raised=raised)
    assert (status, made) == (0, "judge")
    assert [line for line in said.splitlines() if "anew" in line] == ["evaluate-reward: measured anew, code version 1, now 2"]
    assert {name: card(door, name) for name in ("base", "ppo")} == before
    assert door("run", raised=raised)[:2] == (0, "")


def test_what_is_held_against_an_outdated_card_is_outdated_too(door):
    status, made, said = door("evaluate", raised=("evaluate-base",))
    assert (status, made) == (0, "base verdict")
    assert "evaluate-ppo: measured anew, held against evaluate-base, which is measured anew" in said
    assert door("evaluate", raised=("evaluate-base",))[:2] == (0, "")


@pytest.mark.parametrize(("lost", "why"), [("card", "missing"), ("manifest", "measured anew")])
def test_a_card_whose_counterpart_is_lost_is_measured_anew_with_it(door, lost, why):
    """Nothing else would mend it: `run` refuses a card that is held against none."""
    folder = door.run / "evaluation" / "base"
    if lost == "card":
        shutil.rmtree(folder)
        status, made, said = door("run")
        assert (status, made) == (2, "") and "'evaluate-ppo' needs evaluate-base, not finished here. `evaluate` measures it" in said
    else:
        (folder / "manifest.json").write_text("{")
    status, made, said = door("evaluate")
    assert (status, made) == (0, "base verdict") and f"evaluate-ppo: measured anew, held against evaluate-base, which is {why}" in said
    assert door("evaluate")[:2] == door("run")[:2] == (0, "")


def test_other_settings_of_the_evaluation_measure_anew_and_train_nothing(door):
    assert door("run", "evaluation.limit=3")[:2] == (2, "")
    status, made, said = door("evaluate", "evaluation.limit=3")
    assert (status, made) == (0, "base verdict") and "evaluate-base: measured anew, evaluation.limit" in said
    # A stage made otherwise stays refused, whatever else is outdated: judging is no training.
    for verb in (("evaluate",), ("evaluate", "--again")):
        status, made, said = door(*verb, "seed=9", raised=("evaluate-base",))
        assert (status, made) == (2, "") and "'prepare' was made with seed" in said and "evaluate" not in said


def test_a_card_that_was_changed_or_whose_manifest_is_damaged_is_measured_anew(door):
    for name, why in (("card.json", "its files are not as they were written"), ("manifest.json", "its manifest is damaged")):
        (door.run / "evaluation" / "reward" / name).write_text("{}")
        status, made, said = door("run")
        assert (status, made) == (2, "") and "`evaluate` makes it anew" in said
        status, made, said = door("evaluate")
        assert (status, made) == (0, "judge") and f"evaluate-reward: measured anew, {why}" in said


def test_an_outdated_card_stays_until_the_new_one_is_whole(door):
    before = card(door, "ppo")
    door.fails = ("verdict",)
    assert door("evaluate", "--again")[:2] == (2, "base judge verdict")
    assert card(door, "ppo") == before
    # It was held against a base card that is no more, so it alone is made once more.
    door.fails = ()
    assert door("evaluate")[:2] == (0, "verdict") and card(door, "ppo") != before
    assert sorted(f.name for f in (door.run / "evaluation").iterdir()) == ["base", "ppo", "reward"]
