"""What a run takes over from another: exactly what would come out the same. Tiny stand-ins for the steps, and the real ones once."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline import takeover
from pipeline.conductor import all_steps, conduct
from pipeline.config import load_config
from pipeline.manifest import TAKEN_OVER
from pipeline.run import Run
from pipeline.step import Step, StepContext

BODY = """
import json
from pathlib import Path

def prepare(ctx):
    for name, text in json.loads(Path(ctx.config.data.rankings).read_text()).items():
        (ctx.out / name).write_text(text)
    return {}

def learn(ctx):
    (ctx.out / "deep").mkdir()
    (ctx.out / "deep" / "adapter").write_text((ctx.inputs["prepare"] / "shown").read_text() + str(ctx.config.lora.rank))
    Path(ctx.config.data.prompts).open("a").write("trained ")
    return {"loss": 1.5}
"""
PREPARE = Step("prepare", (), ("seed",), 1, "bodies_of_takeover:prepare", lambda c: [Path(c.data.rankings)])
LEARN = Step("learn", ("prepare",), ("lora",), 1, "bodies_of_takeover:learn", reads={"prepare": ("shown",)})
STEPS = {s.name: s for s in (PREPARE, LEARN)}


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Makes a run over data that holds `shown` and `ranked`; and tells how often its second step was trained."""
    (tmp_path / "bodies_of_takeover.py").write_text(BODY, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))

    def make(name, *, like=None, rank=4, step=LEARN, **files):
        data = tmp_path / f"{name}.json"
        files = {"shown": "a", "ranked": "b", "report.json": json.dumps({"base_weights_sha256": "w"})} | files
        data.write_text(json.dumps(files), encoding="utf-8")
        (tmp_path / "c.yaml").write_text(
            f"runs_dir: {tmp_path}\nthreads: 1\ndata: {{demonstrations: d, rankings: {data}, heldout_prompts: h, prompts: {tmp_path}/log}}\n",
            encoding="utf-8",
        )
        config = load_config(tmp_path / "c.yaml", [f"run_name={name}", f"lora.rank={rank}"])
        run, steps = Run(tmp_path / name, config, like), {**STEPS, "learn": step}
        manifests = [run.execute(s, steps)[0] for s in steps.values()]
        return run, manifests[-1]

    make.trained = lambda: (tmp_path / "log").read_text().count("trained")
    return make


def test_a_step_that_reads_the_same_bytes_is_copied(made):
    old, first = made("old")
    new, second = made("new", like=old, ranked="other rankings")
    assert made.trained() == 1 and second.environment[TAKEN_OVER] == "old"
    assert (second.artifacts, second.metrics) == (first.artifacts, {"loss": 1.5})
    # It belongs to the new run: a second call finds it done.
    assert new.differences(LEARN, STEPS) == [] and new.execute(LEARN, STEPS) == (second, False)
    assert (new.path / "stages" / "learn" / "deep" / "adapter").read_text() == "a4"


@pytest.mark.parametrize(
    "other",
    [
        {"shown": "other demonstrations"},
        {"rank": 8},
        {"step": replace(LEARN, version=2)},
        {"step": replace(LEARN, reads={})},
        {"report.json": json.dumps({"base_weights_sha256": "others"})},
    ],
    ids=["data", "settings", "code", "not named", "base model"],
)
def test_whatever_could_change_the_result_trains_anew(made, other):
    old, _ = made("old")
    _, second = made("new", like=old, **other)
    assert made.trained() == 2 and TAKEN_OVER not in second.environment


@pytest.mark.parametrize("file", ["stages/learn/deep/adapter", "stages/learn/manifest.json"])
def test_a_damaged_step_is_not_taken_over(made, file):
    old, _ = made("old")
    text = (old.path / file).read_text().replace("a4", "a5").replace("1.5", "2.5")
    (old.path / file).write_text(text)
    _, second = made("new", like=old)
    assert made.trained() == 2 and TAKEN_OVER not in second.environment


def test_the_real_steps_depend_on_the_files_that_they_name_and_on_no_others(tmp_path):
    """Each is made again with nothing else of its inputs there, and comes out the same."""
    small = (
        "threads=1", "data.limit=24", "reward.members=1", "ppo.ensemble=mean", "ppo.updates=1", "evaluation.max_new_tokens=4",
        "evaluation.limit=4", f"runs_dir={tmp_path}", "run_name=r",
    )  # fmt: skip
    run = Run.open(load_config(Path("configs/smoke.yaml"), small))
    conduct(run, ["prepare", "sft"], lambda line: None)
    steps = all_steps()
    named = [s for s in steps.values() if s.reads]
    assert [s.name for s in named] == ["evaluate-base", "sft", "evaluate-sft"]
    for step in named:
        assert step.reads.keys() == set(step.needs)
        inputs = {}
        for name, files in step.reads.items():
            inputs[name] = tmp_path / step.name / name
            for file in files:
                (inputs[name] / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(run.path / steps[name].folder / file, inputs[name] / file)
        out = tmp_path / f"{step.name}-again"
        out.mkdir()
        body = replace(step, needs=tuple(inputs))
        metrics = _made_of(run, body, out, inputs)
        first = run.manifest(step)
        assert metrics == first.metrics
        for artifact in first.artifacts:
            # Its log holds seconds.
            if artifact.path != "log.jsonl":
                assert takeover.sha256(out / artifact.path) == artifact.sha256, (step.name, artifact.path)


def _made_of(run, step, out, inputs):
    import importlib

    from pipeline.environment import settle

    settle(run.config)
    module, _, function = step.body.partition(":")
    return getattr(importlib.import_module(module), function)(StepContext(run.config, run, out, inputs, None))
