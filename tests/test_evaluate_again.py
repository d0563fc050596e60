"""`evaluate --again` measures anew what was measured, and leaves what was trained alone."""

import json
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest

from pipeline import cli, conductor
from pipeline.evaluation.cards import Card, Entry, write_card
from pipeline.step import Step

TRAINED = Step("prepare", (), ("seed",), 1, "bodies_of_again_test:trained")
JUDGED = Step("evaluate-base", ("prepare",), ("evaluation",), 1, "bodies_of_again_test:judged")


@pytest.fixture
def door(monkeypatch, capsys, tmp_path):
    """The command line over one stage and its evaluation, each of which counts how often it was made."""
    made = {"prepare": 0, "evaluate-base": 0}

    def body(name):
        def run(ctx):
            made[name] += 1
            write_card(ctx.out / "card.json", Card("base", (Entry("gold", float(made[name]), 2),)))
            return {}

        return run

    bodies = SimpleNamespace(trained=body("prepare"), judged=body("evaluate-base"))
    monkeypatch.setitem(sys.modules, "bodies_of_again_test", bodies)

    def call(verb, *arguments, version=1):
        steps = ((TRAINED,), {"prepare": replace(JUDGED, version=version)})
        monkeypatch.setattr(conductor, "registry", lambda: steps)
        config = ["--config", "configs/smoke.yaml"] if verb == "run" else []
        monkeypatch.setattr(sys, "argv", ["x", verb, "--run", str(tmp_path / "r"), *config, *arguments])
        try:
            cli.main()
            status = 0
        except SystemExit as stopped:
            status = stopped.code
        return status, capsys.readouterr().err, tuple(made.values())

    call.run = tmp_path / "r"
    return call


def test_only_what_measures_is_made_anew_and_the_report_shows_it(door):
    assert door("run")[::2] == (0, (1, 1)) and door("evaluate")[::2] == (0, (1, 1))
    asked = door.run / "evaluation" / "benchmarks"
    asked.mkdir()
    write_card(asked / "card.json", Card("benchmarks", (Entry("ppo_a_b", 0.25, 4),)))
    assert door("evaluate", "--again")[::2] == (0, (1, 2))
    assert json.loads((door.run / "evaluation/base/card.json").read_text())["entries"][0]["value"] == 2.0
    # The policies are the same, so what benchmarks said of them still holds.
    assert (asked / "card.json").exists()
    assert "| gold | 2.00 |" in (door.run / "report.md").read_text()


def test_an_evaluation_of_another_version_or_with_other_settings_needs_no_training(door):
    door("run")
    status, said, made = door("evaluate", version=2)
    assert status == 2 and made == (1, 1) and "code version 1, now 2. Use `evaluate --again`" in said
    assert door("evaluate", "--again", version=2)[::2] == (0, (1, 2))
    assert door("run", "evaluation.limit=3", version=2)[0] == 2
    assert door("evaluate", "--again", "evaluation.limit=3", version=2)[::2] == (0, (1, 3))
    # A stage made otherwise stays refused: judging is no training.
    status, said, made = door("evaluate", "--again", "seed=9", version=2)
    assert status == 2 and "'prepare' was made with seed" in said and "--again" not in said and made == (1, 3)
    assert (door.run / "evaluation/base/card.json").exists()
