"""Benchmarks by lm-eval: its results read by hand, a stand-in for the package, and a clear line without it."""

import json
import sys
from types import ModuleType, SimpleNamespace

import pytest

from data.errors import UserError
from pipeline.evaluation import benchmarks
from pipeline.evaluation.benchmarks import entries, read_results
from pipeline.evaluation.cards import Card, Entry, read_card, write_card
from pipeline.run import Run
from pipeline.step import Step

pytestmark = pytest.mark.usefixtures("few_prompts")


def raw(right, *, task="sums"):
    """As `simple_evaluate` returns it: one metric with a number for each question, one with a list, one without samples."""
    samples = [
        {"doc_id": k, "filter": "last", "metrics": ["exact_match"], "exact_match": float(x)}
        for k, x in enumerate(right)
    ] + [{"doc_id": k, "filter": "none", "metrics": ["inst"], "inst": [True, False]} for k in range(len(right))]
    figures = {
        "alias": task, "exact_match,last": sum(right) / len(right), "exact_match_stderr,last": "N/A", "inst,none": 0.5,
        "inst_stderr,none": 0.1,
    }  # fmt: skip
    return {"results": {task: figures}, "samples": {task: samples}}


def test_results_are_read_with_a_number_a_question_where_there_is_one():
    exact, inst = read_results(raw([1, 0, 1, 1]))
    assert (exact.metric, exact.values, exact.value, exact.n) == ("exact_match_last", {0: 1, 1: 0, 2: 1, 3: 1}, 0.75, 4)
    assert (inst.metric, inst.values, inst.value, inst.stderr) == ("inst", {}, 0.5, 0.1)


def test_the_card_has_intervals_and_what_ppo_changed_question_by_question():
    found = {"sft": read_results(raw([1, 0, 1, 1])), "ppo": read_results(raw([1, 1, 0, 1]))}
    card = {e.metric: e for e in entries(found)}
    assert card["ppo_sums_exact_match_last"].value == 0.75 and card["ppo_sums_exact_match_last"].n == 4
    assert card["ppo_sums_exact_match_last"].ci_low == 0.0 and card["ppo_sums_exact_match_last"].ci_high == 1.0
    change = card["ppo_sums_exact_match_last_minus_sft"]
    assert change.value == 0.0 and change.ci_low < 0 < change.ci_high and change.n == 4
    assert card["sft_sums_inst"].ci_low == pytest.approx(0.5 - 1.96 * 0.1, abs=1e-4)
    assert not any(name.endswith("_minus_sft") and "inst" in name for name in card)


def test_without_the_package_one_line_says_how_to_install_it(monkeypatch, capsys):
    from pipeline import cli

    monkeypatch.setattr(benchmarks, "find_spec", lambda name: None)
    monkeypatch.setattr(sys, "argv", ["run_pipeline.py", "evaluate", "--run", "nowhere", "--benchmarks", "ifeval"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    said = capsys.readouterr().err.strip()
    assert stopped.value.code == 2 and said.count("\n") == 0 and "pip install '.[benchmarks]'" in said
    monkeypatch.setattr(sys, "argv", ["run_pipeline.py", "evaluate", "--benchmark-limit", "3"])
    with pytest.raises(SystemExit):
        cli.main()
    assert "belong to --benchmarks" in capsys.readouterr().err


@pytest.fixture
def stand_in(monkeypatch):
    """A package that answers by the role that acts."""
    asked = []
    package, models, tasks = (
        ModuleType("lm_eval"),
        ModuleType("lm_eval.models.huggingface"),
        ModuleType("lm_eval.tasks"),
    )
    models.HFLM = lambda pretrained, tokenizer, batch_size: SimpleNamespace(model=pretrained)
    tasks.TaskManager = lambda include_path: SimpleNamespace(all_tasks=["sums", "sums_hard"])

    def simple_evaluate(**options):
        layer = next(m for m in options["model"].model.modules() if hasattr(m, "_active_adapter"))
        role = "base" if layer._disable_adapters else layer._active_adapter[0]
        asked.append((role, options["tasks"], options["limit"], options["apply_chat_template"]))
        if options["tasks"] == ["sums_hard"]:
            raise ConnectionError("no network\nat all")
        return raw({"base": [0, 0, 0, 1], "sft": [1, 0, 0, 1], "ppo": [1, 1, 0, 1]}[role])

    package.simple_evaluate = simple_evaluate
    for name, module in (("lm_eval", package), ("lm_eval.models.huggingface", models), ("lm_eval.tasks", tasks)):
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setitem(sys.modules, "lm_eval.models", ModuleType("lm_eval.models"))
    monkeypatch.setattr(benchmarks, "find_spec", lambda name: package)
    return asked


def test_every_finished_policy_is_asked_as_itself_and_the_card_is_written(stand_in, make_base, tmp_path):
    from pipeline.config import Config, DataConfig, LoraConfig, ModelConfig

    base = make_base("sft", "ppo")
    for policy in ("sft", "ppo"):
        base.save(policy, tmp_path / "r" / "stages" / policy / "adapter")
    config = Config(
        model=ModelConfig(name="tiny-random", dtype="float32"), lora=LoraConfig(rank=4, alpha=8.0, last_layers=2),
        data=DataConfig(demonstrations="d", rankings="r", heldout_prompts="h"),
    )  # fmt: skip
    run = Run(tmp_path / "r", config)
    folder = benchmarks.run(run, ["sums"], limit=4)
    assert stand_in == [(role, ["sums"], 4, True) for role in ("base", "sft", "ppo")]
    card = read_card(folder / "card.json")
    assert [card.get(f"{p}_sums_exact_match_last").value for p in ("base", "sft", "ppo")] == [0.25, 0.5, 0.75]
    assert card.get("ppo_sums_exact_match_last_minus_sft").value == 0.25
    assert json.loads((folder / "results.json").read_text())["results"]["sft"][0]["by_question"] == {
        "0": 1,
        "1": 0,
        "2": 0,
        "3": 1,
    }
    with pytest.raises(UserError, match="no task 'sum'.*did you mean 'sums'"):
        benchmarks.run(run, ["sum"])
    with pytest.raises(UserError, match="could not run them \\(no network at all\\)"):
        benchmarks.run(run, ["sums_hard"])
    with pytest.raises(UserError, match="is no directory"):
        benchmarks.run(run, ["sums"], tasks_dir=tmp_path / "none")
    assert read_card(folder / "card.json") == card  # what failed left the last card as it was


# -- gates ----------------------------------------------------------------------------------------------------------------

GATE = "benchmarks.ppo_sums_exact_match_last"


def prepared(ctx):
    return {}


def evaluated(ctx):
    write_card(ctx.out / "card.json", Card("base", (Entry("gold", 1.0, 2),)))
    return {"gold": 1.0}


@pytest.fixture
def door(monkeypatch, capsys, tmp_path):
    """The command line over a run of one small step, asked by a benchmark on which PPO is right on half of four questions."""
    from pipeline import cli, conductor

    monkeypatch.setitem(
        sys.modules, "bodies_of_benchmarks_test", SimpleNamespace(prepared=prepared, evaluated=evaluated)
    )
    stage = Step("prepare", (), (), 1, "bodies_of_benchmarks_test:prepared")
    judged = Step("evaluate-base", ("prepare",), (), 1, "bodies_of_benchmarks_test:evaluated")
    monkeypatch.setattr(conductor, "registry", lambda: ((stage,), {"prepare": judged}))
    monkeypatch.setattr(benchmarks, "find_spec", lambda name: name)
    answered = {"sft": read_results(raw([1, 0, 1, 1])), "ppo": read_results(raw([1, 0, 0, 1]))}
    monkeypatch.setattr(benchmarks, "_ask_all", lambda *a: answered)

    def call(verb, *arguments):
        command = ["run_pipeline.py", verb, "--run", str(tmp_path / "r"), *arguments]
        monkeypatch.setattr(sys, "argv", [*command, *(["--config", "configs/smoke.yaml"] if verb == "run" else [])])
        status = 0
        try:
            cli.main()
        except SystemExit as stopped:
            status = stopped.code
        said = capsys.readouterr()
        return status, said.out, said.err.splitlines(), (tmp_path / "r" / "report.md")

    return call


def test_a_run_that_never_asked_benchmarks_is_not_stopped_by_a_gate_on_them_and_says_so(door):
    status, _, errors, report = door("run", f"gates.{GATE}.min=0.9")
    assert status == 0 and errors == []
    assert "at least 0.9 | not measured yet |" in report.read_text()
    assert door("evaluate")[0] == 0 and "not measured yet" in report.read_text()


def test_asked_benchmarks_are_held_with_status_3_and_one_line_and_can_be_accepted(door):
    door("run", f"gates.{GATE}.min=0.9")
    status, out, errors, report = door("evaluate", "--benchmarks", "sums")
    assert status == 3 and "card.json" in out and len(errors) == 2 and errors[1].startswith("The report so far:")
    assert errors[0].startswith(f"gate {GATE}: 0.5 < 0.9 (") and "evaluation/benchmarks/card.json" in errors[0]
    assert "at least 0.9 | missed |" in report.read_text()
    # Measured and missed: judging the run anew says it again. A run that goes on is not stopped by it.
    assert door("evaluate")[0] == 3 and door("run", f"gates.{GATE}.min=0.9")[0] == 0
    assert door("evaluate", "--accept", GATE)[2] == [
        "--accept and --why belong together: --accept ppo.kl_to_reference --why 'looked at the answers'."
    ]
    status, out, errors, report = door("evaluate", "--accept", GATE, "--why", "four questions")
    assert status == 0 and errors == [] and f"gate {GATE}: 0.5 < 0.9" in out and "Accepted: four questions" in out
    assert "at least 0.9 | accepted |" in report.read_text()


@pytest.mark.parametrize(
    ("gate", "bound", "line"),
    [
        (f"{GATE}_minus_sft", "min=-0.3", None),
        (f"{GATE}_minus_sft.ci_low", "min=-0.3", "-1 < -0.3"),
        ("benchmarks.ppo_gsm8k_exact_match", "min=0.1", "no metric 'ppo_gsm8k_exact_match'"),
        ("benchmarks.base_sums_exact_match_last", "min=0.1", "no metric 'base_sums_exact_match_last'"),
    ],
)
def test_a_gate_on_what_was_not_measured_fails_once_benchmarks_are_asked(door, gate, bound, line):
    door("run", f"gates.{gate}.{bound}")
    status, _, errors, _ = door("evaluate", "--benchmarks", "sums")
    assert status == (3 if line else 0) and all(line in e for e in errors[:1])


def test_a_gate_that_only_warns_is_said(door):
    door("run", f"gates.{GATE}.min=0.9", f"gates.{GATE}.warn=true")
    status, out, errors, report = door("evaluate", "--benchmarks", "sums")
    assert (
        status == 0
        and errors == []
        and f"warning: gate {GATE}: 0.5 < 0.9" in out
        and "| warned |" in report.read_text()
    )


@pytest.mark.parametrize(
    "name", ["benchmarks.gsm8k", "benchmarks.reward_gsm8k_acc", "benchmarks.ppo_gsm8k", "benchmarks.eos_rate"]
)
def test_a_gate_that_no_benchmark_could_hold_is_refused_before_anything_runs(door, name):
    status, _, (line,), report = door("run", f"gates.{name}.min=0.9")
    assert status == 2 and line.startswith(f"gates.{name}: a benchmark's number is <policy>_<task>_<metric>")
    assert not report.exists()
