"""Runs survive kills, notice changes, and admit one process at a time. The steps here are tiny stand-ins."""

import errno
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from data.errors import UserError
from data.sources import files_of
from pipeline import service
from pipeline.conductor import _refuse_other_base, _refuse_other_settings, all_steps, conduct
from pipeline.config import load_config
from pipeline.errors import RunBusy
from pipeline.models import load_tokenizer
from pipeline.run import Run
from pipeline.step import Step
from pipeline.template import template_sha256
from pipeline.weights import weights_sha256

HERE = Path(__file__).resolve().parent
BODY = """
import os, pathlib, signal, time

def first(ctx):
    (ctx.out / "number.txt").write_text(str(ctx.config.seed + 1))
    ctx.log({"step": 0})
    return {"number": ctx.config.seed + 1.0}

def second(ctx):
    number = int((ctx.inputs["first"] / "number.txt").read_text())
    marker = pathlib.Path(os.environ["MARKER"])
    if (ctx.checkpoints / "c").exists():
        (ctx.out / "taken_up.txt").write_text((ctx.checkpoints / "c").read_text())
    (ctx.out / "half.txt").write_text("half")
    if not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return {"number": number * 2.0, "resumed": float(ctx.resume_dir is not None)}

def slow(ctx):
    (ctx.out / "a").write_text("a")
    time.sleep(60)
    return {}
"""
PRELUDE = """
import sys
sys.path[:0] = [{root!r}, {bodies!r}]
from pathlib import Path
from pipeline.config import load_config
from pipeline.run import Run
from pipeline.step import Step
FIRST = Step("first", (), ("seed",), 1, "bodies_of_run_test:first")
SECOND = Step("second", ("first",), ("lora.rank",), 1, "bodies_of_run_test:second")
SLOW = Step("slow", (), (), 1, "bodies_of_run_test:slow")
STEPS = {{s.name: s for s in (FIRST, SECOND, SLOW)}}
run = Run.open(load_config(Path({config!r})))
"""
FILES = ("demonstrations", "rankings", "heldout_prompts")
FIRST = Step("first", (), ("seed",), 1, "bodies_of_run_test:first")
SECOND = Step("second", ("first",), ("lora.rank",), 1, "bodies_of_run_test:second")
STEPS = {s.name: s for s in (FIRST, SECOND)}


@pytest.fixture
def place(tmp_path, monkeypatch):
    (tmp_path / "bodies_of_run_test.py").write_text(BODY, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("MARKER", str(tmp_path / "marker"))
    (tmp_path / "my.yaml").write_text(
        f"runs_dir: {tmp_path}/runs\nthreads: 1\ndata: {{demonstrations: d, rankings: r, heldout_prompts: h}}\n",
        encoding="utf-8",
    )
    return tmp_path


def opened(place: Path, *overrides: str) -> Run:
    return Run.open(load_config(place / "my.yaml", overrides))


def python(place: Path, code: str, **kwargs):
    text = PRELUDE.format(root=str(HERE.parent), bodies=str(place), config=str(place / "my.yaml")) + code
    return subprocess.Popen(
        [sys.executable, "-c", text], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **kwargs
    )


def test_a_finished_step_is_not_made_again(place):
    run = opened(place)
    made, fresh = run.execute(FIRST, STEPS)
    again, fresh_again = run.execute(FIRST, STEPS)
    assert fresh and not fresh_again and made == again
    assert [a.path for a in made.artifacts] == ["log.jsonl", "number.txt"]


def test_a_changed_setting_is_named_with_the_ways_on(place):
    opened(place).execute(FIRST, STEPS)
    with pytest.raises(UserError, match=r"'first' was made with seed 0, now 5.*--run NEW, or, with the same settings, `run --redo first`"):
        opened(place, "seed=5").execute(FIRST, STEPS)
    # A setting that the step does not name leaves it alone.
    assert opened(place, "lora.rank=3").execute(FIRST, STEPS)[1] is False


def test_a_setting_that_came_later_changes_nothing_at_its_default(place):
    """As if the step had been finished before `lora.dropout` existed."""
    step = Step("first", (), ("lora",), 1, "bodies_of_run_test:first")
    run = opened(place)
    done, _ = run.execute(step, {"first": step})
    settings = {name: value for name, value in done.settings.items() if name != "lora.dropout"}
    older = replace(done, settings=settings)
    older = replace(older, digest=older.own_digest())
    (run.path / step.folder / "manifest.json").write_text(json.dumps(asdict(older)), encoding="utf-8")
    assert run.execute(step, {"first": step})[1] is False
    with pytest.raises(UserError, match=r"'first' was made with lora.dropout unset, now 0.5"):
        opened(place, "lora.dropout=0.5").execute(step, {"first": step})


def test_data_that_lie_elsewhere_are_the_same_data(place):
    """A file, a directory, and one file under two settings; what stands in them is what counts."""
    step = Step("first", (), ("data",), 1, "bodies_of_run_test:first", lambda config: [f for _, s in config.data.sources() for f in files_of(s)])
    here, there = place / "here", place / "there"
    (here / "shown").mkdir(parents=True)
    for name in ("shown/a.jsonl", "shown/b.jsonl", "r.jsonl"):
        (here / name).write_text(name)
    names = {"demonstrations": "shown", "rankings": "r.jsonl", "heldout_prompts": "r.jsonl"}

    def run(**places):
        return opened(place, *(f"data.{key}={places.get(key, here)}/{name}" for key, name in names.items()))

    everywhere = dict.fromkeys(names, there)
    run().execute(step, {"first": step})
    shutil.copytree(here, there)
    assert run(**everywhere).execute(step, {"first": step})[1] is False
    assert run(rankings=there).differences(step, {"first": step}) == []
    shutil.rmtree(here)
    assert run(**everywhere).differences(step, {"first": step}) == []
    # Another file there, one more, and one that is called otherwise: each is something else.
    (there / "shown" / "c.jsonl").write_text("c")
    assert run(**everywhere).differences(step, {"first": step})[0].startswith(f"data.demonstrations {here}/shown, now {there}/shown")
    (there / "shown" / "c.jsonl").unlink()
    (there / "r.jsonl").rename(there / "q.jsonl")
    names["rankings"] = "q.jsonl"
    assert any(said.startswith("data.rankings") for said in run(**everywhere).differences(step, {"first": step}))
    names["rankings"] = "r.jsonl"
    (there / "r.jsonl").write_text("other")
    found = run(**everywhere).differences(step, {"first": step})
    assert [said.split(" ")[0] for said in found] == ["data.heldout_prompts", "data.rankings", "another", "another"]


def test_code_of_one_learner_that_changed_makes_its_own_steps_old_and_no_others(place):
    before = Step("first", (), ("seed",), 1, "bodies_of_run_test:first")
    after = replace(before, versions={"kto": 2})
    for learner in ("ppo", "kto"):
        run = opened(place, f"learner={learner}", f"run_name={learner}")
        run.execute(before, {"first": before})
        assert run.differences(after, {"first": after}) == (["code version 1, now 2"] if learner == "kto" else [])
    run.remove(after)
    assert run.execute(after, {"first": after})[0].version == 2 and not run.differences(after, {"first": after})


def test_who_names_a_run_that_is_not_there_hears_which_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for place in ("runs/first", "runs/second", "elsewhere/third"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "config.yaml").touch()
    os.utime("runs/first/config.yaml", (2e9, 2e9))
    with pytest.raises(UserError, match="runs/frist: no run there; for --run there are first, second. "):
        Run.load(Path("runs/frist"))
    with pytest.raises(UserError, match="for --run there are .*elsewhere/third"):
        Run.load(Path("elsewhere/thrid"))
    (tmp_path / "bare").mkdir()
    monkeypatch.chdir(tmp_path / "bare")
    with pytest.raises(UserError, match=r"runs/x: no run there\. `python"):
        Run.load(Path("runs/x"))


def test_a_step_whose_needs_are_missing_says_so(place):
    with pytest.raises(UserError, match="'second' needs first"):
        opened(place).execute(SECOND, STEPS)


def test_a_killed_step_is_not_finished_and_the_next_run_goes_on(place):
    child = python(place, "run.execute(FIRST, STEPS); run.execute(SECOND, STEPS)")
    child.communicate(timeout=120)
    assert child.returncode == -signal.SIGKILL
    run = opened(place)
    assert run.manifest(FIRST) is not None and run.manifest(SECOND) is None
    assert (run.path / "stages" / "second.partial" / "half.txt").exists()
    assert run.execute(FIRST, STEPS)[1] is False
    manifest, fresh = run.execute(SECOND, STEPS)
    assert fresh and manifest.metrics == {"number": 2.0, "resumed": 1.0}
    assert not list((run.path / "stages").glob("*.partial*"))


@pytest.mark.parametrize("taken_over", [False, True])
def test_a_second_kill_while_starting_up_keeps_the_checkpoints(place, taken_over):
    python(place, "run.execute(FIRST, STEPS); run.execute(SECOND, STEPS)").communicate(timeout=120)
    stages = opened(place).path / "stages"
    partial, aside = stages / "second.partial", stages / "second.partial.old"
    (partial / "checkpoints").mkdir()
    (partial / "checkpoints" / "c").write_text("whole", encoding="utf-8")
    # What a kill leaves right after the attempt was put aside: before, and after its checkpoints were taken over.
    partial.rename(aside)
    partial.mkdir()
    (partial / ".key").write_bytes((aside / ".key").read_bytes())
    if taken_over:
        (aside / "checkpoints").rename(partial / "checkpoints")
    run = opened(place)
    assert run.execute(SECOND, STEPS)[0].metrics["resumed"] == 1.0
    assert (stages / "second" / "taken_up.txt").read_text(encoding="utf-8") == "whole"
    assert not (stages / "second" / "checkpoints").exists() and not (stages / "second" / ".key").exists()


def test_another_setting_half_way_is_refused_and_the_checkpoints_stay(place):
    python(place, "run.execute(FIRST, STEPS); run.execute(SECOND, STEPS)").communicate(timeout=120)
    partial = opened(place).path / "stages" / "second.partial"
    (partial / "checkpoints").mkdir()
    (partial / "checkpoints" / "c").write_text("whole", encoding="utf-8")
    other = opened(place, "lora.rank=3")
    assert other.differences_half_way(SECOND, STEPS) == ["lora.rank 16, now 3"]
    assert opened(place).differences_half_way(SECOND, STEPS) == []
    with pytest.raises(UserError, match="'second' was stopped half-way with lora.rank 16, now 3"):
        _refuse_other_settings(other, STEPS, frozenset())
    assert (partial / "checkpoints" / "c").exists()
    assert other.remove(SECOND) is False and not partial.exists()


def test_what_was_begun_before_a_setting_existed_is_taken_up(place):
    """As if `lora.rank` had come since: `differences_half_way` finds no difference, so nothing may be thrown away."""
    python(place, "run.execute(FIRST, STEPS); run.execute(SECOND, STEPS)").communicate(timeout=120)
    run = opened(place)
    partial = run.path / "stages" / "second.partial"
    (partial / "checkpoints").mkdir()
    (partial / "checkpoints" / "c").write_text("whole", encoding="utf-8")
    begun = json.loads((partial / ".key").read_text(encoding="utf-8"))
    older = {name: value for name, value in begun["settings"].items() if name != "lora.rank"}
    assert older != begun["settings"]
    (partial / ".key").write_text(json.dumps(begun | {"settings": older, "key": "another"}), encoding="utf-8")
    assert run.differences_half_way(SECOND, STEPS) == []
    assert run.execute(SECOND, STEPS)[0].metrics["resumed"] == 1.0
    assert (run.path / "stages" / "second" / "taken_up.txt").read_text(encoding="utf-8") == "whole"


def test_a_finished_step_that_was_altered_is_named_by_the_next_run(place):
    run = opened(place)
    run.execute(FIRST, STEPS)
    manifest = run.path / "stages" / "first" / "manifest.json"
    whole = manifest.read_text(encoding="utf-8")
    manifest.write_text(whole.replace('"number": 1.0', '"number": 9.0'), encoding="utf-8")
    with pytest.raises(UserError, match="manifest.json: not as it was written"):
        run.execute(FIRST, STEPS)
    manifest.write_text(whole, encoding="utf-8")
    (run.path / "stages" / "first" / "number.txt").write_text("2", encoding="utf-8")
    with pytest.raises(UserError, match="number.txt: its hash differs"):
        run.execute(FIRST, STEPS)


def test_a_strike_between_the_name_of_a_finished_step_and_its_tidying_leaves_a_finished_step(place):
    run = opened(place)
    run.execute(FIRST, STEPS)
    first = run.path / "stages" / "first"
    (first / "checkpoints").mkdir()
    (first / "checkpoints" / "c").write_text("left", encoding="utf-8")
    assert run.execute(FIRST, STEPS)[1] is False and not (first / "checkpoints").exists()


def test_a_second_process_never_removes_the_run_of_the_first(place):
    code = "import time\nwith run.lock():\n    print('held', flush=True); time.sleep(60)"
    child = python(place, code)
    try:
        assert child.stdout.readline() == "held\n"
        for name in "drh":
            (place / name).touch()
        run = opened(place, *(f"data.{k}={place}/{f}" for k, f in zip(FILES, "drh", strict=True)))
        with pytest.raises(RunBusy):
            conduct(run, ("prepare",), print)
        assert opened(place).path.exists()
    finally:
        child.kill()


def test_what_a_kill_left_of_another_setting_is_not_resumed(place):
    python(place, "run.execute(FIRST, STEPS); run.execute(SECOND, STEPS)").communicate(timeout=120)
    manifest, _ = opened(place, "lora.rank=3").execute(SECOND, STEPS)
    assert manifest.metrics["resumed"] == 0.0


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete"])
def test_a_damaged_artifact_is_found_and_nothing_is_built_on_it(place, damage):
    run = opened(place)
    run.execute(FIRST, STEPS)
    file = run.path / "stages" / "first" / "number.txt"
    if damage == "delete":
        file.unlink()
    else:
        data = bytearray(file.read_bytes())
        file.write_bytes(bytes([data[0] ^ 1]) + data[1:] if damage == "flip" else b"")
    assert len(run.verify(FIRST)) == 1 and "number.txt" in run.verify(FIRST)[0]
    (place / "marker").touch()
    with pytest.raises(UserError, match=r"number\.txt"):
        run.execute(SECOND, STEPS)


def test_the_second_process_is_told_who_holds_the_run(place):
    child = python(place, "with run.lock():\n print('held', flush=True)\n run.execute(SLOW, STEPS)")
    try:
        assert child.stdout.readline() == "held\n"
        with (
            pytest.raises(UserError, match=rf"process {child.pid} .*is working on this run") as caught,
            opened(place).lock(),
        ):
            pass
        assert caught.value.exit_code == 75
    finally:
        child.kill()
        child.communicate()
    with opened(place).lock():
        pass


def test_evaluations_lie_beside_the_stages():
    assert Step("evaluate-sft", (), (), 1, "x:y").folder == "evaluation/sft"
    assert Step("sft", (), (), 1, "x:y").folder == "stages/sft"


def test_data_files_are_part_of_the_key(place):
    data = place / "rows.jsonl"
    data.write_text("1\n", encoding="utf-8")
    step = Step("first", (), (), 1, "bodies_of_run_test:first", files=lambda config: [data])
    opened(place).execute(step, {"first": step})
    os.utime(data, (0, 0))
    assert opened(place).execute(step, {"first": step})[1] is False
    data.write_text("2\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"another .*rows\.jsonl"):
        opened(place).execute(step, {"first": step})


def test_two_runs_of_one_config_differ_only_in_time(place):
    one = opened(place).execute(FIRST, STEPS)[0]
    time.sleep(0.01)
    other = opened(place, "run_name=other").execute(FIRST, STEPS)[0]
    assert (one.key, one.artifacts, one.metrics) == (other.key, other.artifacts, other.metrics)


def test_other_weights_under_the_same_name_are_refused_before_anything_is_built_on_them(place):
    run = opened(place, "model.name=tiny-random")
    report = run.path / "stages" / "prepare" / "report.json"
    report.parent.mkdir(parents=True)
    report.write_text(json.dumps({"base_weights_sha256": weights_sha256(run.config.model)}), encoding="utf-8")
    _refuse_other_base(run, ("sft",), all_steps(), frozenset())
    report.write_text(json.dumps({"base_weights_sha256": "0" * 64}), encoding="utf-8")
    with pytest.raises(UserError, match="the weights of 'tiny-random' are not those that"):
        _refuse_other_base(run, ("sft",), all_steps(), frozenset())
    # Nor another way of writing conversations, as where the file behind model.chat_template was changed since.
    base = {"base_weights_sha256": weights_sha256(run.config.model)}
    own = template_sha256(load_tokenizer(run.config.model), run.config.model.system_prompt)
    report.write_text(json.dumps(base | {"template_sha256": own}), encoding="utf-8")
    _refuse_other_base(run, ("sft",), all_steps(), frozenset())
    report.write_text(json.dumps(base | {"template_sha256": "0" * 64}), encoding="utf-8")
    with pytest.raises(UserError, match="the template of 'tiny-random' is not the one that"):
        _refuse_other_base(run, ("sft",), all_steps(), frozenset())
    # A run whose preparation is made anew takes the weights of today.
    _refuse_other_base(run, ("prepare", "sft"), all_steps(), frozenset({"prepare"}))


def test_a_run_that_cannot_be_written_into_or_locked_is_told_in_a_line(place, monkeypatch):
    run = opened(place)
    (run.path / "run.lock").mkdir(parents=True)
    with pytest.raises(UserError, match=r"runs/my: cannot be written into \(Is a directory\)\. `status` and `chat` work"), run.lock():
        pass
    (run.path / "run.lock").rmdir()

    def no_locks_here(*arguments):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", no_locks_here)
    # Nobody works on it: to wait would be the wrong advice.
    with pytest.raises(UserError, match=r"cannot be locked \(No locks available\)") as told, run.lock():
        pass
    assert not isinstance(told.value, RunBusy)


def test_who_has_no_model_yet_hears_how_to_make_that_one(tmp_path):
    (tmp_path / "a b").mkdir()
    with pytest.raises(UserError, match=re.escape(f"`python run_pipeline.py run --run '{tmp_path}/a b'` makes one.")):
        service.present(tmp_path / "a b")
