"""Rounds end to end with the tiny random model and people who follow a script."""

import errno
import fcntl
import json
import shutil
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
from safetensors.torch import load_file, save_file
from scipy.stats import binomtest

from data.errors import UserError
from data.feedback import FeedbackStore
from data.loading import load
from pipeline import lineup, progress, rounds, service, snapshot
from pipeline.cli import round_
from pipeline.cli import rounds as show_rounds
from pipeline.conductor import conduct
from pipeline.config import load_config
from pipeline.errors import GateFailure, RunBusy
from pipeline.evaluation import accepted, rivals
from pipeline.evaluation.answers import AnswerRow, write_answers
from pipeline.evaluation.cards import Entry
from pipeline.evaluation.rivals import accuracy_on, gain
from pipeline.manifest import TAKEN_OVER, StageManifest
from pipeline.run import Run

SMALL = (
    "threads=1", "data.limit=24", "reward.members=1", "ppo.ensemble=mean", "ppo.updates=1", "ppo.episodes=4", "ppo.minibatch=4",
    "ppo.max_new_tokens=4", "evaluation.max_new_tokens=4", "evaluation.limit=4", "rounds.min_pairs=3",
)  # fmt: skip
STAGES = ("prepare", "sft", "reward", "ppo")


def vote(database: Path, rater: str, questions, better="Yes, this one.", worse="no no no"):
    """One choice a question."""
    store = FeedbackStore.open(database)
    for question in questions:
        conversation = store.start_conversation(rater=rater)
        asked = store.add_message(conversation, parent=None, author="human", content=question)
        sides = [
            store.add_message(conversation, parent=asked, author="model", content=f"{text} {question}", finish="stop")
            for text in (better, worse)
        ]
        store.compare(*sides, rater=rater, winner="left", blind=True, shown_ms=1)
    store.close()

pytestmark = pytest.mark.usefixtures("few_prompts")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run that the tests copy."""
    runs = tmp_path_factory.mktemp("runs")
    config = load_config(Path("configs/smoke.yaml"), [*SMALL, f"runs_dir={runs}", "run_name=r"])
    conduct(Run.open(config), STAGES, lambda line: None)
    return runs / "r"


@pytest.fixture
def base(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "r")
    return lambda *more: Run.load(tmp_path / "r", [f"chat.feedback_db={tmp_path}/votes.sqlite", *more])


def rows(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def test_too_few_votes_say_so_and_leave_everything_as_it_was(base, tmp_path):
    stage = tmp_path / "r" / "stages" / "ppo"
    stage.rename(tmp_path / "ppo")
    with pytest.raises(UserError, match="a round builds on a whole run; not finished: ppo"):
        rounds.run_round(base(), print)
    (tmp_path / "ppo").rename(stage)
    with pytest.raises(UserError, match="no votes there yet"):
        rounds.run_round(base(), print)
    vote(tmp_path / "votes.sqlite", "ann", ["one?", "two?"])
    said = []
    assert rounds.run_round(base(), said.append) is None
    assert said[0].startswith("2 new pairs since the last round, 3 are needed (rounds.min_pairs). Nothing was done")
    # Ann was never asked what she allows: that is the config's to say.
    assert rounds.run_round(base("chat.consent=local", "rounds.min_pairs=1"), said.append) is None
    assert said[1].startswith("0 new pairs since")
    # Nor may one of two raters have more to say than the config allows.
    vote(tmp_path / "votes.sqlite", "bob", ["three?"])
    assert rounds.run_round(base("rounds.rater_share=0.5"), said.append) is None
    assert said[2].startswith("2 new pairs since")
    assert not (tmp_path / "r" / "rounds").exists() and not (tmp_path / "r-round-001").exists()
    assert not (tmp_path / "r" / "service.json").exists()


def test_two_rounds_one_promoted_one_not_and_back_again(base, tmp_path, capsys, monkeypatch):
    asked_of = []
    monkeypatch.setattr(rivals, "accuracy_on", lambda r, run, *a: asked_of.append(run.name) or accuracy_on(r, run, *a))
    database, run = tmp_path / "votes.sqlite", tmp_path / "r"
    held_out = load(run / "stages" / "prepare" / "heldout_prompts.jsonl", "prompts")[0].messages[-1].content
    vote(database, "ann", ["one?", "two?", "three?", held_out])
    said = []
    first = rounds.run_round(base("rounds.min_gain=-1000"), said.append)
    new = tmp_path / "r-round-001"
    # Three choices are three pairs; the fourth is on a held-out question.
    assert (first.promoted, first.counts["new_pairs"], first.counts["judgements"]) == (True, 3, 4)
    assert any("left out: records on held-out questions: 1" in line for line in said)
    # The old reward model was asked before the new run was begun.
    asked = next(i for i, line in enumerate(said) if line.startswith("reward model of r on the new votes"))
    assert not any("nothing independent" in line for line in said)
    assert asked < said.index("prepare …") and first.before["n"] == 3 and first.before["run"] == "r"
    prepared = lambda path: path / "stages" / "prepare"  # noqa: E731
    old = [r.id for side in ("train", "test") for r in load(prepared(run) / f"rankings.{side}.jsonl", "ranked")]
    now = [r.id for side in ("train", "test") for r in load(prepared(new) / f"rankings.{side}.jsonl", "ranked")]
    votes = set(now) - set(old)
    assert set(old) <= set(now) and len(votes) == 3 and all(name.startswith("vote-r-") for name in votes)
    # PPO starts from the SFT policy of before: the same weights, byte for byte.
    weights = "stages/sft/adapter/adapter_model.safetensors"
    assert (new / weights).read_bytes() == (run / weights).read_bytes()
    assert service.present(run).run == "r-round-001" and service.follow(base()).path == new

    assert rounds.run_round(base(), said.append) is None
    vote(database, "bob", ["four?", "five?", "six?"])
    second = rounds.run_round(base("rounds.min_gain=1000"), said.append)
    assert (second.promoted, second.counts["new_pairs"], second.counts["rankings"]) == (False, 3, 6)
    assert "over r-round-001 (ppo) on 4 questions; the lower end is not above 1000 (rounds.min_gain)" in second.why
    assert second.before["run"] == "r-round-001" and asked_of == ["r", "r-round-001"]
    assert service.present(run).round == 1
    assert rounds.concluded(run) == [first, second]

    show_rounds(run_name=str(run))
    shown = [line for line in capsys.readouterr().out.splitlines() if "doubt: " not in line]
    assert shown[0].startswith("in service: r-round-001 (ppo) since ")
    assert [line.split()[:2] for line in shown[1::2]] == [["001", "promoted"], ["002", "not"]]

    assert rounds.roll_back(base()).run == "r" and service.follow(base()).path == run
    with pytest.raises(UserError, match="nothing to go back to"):
        rounds.roll_back(base())
    assert rounds.roll_back(base(), 2).run == "r-round-002"
    with pytest.raises(UserError, match="no finished assistant there"):
        rounds.roll_back(base(), 7)
    store = FeedbackStore.open(database)
    assert [Path(path).name for path, _ in store.exports_with("bob")] == ["002", "r-round-002"]
    store.close()


def test_an_interrupted_round_goes_on_with_the_votes_that_it_began_with(base, tmp_path, monkeypatch):
    database = tmp_path / "votes.sqlite"
    vote(database, "ann", ["one?", "two?", "three?"])
    real = rounds.conduct
    monkeypatch.setattr(rounds, "conduct", lambda *a, **kw: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        rounds.run_round(base(), lambda line: None)
    monkeypatch.setattr(rounds, "conduct", real)
    assert rounds.unfinished(tmp_path / "r").name == "001" and rounds.concluded(tmp_path / "r") == []
    vote(database, "ann", ["four?", "five?", "six?", "seven?"])
    end = rounds.run_round(base("rounds.min_gain=1000"), lambda line: None)
    assert (end.number, end.counts["new_pairs"]) == (1, 3) and rounds.unfinished(tmp_path / "r") is None


@pytest.mark.parametrize("with_its_round", [False, True])
def test_a_round_goes_on_after_the_run_was_renamed_alone_or_with_it(base, tmp_path, monkeypatch, with_its_round):
    vote(tmp_path / "votes.sqlite", "ann", ["one?", "two?", "three?"])
    real = rounds.conduct

    def killed(run, stages, say, **more):
        real(run, ["prepare", "sft"], say, **more)
        raise KeyboardInterrupt

    monkeypatch.setattr(rounds, "conduct", killed)
    with pytest.raises(KeyboardInterrupt):
        rounds.run_round(base("rounds.min_gain=-1000"), lambda line: None)
    monkeypatch.setattr(rounds, "conduct", real)
    database = base().config.chat.feedback_db
    new = tmp_path / "new"
    (tmp_path / "r").rename(new)
    name = "new-round-001" if with_its_round else "r-round-001"
    (tmp_path / "r-round-001").rename(tmp_path / name)
    if not with_its_round:
        # Frozen by another command meanwhile: the run itself no longer knows what it was called.
        Run.load(new).freeze()
    said = []
    end = rounds.run_round(Run.load(new, [f"chat.feedback_db={database}", "rounds.min_gain=-1000"]), said.append)
    assert (end.run, end.promoted, service.follow(Run.load(new)).path) == (name, True, tmp_path / name)
    assert {line.split(":")[0] for line in said if "done already" in line} == {"prepare", "evaluate-base", "sft", "evaluate-sft"}
    assert sorted(f.name for f in tmp_path.glob("*-round-*")) == [name]


def test_an_old_round_is_offered_under_its_old_name_where_it_is_told_to_be_this_ones(base, tmp_path, monkeypatch):
    vote(tmp_path / "votes.sqlite", "ann", ["one?", "two?", "three?"])
    rounds.run_round(base("rounds.min_gain=1000"), lambda line: None)

    def offered(path):
        run = Run.load(path)
        return [c.name for c in lineup.of_rounds(run.path, service.follow(run), keep=4)[0]]

    assert offered(tmp_path / "r") == ["ppo-round-1"]
    (tmp_path / "r").rename(tmp_path / "new")
    assert offered(tmp_path / "new") == ["ppo-round-1"]
    # A run called as this one was, made from other votes.
    manifest = tmp_path / "r-round-001" / "stages" / "prepare" / "manifest.json"
    written = manifest.read_text()
    file = json.loads(written)
    file["files"][1]["sha256"] = "0" * 64
    manifest.write_text(json.dumps(file))
    assert offered(tmp_path / "new") == []
    # And where another run has that name now, its rounds are that one's.
    manifest.write_text(written)
    (tmp_path / "r").mkdir()
    assert offered(tmp_path / "new") == []


def test_a_snapshot_that_was_changed_is_refused(base, tmp_path):
    vote(tmp_path / "votes.sqlite", "ann", ["one?", "two?", "three?"])
    taken = rounds._begin(base(), lambda line: None)
    assert snapshot.read(taken.folder) == taken
    with (taken.folder / "rankings.jsonl").open("a", encoding="utf-8") as file:
        file.write("\n")
    with pytest.raises(UserError, match="rankings.jsonl: missing or changed since the round began"):
        rounds.run_round(base(), lambda line: None)


def test_a_round_changes_the_files_of_the_data_and_nothing_else(base, tmp_path):
    vote(tmp_path / "votes.sqlite", "ann", ["one?", "two?", "three?"])
    taken = rounds._begin(base(), lambda line: None)
    old = base("data.test_share=0.3", "data.max_overlap=0.5", "data.facts=null").config.data
    new = taken.data(old).model_dump()
    changed = {name for name, value in old.model_dump().items() if new[name] != value}
    assert changed == {"demonstrations", "rankings", "prompts", "heldout_prompts", "heldout_rankings", "limit"}
    assert new["limit"] is None and (new["test_share"], new["max_overlap"], new["facts"]) == (0.3, 0.5, None)


def test_a_missed_gate_of_the_run_ends_the_round(base, tmp_path):
    vote(tmp_path / "votes.sqlite", "ann", ["one?", "two?", "three?"])
    end = rounds.run_round(base("gates.sft.gold.min=1000", "rounds.min_gain=-1000"), lambda line: None)
    assert not end.promoted and end.why.startswith("a gate of the run was missed: gate sft.gold")
    assert not (tmp_path / "r" / "service.json").exists()


def test_a_round_inherits_what_was_accepted_and_a_gate_that_stopped_it_can_be_accepted(base, tmp_path, capsys):
    """The first gate is missed as in the base run, the second is on a number that neither measures, the third is the round's own."""
    gates = {"sft.gold": {"min": 1000.0}, "ppo.judge_agreement": {"min": 0.5}, "ppo.eos_rate": {"min": -1.0}}
    settings = [f"gates={json.dumps(gates)}", "rounds.min_gain=-1000"]
    conduct(base(*settings), STAGES, lambda line: None, accept=dict.fromkeys(("sft.gold", "ppo.judge_agreement"), "a pilot"))
    vote(tmp_path / "votes.sqlite", "ann", ["one?", "two?", "three?"])
    said = []
    stopped = rounds.run_round(base(*settings, "gates.ppo.eos_rate.min=2"), said.append)
    assert any("Accepted: a pilot (accepted in r)" in line and "sft.gold" in line for line in said)
    assert any("Accepted: a pilot (accepted in r)" in line and "judge_agreement" in line for line in said)
    assert (stopped.promoted, stopped.missed) == (False, ["ppo.eos_rate"])
    assert stopped.why.endswith(f"`round --run {tmp_path}/r --accept ppo.eos_rate --why …` goes on with this round all the same.")

    with pytest.raises(UserError, match="no such gate; there are sft.gold, ppo.judge_agreement, ppo.eos_rate"):
        rounds.run_round(base(*settings), said.append, {"ppo.eos": "typing"})
    # As it was told: of the same round, which is decided by its gain after all.
    round_(
        overrides=[f"chat.feedback_db={tmp_path}/votes.sqlite", *settings, "gates.ppo.eos_rate.min=2"],
        run_name=str(tmp_path / "r"), accept=["ppo.eos_rate"], why="short answers are wanted",
    )  # fmt: skip
    assert "round 1: promoted" in capsys.readouterr().out
    (end,) = rounds.concluded(tmp_path / "r")
    assert end.promoted and not end.missed and end.gain["value"] > -1000 and service.present(tmp_path / "r").round == 1
    kept = accepted.read(tmp_path / "r-round-001")
    assert kept == {
        "sft.gold": "a pilot (accepted in r)",
        "ppo.judge_agreement": "a pilot (accepted in r)",
        "ppo.eos_rate": "short answers are wanted",
    }


def test_accuracy_on_votes_and_on_their_opposite_add_up_to_one(base):
    run = base()
    rankings = load(run.path / "stages" / "prepare" / "rankings.train.jsonl", "ranked")[:6]
    opposite = [replace(r, ranks=tuple(max(r.ranks) - rank for rank in r.ranks)) for r in rankings]
    right, _ = accuracy_on(rankings, run.path, run.config, progress.track)
    wrong, _ = accuracy_on(opposite, run.path, run.config, progress.track)
    assert right.value + wrong.value == pytest.approx(1.0) and right.n == 6
    tight = run.config.model_copy(update={"reward": run.config.reward.model_copy(update={"max_tokens": 8})})
    assert accuracy_on(rankings, run.path, tight, progress.track)[1] == 6


def press(database: Path, rater: str, thumbs):
    """One thumb a question."""
    store = FeedbackStore.open(database)
    for question, text, value in thumbs:
        conversation = store.start_conversation(rater=rater)
        asked = store.add_message(conversation, parent=None, author="human", content=question)
        finish = "stop" if value > 0 else "length"
        store.rate(
            store.add_message(conversation, parent=asked, author="model", content=text, finish=finish),
            rater=rater,
            value=value,
        )
    store.close()


def test_lone_thumbs_reach_the_reward_model_where_they_have_a_weight(base, tmp_path, monkeypatch):
    """Up to the reward model: what follows is the same as in any round."""
    conduct_all = rounds.conduct

    def up_to_reward(run, stages, say, **more):
        conduct_all(run, ["prepare", "sft", "reward"], say)
        raise GateFailure(["as far as it matters"])

    monkeypatch.setattr(rounds, "conduct", up_to_reward)
    questions = [f"question number {i}?" for i in range(12)]
    press(tmp_path / "votes.sqlite", "ann", [(q, f"Yes. {q}", 1) for q in questions[:8]])
    press(tmp_path / "votes.sqlite", "bob", [(q, f"no no {q}", -1) for q in questions[8:]])
    said = []
    assert rounds.run_round(base(), said.append) is None and said[0].startswith("0 new pairs since")
    assert rounds.run_round(base("reward.thumbs_weight=1.0", "rounds.min_pairs=13"), said.append) is None
    assert said[1].startswith("0 new pairs and 12 new lone thumbs since the last round, 13 are needed")
    # KTO learns from nothing else.
    assert rounds.run_round(base("learner=kto", "rounds.min_pairs=13"), said.append) is None and said[2] == said[1]
    end = rounds.run_round(base("reward.thumbs_weight=1.0"), said.append)
    assert (end.counts["lone_thumbs"], end.counts["new_lone_thumbs"], end.counts["new_pairs"]) == (12, 12, 0)
    stages = tmp_path / "r-round-001" / "stages"
    kept = [t for side in ("train", "test") for t in load(stages / "prepare" / f"thumbs.{side}.jsonl", "thumbs")]
    # Whose thumb it was can be told apart and not be read; a cut-off answer stays one.
    assert len(kept) == 12 and len({t.rater for t in kept}) == 2 and not {"ann", "bob"} & {t.rater for t in kept}
    assert all(t.finished == t.up for t in kept)
    manifest = StageManifest.read(stages / "reward" / "manifest.json", "")
    assert manifest.metrics["thumbs"] == len(load(stages / "prepare" / "thumbs.train.jsonl", "thumbs")) > 0
    assert StageManifest.read(stages / "sft" / "manifest.json", "").environment[TAKEN_OVER] == "r"
    # They have been learned from: the next round needs others.
    assert rounds.run_round(base("reward.thumbs_weight=1.0"), said.append) is None


def test_a_policy_that_goes_on_starts_as_the_one_in_service_and_pays_for_kl_from_sft(base, tmp_path):
    """PPO's first answers are drawn before any step: their KL is that of the policy it starts as."""
    vote(tmp_path / "votes.sqlite", "ann", ["one?", "two?", "three?"])
    # Far enough from SFT to be seen, whatever one update of a tiny model does.
    adapter = tmp_path / "r" / "stages" / "ppo" / "adapter" / "adapter_model.safetensors"
    tensors = {name: t + 0.2 for name, t in load_file(adapter).items()}
    save_file(tensors, adapter, metadata={"format": "pt"})
    gates = {"ppo.kl_at_start": {"max": 0.0}}
    ends = {}
    for name, more in (("sft", []), ("service", ["rounds.continue_policy=true"])):
        shutil.copytree(tmp_path / "r", tmp_path / name)
        run = Run.load(
            tmp_path / name, [f"chat.feedback_db={tmp_path}/votes.sqlite", f"gates={json.dumps(gates)}", *more]
        )
        rounds.run_round(run, lambda line: None)
        log = (tmp_path / f"{name}-round-001" / "stages" / "ppo" / "log.jsonl").read_text(encoding="utf-8")
        ends[name] = json.loads(log.splitlines()[0])["kl"]
    assert ends["sft"] == 0.0 and ends["service"] > 0.01


def answers(run: Path, golds: dict[str, list[float]]) -> Path:
    folder = run / "evaluation" / "ppo"
    folder.mkdir(parents=True)
    write_answers(
        folder / "answers.jsonl",
        [
            AnswerRow(name, None, name, i, "text", True, 1, (1,), gold=g, parts={})
            for name, own in golds.items()
            for i, g in enumerate(own)
        ],
    )
    return run


def test_the_gain_is_the_mean_over_prompts_of_the_difference(base, tmp_path):
    config = base().config
    new = answers(tmp_path / "new", {"p": [1.0, 3.0], "q": [5.0, 5.0]})
    old = answers(tmp_path / "old", {"p": [1.0, 1.0], "q": [3.0, 5.0]})
    found = gain(new, "ppo", old, "ppo", config, progress.track)
    # Means: p 2 against 1, q 5 against 4.
    assert (found.value, found.low, found.high, found.questions) == (1.0, 1.0, 1.0, 2)
    with pytest.raises(UserError, match="different prompts"):
        gain(new, "ppo", answers(tmp_path / "other", {"p": [1.0]}), "ppo", config, progress.track)
    blind = config.model_copy(update={"evaluation": config.evaluation.model_copy(update={"gold": "none"})})
    assert gain(new, "ppo", old, "ppo", blind, progress.track) is None


def test_so_few_prompts_that_there_is_no_interval_promote_nobody_and_say_so():
    nan = float("nan")
    better, why = rounds._decide(rivals.Gain(0.5, nan, nan, "points", "the rubric", 4), "r (ppo)", -1000.0)
    assert not better and "nan" not in why and "min_gain" not in why
    assert why.startswith("+0.500 points by the rubric over r (ppo) on 4 questions, too few of them for an interval")


@pytest.mark.parametrize(
    ("low", "high", "better", "said"),
    [
        # The bound is 0.5: above it is better, on it is not; and nothing is open where all of the interval is at or below it.
        (0.6, 1.0, True, "+0.800 points [+0.600, +1.000] by the rubric over r (ppo) on 4 questions; the lower end is above 0.5"),
        (0.5, 1.1, False, "the lower end is not above 0.5 (rounds.min_gain). Undecided: a gain of less than about 0.30 does not show"),
        (0.1, 0.5, False, "+0.300 points [+0.100, +0.500] by the rubric over r (ppo) on 4 questions; the lower end is not above 0.5"),
    ],
)
def test_a_gain_counts_where_its_lower_end_is_above_the_bound(low, high, better, said):
    found, why = rounds._decide(rivals.Gain((low + high) / 2, low, high, "points", "the rubric", 4), "r (ppo)", 0.5)
    assert found is better and said in why and ("Undecided" in why) == ("Undecided" in said)


def test_a_damaged_or_missing_assistant_is_named_in_a_line(base, tmp_path):
    service.put(tmp_path / "r", "r-round-009", "ppo", 9)
    with pytest.raises(UserError, match=r"r-round-009: in service for r, but not there\. `rollback`"):
        service.follow(base())
    for damaged in ({"history": "x"}, {"history": []}, [1]):
        (tmp_path / "r" / "service.json").write_text(json.dumps(damaged), encoding="utf-8")
        with pytest.raises(UserError, match="service.json: damaged"):
            service.present(tmp_path / "r")


@pytest.fixture
def scripted(base, tmp_path, monkeypatch):
    """Rounds whose training, measuring and judging follow a script: `training` is raised in place of a run, `gain` is the judge's word."""
    script = SimpleNamespace(training=None, gain=None, conducted=[], measured=[], compared=[], doubted=[])

    def conduct_(run, stages, say, *, accept, inherited):
        adapter = run.path / "stages" / "ppo" / "adapter"
        adapter.mkdir(parents=True, exist_ok=True)
        run.freeze()
        script.conducted.append((run.path.name, run.config.ppo.start_from, accept, sorted(inherited)))
        script.gates = set(run.config.gates)
        if script.training:
            raise script.training

    def accuracy(rankings, run, config, progress):
        script.measured.append((run.name, config.run_name, len(rankings)))
        return Entry("new_votes_accuracy", 0.75, len(rankings), note="of so many"), 0

    def gain_(new, stage, old, old_stage, config, progress):
        script.compared.append((new.name, old.name))
        script.stages = (stage, old_stage)
        return script.gain

    monkeypatch.setattr(rounds, "conduct", conduct_)
    monkeypatch.setattr(rivals, "accuracy_on", accuracy)
    monkeypatch.setattr(rivals, "gain", gain_)
    monkeypatch.setattr(rounds.doubts, "on_old_rankings", lambda new, old: script.doubted.append((new.name, old.name)) or [])

    def ask(questions: int, accept=(), *settings):
        vote(tmp_path / "votes.sqlite", "ann", [f"question {ask.asked + i}?" for i in range(questions)])
        ask.asked += questions
        return rounds.run_round(base(*settings), lambda line: None, dict.fromkeys(accept, "a pilot"))

    ask.asked = 0
    return script, ask


def test_which_round_a_call_goes_on_with(scripted, base, tmp_path):
    """The open one before all others; the last, where a gate that stopped it is accepted; else a new one, of votes that none has had."""
    script, ask = scripted
    one, two = "ppo.eos_rate", "ppo.kl_to_reference"
    gates = f"gates={json.dumps({one: {'min': 0.0}, two: {'max': 15.0}, 'sft.gold': {'min': 0.0}})}"
    script.training = GateFailure(["gate a", "gate b"], [one, two])
    first = ask(3, (), gates)
    assert (first.number, first.missed) == (1, [one, two]) and f"--accept {one} --accept {two} --why …`" in first.why
    # What stopped nothing opens nothing; one of two that did is enough to try.
    assert ask(0, ("sft.gold",), gates) is None
    script.training = GateFailure(["gate b"], [two])
    again = ask(0, (one,), gates)
    assert (again.number, again.missed) == (1, [two]) and len(rounds.concluded(base().path)) == 1
    # Measured on the new votes once a round, by the reward model in service under the settings of its own run.
    assert script.measured == [("r", "r", 3)]
    script.training = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        ask(4, (), gates)
    script.training = None
    second = ask(5, (two,), gates)
    assert (second.number, second.counts["new_pairs"], script.conducted[-1][2]) == (2, 4, {two: "a pilot"})
    third = ask(0, (two,), gates)
    assert (third.number, third.counts["new_pairs"], third.counts["rankings"]) == (3, 5, 12)
    assert ask(0, (two,), gates) is None and [end.number for end in rounds.concluded(base().path)] == [1, 2, 3]
    assert script.measured == [("r", "r", 3), ("r", "r", 4), ("r", "r", 5)]
    # No number is given twice, also where the folder of an old round was removed.
    shutil.rmtree(tmp_path / "r" / "rounds" / "002")
    assert ask(3, (), gates).number == 4


def test_a_round_after_a_promoted_one_starts_from_it_inherits_from_it_and_is_held_against_it(scripted, base, tmp_path):
    script, ask = scripted
    script.gain = rivals.Gain(1.0, 0.5, 1.5, "points", "the rubric", 4)
    first = ask(3)
    assert first.promoted and (first.gain["value"], first.gain["low"], first.before["value"]) == (1.0, 0.5, 0.75)
    for run, gate in (("r", "sft.gold"), ("r-round-001", "ppo.eos_rate")):
        kept = {gate: {"why": "a pilot", "value": 0.0, "min": 0.5, "max": None}}
        (tmp_path / run / accepted.FILE).write_text(json.dumps(kept), encoding="utf-8")
    # It starts elsewhere than at its reference, and is not asked to start there.
    gates = f"gates={json.dumps({'ppo.kl_at_start': {'max': 0.0}, 'ppo.eos_rate': {'min': 0.5}})}"
    ask(3, (), "rounds.continue_policy=true", gates)
    assert script.gates == {"ppo.eos_rate"}
    in_service = tmp_path / "r-round-001" / "stages" / "ppo" / "adapter"
    assert script.conducted == [
        ("r-round-001", None, {}, []),
        ("r-round-002", str(in_service), {}, ["ppo.eos_rate", "sft.gold"]),
    ]
    assert script.measured == [("r", "r", 3), ("r-round-001", "r-round-001", 3)]
    assert script.compared == script.doubted == [("r-round-001", "r"), ("r-round-002", "r-round-001")]
    # Put back by hand while the run had no more than SFT.
    service.put(tmp_path / "r", "r", "sft", 0)
    script.gain = replace(script.gain, low=float("nan"), high=float("nan"))
    last = ask(3, (), "rounds.continue_policy=true", gates)
    assert (last.promoted, last.gain["value"], last.gain["low"]) == (False, 1.0, None) and rounds.concluded(tmp_path / "r")[-1] == last
    assert script.conducted[-1][1] is None and script.stages == ("ppo", "sft") and len(script.gates) == 2


@pytest.mark.parametrize("shown", [False, True])
def test_answers_that_were_liked_are_demonstrations_where_the_config_asks_for_them(scripted, tmp_path, shown):
    _, ask = scripted
    press(tmp_path / "votes.sqlite", "bob", [("why?", "Because it is so.", 1)])
    counts = ask(3, (), f"rounds.demonstrations={shown}").counts
    liked = "Because it is so." in (tmp_path / "r" / "rounds" / "001" / "demonstrations.jsonl").read_text(encoding="utf-8")
    assert liked == shown == bool(counts["demonstrations"])


def test_a_round_that_is_killed_while_it_is_put_in_service_is_put_there_once(scripted, base, tmp_path, monkeypatch):
    script, ask = scripted
    script.gain = rivals.Gain(1.0, 0.5, 1.5, "points", "the rubric", 4)
    real = service.put
    killed = lambda *a: (_ for _ in ()).throw(KeyboardInterrupt)  # noqa: E731
    for when, patched in (("before", killed), ("after", lambda *a: real(*a) or killed())):
        monkeypatch.setattr(service, "put", patched)
        with pytest.raises(KeyboardInterrupt):
            ask(3 if when == "before" else 0)
        assert rounds.unfinished(tmp_path / "r").name == "001" and rounds.concluded(tmp_path / "r") == []
    monkeypatch.setattr(service, "put", real)
    assert ask(0).promoted and [one.round for one in service.history(tmp_path / "r")] == [0, 1]


def test_a_round_and_a_rollback_wait_for_whoever_works_on_the_run(base, tmp_path, monkeypatch):
    vote(tmp_path / "votes.sqlite", "ann", ["one?", "two?", "three?"])

    def busy(*args):
        raise OSError(errno.EAGAIN, "held")

    monkeypatch.setattr(fcntl, "lockf", busy)
    for work in (lambda: rounds.run_round(base(), lambda line: None), lambda: rounds.roll_back(base(), 0)):
        with pytest.raises(RunBusy):
            work()
    assert not (tmp_path / "r" / "rounds").exists() and not (tmp_path / "r" / "service.json").exists()


@pytest.mark.parametrize("damaged", ["{bad", "[]", "{}"])
def test_a_damaged_record_of_a_round_is_named_in_a_line(tmp_path, damaged):
    folder = tmp_path / "rounds" / "001"
    folder.mkdir(parents=True)
    for name, reads in (
        ("snapshot.json", lambda: snapshot.read(folder)),
        ("snapshot.json", lambda: snapshot.learned_from(folder)),
        ("snapshot.json", lambda: rounds.against(tmp_path, 1)),
        ("round.json", lambda: rounds.concluded(tmp_path)),
    ):
        (folder / name).write_text(damaged, encoding="utf-8")
        with pytest.raises(UserError, match=f"{name}: damaged"):
            reads()


@pytest.mark.parametrize(
    ("why", "missed"),
    [
        ("a gate of the run was missed: gate ppo.gold_minus_sft.ci_low: -0.1 < 0 (card.json). Look.", ["ppo.gold_minus_sft.ci_low"]),
        ("+0.100 points [-0.1, +0.3] by gold over r (ppo)", []),
    ],
)
def test_a_round_from_before_its_gates_were_noted_is_known_by_its_line(tmp_path, why, missed):
    folder = tmp_path / "rounds" / "001"
    folder.mkdir(parents=True)
    (folder / "snapshot.json").write_text("{}", encoding="utf-8")
    ended = {"number": 1, "run": "r-round-001", "promoted": False, "why": why, "gain": None, "before": None, "counts": {}}
    (folder / "round.json").write_text(json.dumps(ended), encoding="utf-8")
    (found,) = rounds.concluded(tmp_path)
    assert found.missed == missed


@pytest.fixture
def judge_at(monkeypatch):
    """An endpoint that follows a rule: rule(answer A, answer B) is its whole reply."""
    monkeypatch.setenv("no_proxy", "*")
    servers = []

    def start(rule):
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                shown = body["messages"][1]["content"]
                one, two = (shown.split(f"[Answer {side}]\n")[1].split("\n\n[")[0] for side in "AB")
                self.send_response(200)
                self.end_headers()
                reply = {"choices": [{"message": {"role": "assistant", "content": rule(one, two)}}]}
                self.wfile.write(json.dumps(reply).encode())

            def log_message(self, *args):
                pass

        server = HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return [f"judge.url=http://127.0.0.1:{server.server_port}/v1", "judge.model=a-judge", "evaluation.gold=none"]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def judged_round(base, tmp_path, monkeypatch):
    """A round whose new assistant says "new" and whose old one says "old" to four prompts; only the judge is real."""
    shutil.rmtree(tmp_path / "r" / "evaluation" / "ppo")

    def say(run, text):
        folder = run / "evaluation" / "ppo"
        folder.mkdir(parents=True, exist_ok=True)
        rows_ = [AnswerRow(p, None, f"question {p}", 0, text, True, 1, (1,)) for p in "abcd"]
        write_answers(folder / "answers.jsonl", rows_)

    say(tmp_path / "r", "old")
    said = []

    def train(run, stages, tell, **more):
        said.append("-- training --")
        say(run.path, "new")

    monkeypatch.setattr(rounds, "conduct", train)
    monkeypatch.setattr(rounds, "_measure_before", lambda *a: {"value": None})
    vote(tmp_path / "votes.sqlite", "ann", ["one?", "two?", "three?"])

    def go(settings):
        said.clear()
        return rounds.run_round(base(*settings), said.append)

    go.said = said
    return go


@pytest.mark.parametrize(("likes", "gain_", "promoted"), [("new", 0.5, True), ("old", -0.5, False)])
def test_where_the_rubric_is_not_the_yardstick_the_judge_decides(
    judged_round, judge_at, tmp_path, likes, gain_, promoted
):
    end = judged_round(judge_at(lambda a, b: "[[A]]" if likes in a else "[[B]]"))
    # Every comparison won, or lost, in both orders: four of them, which is not to be sure of all.
    ends = binomtest(4 if promoted else 0, 4).proportion_ci(method="wilson")
    assert (end.gain["value"], end.gain["questions"]) == (gain_, 4)
    assert (end.gain["low"], end.gain["high"]) == pytest.approx((ends.low - 0.5, ends.high - 0.5))
    assert end.promoted is promoted and "by the judge a-judge over r (ppo) on 4 questions" in end.why
    assert not any("nothing independent" in line for line in judged_round.said)
    assert service.present(tmp_path / "r").run == ("r-round-001" if promoted else "r")


def test_a_judge_that_is_right_half_the_time_promotes_nobody(judged_round, judge_at):
    end = judged_round(judge_at(lambda a, b: "[[C]]"))
    assert (end.gain["value"], end.promoted) == (0.0, False) and "Undecided" in end.why
    # Four ties: none of four was decided, and as many as that leaves room for might be, all for one side.
    assert end.gain["high"] == -end.gain["low"] == pytest.approx(binomtest(0, 4).proportion_ci(method="wilson").high / 2)


def test_where_the_interval_holds_both_it_is_told_what_gain_could_have_been_seen(judged_round, judge_at):
    asked = []

    def every_second(a, b):
        asked.append(a)
        # Both orders of a comparison agree: two prompts won, two lost.
        liked = "new" if (len(asked) - 1) // 2 % 2 else "old"
        return "[[A]]" if liked in a else "[[B]]"

    end = judged_round(judge_at(every_second))
    half = (end.gain["high"] - end.gain["low"]) / 2
    assert end.gain["value"] == 0.0 and half > 0.2 and not end.promoted
    assert f"Undecided: a gain of less than about {half:.2f} does not show" in end.why


def test_a_judge_without_a_verdict_leaves_the_round_open_for_a_better_one(judged_round, judge_at, tmp_path):
    with pytest.raises(UserError, match="no verdict on 4 comparisons"):
        judged_round(judge_at(lambda a, b: "[[A]]"))
    assert rounds.unfinished(tmp_path / "r").name == "001" and service.present(tmp_path / "r").run == "r"
    assert judged_round(judge_at(lambda a, b: "[[A]]" if "new" in a else "[[B]]")).promoted


def test_without_rubric_and_judge_nobody_is_promoted_and_the_way_on_is_named(judged_round, tmp_path):
    end = judged_round(["evaluation.gold=none"])
    assert not end.promoted and "nothing independent to judge by" in end.why and "rollback --to 1" in end.why
    # Told before anything is trained, not hours later.
    before = judged_round.said[: judged_round.said.index("-- training --")]
    assert any("nothing independent will judge this round" in line for line in before)
