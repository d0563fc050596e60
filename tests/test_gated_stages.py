"""No way around a missed gate: not by naming a later stage, and not by an acceptance of something else."""

import json
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline import cli, conductor, stopping
from pipeline.errors import UserError
from pipeline.evaluation.cards import Card, Entry, write_card
from pipeline.step import Step

BODIES = "bodies_of_gated_stages_test"


@pytest.fixture
def door(monkeypatch, capsys, tmp_path):
    """The command line over two stages, the first of them judged; `door.gold` is what its card says."""
    made = []

    def body(name):
        def run(ctx):
            made.append(name)
            if name in call.fails:
                raise UserError("it cannot")
            if name == "judged":
                write_card(ctx.out / "card.json", Card("base", (Entry("gold", call.gold, 9),)))
            else:
                (ctx.out / "weights").write_text(name)
            return {}

        return run

    bodies = {name: body(name) for name in ("first", "judged", "second")}
    monkeypatch.setitem(sys.modules, BODIES, SimpleNamespace(**bodies))
    first = Step("prepare", (), ("seed",), 1, f"{BODIES}:first")
    judged = Step("evaluate-base", ("prepare",), ("evaluation",), 1, f"{BODIES}:judged")
    second = Step("ppo", ("prepare",), ("ppo",), 1, f"{BODIES}:second")
    monkeypatch.setattr(conductor, "registry", lambda: ((first, second), {"prepare": judged}))

    def call(*arguments):
        made.clear()
        config = [] if (call.run / "config.yaml").exists() else ["--config", "configs/smoke.yaml"]
        monkeypatch.setattr(sys, "argv", ["x", *arguments[:1], "--run", str(call.run), *config, *arguments[1:]])
        try:
            cli.main()
            status = 0
        except SystemExit as stopped:
            status = stopped.code
        return status, list(made), capsys.readouterr().err

    call.run, call.gold, call.fails = tmp_path / "r", 1.0, ()
    return call


def test_who_stops_in_the_middle_of_an_import_is_told_so_and_nothing_of_a_report_that_cannot_be_made(door, monkeypatch):
    def stopped(ctx):
        # As a library leaves it whose import was broken off.
        monkeypatch.setattr(conductor, "_report", lambda *_: Path(undefined))  # noqa: F821
        stopping._handle(signal.SIGINT, None)

    monkeypatch.setattr(sys.modules[BODIES], "second", stopped)
    assert door("run") == (130, ["first", "judged"], "\nthe same command goes on from what is kept\n\nstopped by SIGINT\n")


def test_a_later_stage_by_itself_is_stopped_by_the_gate_of_what_it_reads(door):
    assert door("run", "gates.base.gold.min=2")[:2] == (3, ["first", "judged"])
    for verb in (("run", "--only", "ppo"), ("ppo",), ("run", "--from", "ppo")):
        status, made, said = door(*verb)
        assert (status, made) == (3, []) and said.startswith("gate base.gold: 1 < 2")
    assert door("run", "--only", "ppo", "--accept", "base.gold", "--why", "a pilot")[:2] == (0, ["second"])


def test_several_gates_are_accepted_at_once_since_each_would_refuse_the_call_for_the_other(door):
    gates = ("gates.base.gold_concise.min=0", "gates.base.gold_plain.min=0", "evaluation.gold=none")
    accept = ("--accept", "base.gold_concise", "--accept", "base.gold_plain")
    assert door("run", *gates)[0] == 2
    assert door("run", *gates, *accept[:2], "--why", "a pilot")[0] == 2
    for why in ((), ("--why", " ")):
        status, made, said = door("run", *gates, *accept, *why)
        assert (status, made) == (2, []) and "--accept and --why belong together" in said
    assert door("run", *gates, *accept, "--why", "a pilot")[0] == 0


def test_a_card_that_is_not_there_is_made_before_a_stage_is_built_on_what_it_judges(door):
    door("run", "--until", "prepare", "gates.base.gold.min=0.5")
    for file in sorted((door.run / "evaluation" / "base").iterdir()):
        file.unlink()
    door.gold = 0.0
    assert door("run", "--only", "ppo")[:2] == (3, ["judged"])


def test_an_acceptance_ends_where_the_number_gets_worse_or_the_bound_is_another(door):
    assert door("run", "gates.base.gold.min=2", "--accept", "base.gold", "--why", "a pilot")[0] == 0
    assert door("run")[0] == 0
    status, _, said = door("run", "gates.base.gold.min=3")
    assert status == 3 and "What was accepted is 1 against min 2" in said
    assert door("run", "gates.base.gold.min=2")[0] == 0
    door.gold = 0.5
    status, _, said = door("evaluate", "--again")
    assert status == 3 and "`run --accept " in said
    (line,) = json.loads((door.run / "evaluation/base/gates.json").read_text())["gates"]
    assert line["state"] == "missed"
    assert "| missed |" in (door.run / "report.md").read_text()


def test_what_would_stop_ppo_when_it_begins_is_told_before_anything_runs(door, tmp_path):
    status, made, said = door("run", "ppo.start_from=nowhere", "ppo.reward_sources={model: 1.0, rubrik: 0.5}")
    assert (status, made) == (2, [])
    assert "ppo.start_from: no adapter_model.safetensors in nowhere" in said
    assert "ppo.reward_sources: no source 'rubrik'; there are model, rubric." in said
    # Without PPO nothing of it is asked, and what is there is let in.
    assert door("run", "--only", "prepare", "ppo.start_from=nowhere")[0] == 0
    (tmp_path / "adapter_model.safetensors").touch()
    assert door("run", f"ppo.start_from={tmp_path}", "ppo.reward_sources={model: 1.0, rubric: 0.5}")[:2] == (0, ["second"])


def test_kto_without_thumbs_is_told_before_anything_runs(door):
    status, made, said = door("run", "learner=kto")
    assert (status, made) == (2, []) and said.startswith("learner: kto, but there are no thumbs.")
    # A run may go as far as it does not need them; a round brings its own.
    assert door("run", "--until", "prepare", "learner=kto")[:2] == (0, ["first", "judged"])


def test_what_is_removed_is_made_anew_or_nothing_is_removed(door):
    door("run")
    status, made, said = door("run", "--redo", "ppo", "--until", "prepare")
    assert (status, made) == (2, []) and (door.run / "stages" / "ppo" / "manifest.json").exists()
    assert said == "--redo ppo: would remove it and not make it anew, as this call is for prepare alone. Choose ppo too.\n"
    assert door("run", "--redo", "ppo", "--until", "prepare", "--dry-run")[0] == 2
    assert door("run", "--redo", "prepare", "--until", "prepare")[:2] == (0, ["first", "judged"])
    assert not (door.run / "stages" / "ppo").exists()


def test_the_report_shows_nothing_that_was_removed_also_where_the_stage_then_fails(door):
    door("run")
    assert "| PPO |" in (door.run / "report.md").read_text()
    door.fails = ("second",)
    assert door("run", "--redo", "ppo")[:2] == (2, ["second"])
    assert "| PPO |" not in (door.run / "report.md").read_text()


def test_a_config_whose_name_is_none_for_a_run_is_told_before_anything_is_written(door, tmp_path, monkeypatch):
    file = tmp_path / "my config.yaml"
    file.write_text(f"runs_dir: {tmp_path}/runs\n" + Path("configs/smoke.yaml").read_text())
    for verb in ("run", "status", "evaluate"):
        monkeypatch.setattr(sys, "argv", ["x", verb, "--config", str(file)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        assert stopped.value.code == 2
    assert not (tmp_path / "runs").exists()
    monkeypatch.setattr(sys, "argv", ["x", "run", "--config", str(file), "--run", "mine"])
    cli.main()
    assert (tmp_path / "runs" / "mine" / "config.yaml").exists()


def test_a_verdict_that_was_altered_is_told_and_one_that_moved_is_not(door):
    """Nothing seals it, since it is written anew with every acceptance: it is held against its card."""
    assert door("run", "gates.base.gold.min=2", "gates.base.gold.warn=true")[0] == 0
    file = door.run / "evaluation" / "base" / "gates.json"
    written = file.read_text()
    status, _, said = door("status", "--verify")
    assert (status, said) == (0, "")
    for altered in (written.replace('"warned"', '"passed"'), written.replace("1 < 2", "3 > 2"), "{", "[]", '{"gates": 3}', None):
        assert altered != written
        file.unlink()
        if altered is not None:
            file.write_text(altered)
        status, _, said = door("status", "--verify")
        assert status == 2 and str(file) in said and "holds the gates again" in said
        # As the sentence says.
        assert door("run")[0] == 0 and file.read_text() == written
    elsewhere = door.run.parent / "moved (twice)" / "r"
    elsewhere.parent.mkdir()
    door.run.rename(elsewhere)
    door.run = elsewhere
    status, _, said = door("status", "--verify")
    assert (status, said) == (0, "")
