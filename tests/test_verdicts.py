"""What people said of a round's assistant, where rounds are listed and where one is put in service by hand."""

import hashlib
import json
from pathlib import Path

import pytest

from data.errors import UserError
from data.feedback import FeedbackStore
from pipeline import rounds, service
from pipeline.cli import rollback
from pipeline.cli import rounds as show_rounds
from pipeline.cli_feedback import stats
from pipeline.cli_standings import standings
from pipeline.config import load_config
from pipeline.manifest import MANIFEST
from pipeline.run import Run
from pipeline.verdicts import verdicts

STAGES = ("sft", "ppo")


def weights(run: str) -> bytes:
    return f"weights of {run}".encode()


@pytest.fixture
def base(tmp_path):
    """A run with two rounds that ended, by their files alone: the first was promoted, the second not."""
    config = load_config(Path("configs/smoke.yaml"), [f"runs_dir={tmp_path}", "run_name=r"])
    run = Run.open(config)
    for name in ("r", "r-round-001", "r-round-002"):
        for stage in STAGES:
            folder = tmp_path / name / "stages" / stage / "adapter"
            folder.mkdir(parents=True)
            (folder.parent / MANIFEST).write_text("{}", encoding="utf-8")
            (folder / "adapter_model.safetensors").write_bytes(weights(name if stage == "ppo" else "sft"))
    service.put(run.path, "r-round-001", "ppo", 1)
    for number, rival in ((1, service.InService("r", "ppo", 0)), (2, service.InService("r-round-001", "ppo", 1))):
        folder = run.path / "rounds" / f"{number:03d}"
        folder.mkdir(parents=True)
        (folder / "snapshot.json").write_text(json.dumps({"against": vars(rival)}), encoding="utf-8")
        end = {
            "number": number, "run": f"r-round-00{number}", "promoted": number == 1, "why": f"why {number}", "gain": None,
            "before": None, "counts": {"new_pairs": 3},
        }  # fmt: skip
        (folder / "round.json").write_text(json.dumps(end), encoding="utf-8")
    return lambda *more: Run(run.path, run.config.model_copy(update={"chat": chat_of(run.config, tmp_path, *more)}))


def chat_of(config, folder, consent="publish"):
    return config.chat.model_copy(update={"feedback_db": str(folder / "votes.sqlite"), "consent": consent})


def vote(folder, one, other, wins, losses):
    """Blind choices between the assistants of two runs."""
    store = FeedbackStore.open(folder / "votes.sqlite")
    models = [
        store.add_model(
            run=run, stage="ppo", weights_sha256=hashlib.sha256(weights(run)).hexdigest(), template_sha256="t"
        )
        for run in (one, other)
    ]
    for number in range(wins + losses):
        talk = store.start_conversation(rater="ann")
        asked = store.add_message(talk, parent=None, author="human", content=f"q{number}")
        sides = [
            store.add_message(talk, parent=asked, author="model", content=m, model=m, finish="stop") for m in models
        ]
        store.compare(*sides, rater="ann", winner="left" if number < wins else "right", blind=True, shown_ms=1)
    store.close()


SECOND = "people preferred r-round-002 (ppo) over r-round-001 (ppo) in 75% ["
ASSISTANTS = [service.InService(run, "ppo", n) for n, run in enumerate(("r", "r-round-001", "r-round-002"))]


def test_a_round_is_put_in_service_by_hand_with_what_people_said_of_it(base, tmp_path):
    vote(tmp_path, "r-round-002", "r-round-001", wins=9, losses=3)
    vote(tmp_path, "r-round-001", "r", wins=1, losses=1)
    now = rounds.roll_back(base(), 2)
    assert (now.run, now.round) == ("r-round-002", 2)
    assert now.why.startswith(f"put there by hand; {SECOND}") and now.why.endswith(
        "] of 12 blind votes (9 won, 3 lost, 0 ties, 0 both bad; 1 person, 12 conversations)"
    )
    assert json.loads((tmp_path / "r" / service.SERVICE).read_text())["history"][-1]["why"] == now.why
    # Nobody has set these two beside each other; it is a person's decision all the same.
    back = rounds.roll_back(base(), 0)
    assert back.run == "r" and back.why == "put there by hand; nobody has compared it with r-round-002 (ppo), blind"
    assert rounds.roll_back(base(), 0).why == "put there by hand"
    assert "in 50% (too few for an interval) of 2 blind votes (1 won, 1 lost" in rounds.roll_back(base(), 1).why


def test_each_way_back_is_one_round_further_and_ends_at_the_run_itself(base, tmp_path):
    service.put(tmp_path / "r", "r-round-002", "ppo", 2)
    assert [rounds.roll_back(base()).round for _ in range(2)] == [1, 0]
    with pytest.raises(UserError, match="r is in service since the beginning"):
        rounds.roll_back(base())
    # Half a round is no assistant; a run whose PPO is being made anew still has its SFT policy.
    for run in ("r", "r-round-001"):
        (tmp_path / run / "stages" / "ppo" / MANIFEST).unlink()
    with pytest.raises(UserError, match="r-round-001: no finished assistant there"):
        rounds.roll_back(base(), 1)
    rounds.roll_back(base(), 2)
    assert (rounds.roll_back(base(), 0).stage, service.present(tmp_path / "r").run) == ("sft", "r")


def test_a_run_that_was_renamed_still_finds_its_rounds_and_itself(base, tmp_path):
    """Alone, or together with its rounds."""
    service.put(tmp_path / "r", "r-round-001", "ppo", 1)
    service.put(tmp_path / "r", "r", "ppo", 0)
    new = tmp_path / "new"
    (tmp_path / "r").rename(new)
    renamed = Run(new, base().config)
    answers = lambda: service.path_of(new, service.present(new))  # noqa: E731
    assert answers() == new
    assert rounds.roll_back(renamed, 1).run == "r-round-001" and answers() == tmp_path / "r-round-001"
    assert rounds.roll_back(renamed, 0).run == "new" and answers() == new
    (tmp_path / "r-round-002").rename(tmp_path / "new-round-002")
    assert rounds.roll_back(renamed, 2).run == "new-round-002"
    assert service.path_of(new, ASSISTANTS[2]) == tmp_path / "new-round-002"


def test_a_run_that_was_renamed_keeps_its_votes_and_its_learners(base, tmp_path, capsys, monkeypatch):
    manifest = tmp_path / "r-round-001" / "stages" / "ppo" / MANIFEST
    manifest.write_text(json.dumps({"settings": {"learner": "kto"}}), encoding="utf-8")
    vote(tmp_path, "r-round-002", "r-round-001", wins=9, losses=3)
    store = FeedbackStore.open(tmp_path / "votes.sqlite")
    for (answer,) in store.rows("SELECT id FROM message WHERE author = 'model'"):
        store.rate(answer, rater="ann", value=1)
    store.close()
    new = tmp_path / "new"
    (tmp_path / "r").rename(new)
    renamed = Run(new, base().config.model_copy(update={"run_name": "new"}))
    for command in ("standings", "feedback"):
        monkeypatch.setattr(f"pipeline.cli_{command}.open_run", lambda *a, **k: renamed)

    def told(run="new"):
        standings(run_name=run, db=tmp_path / "votes.sqlite")
        stats(run_name=run, db=tmp_path / "votes.sqlite")
        said = capsys.readouterr().out
        return "ppo-round-2 over kto-round-1" in said, "r-round-001 (kto): 12 up" in said

    # Alone, and then together with the round.
    assert told() == (True, True) and verdicts(renamed)(ASSISTANTS[2], ASSISTANTS[1])
    (tmp_path / "r-round-001").rename(tmp_path / "new-round-001")
    assert told() == (True, True) and told(None) == (True, True)
    assert verdicts(renamed)(ASSISTANTS[2], ASSISTANTS[1])
    # Another run has the name now: they are votes on that.
    (tmp_path / "r").mkdir()
    assert told() == (False, False) and verdicts(renamed)(ASSISTANTS[2], ASSISTANTS[1]) == ""


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("config.yaml", "seed: 0\nrun_name: old\n"),
        ("service.json", '{"history": [{"run": "old", "stage": "ppo", "round": 0}]}'),
        ("rounds/004/round.json", '{\n "number": 4,\n "run": "old-round-004",\n "before": {\n  "run": "elsewhere"\n }\n}'),
    ],
)
def test_what_a_run_was_called_stands_in_each_of_its_files(tmp_path, file, text):
    path = tmp_path / "new" / file
    path.parent.mkdir(parents=True)
    path.write_text(text, encoding="utf-8")
    assert service.names(tmp_path / "new") == {"new", "old"}
    (tmp_path / "old").mkdir()
    assert service.names(tmp_path / "new") == {"new"}


def test_votes_that_cannot_be_read_keep_nobody_from_going_back(base, tmp_path):
    (tmp_path / "votes.sqlite").write_bytes(b"no database at all" * 100)
    now = rounds.roll_back(base(), 2)
    assert now.run == "r-round-002" and "people's votes could not be read: " in now.why


def test_the_list_of_rounds_says_it_where_there_are_votes(base, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("pipeline.cli_rounds.open_run", lambda *a, **k: base())
    show_rounds()
    before = capsys.readouterr().out.splitlines()
    assert len(before) == 5 and not any("people" in line for line in before)
    vote(tmp_path, "r-round-002", "r-round-001", wins=9, losses=3)
    vote(tmp_path, "r-round-001", "r", wins=2, losses=8)
    show_rounds()
    said = capsys.readouterr().out.splitlines()
    assert [line for line in said if "people" not in line] == before
    # Each under its own round, beside the one that it was to replace.
    assert said[3].strip().startswith("people preferred r-round-001 (ppo) over r (ppo) in 20% [") and "why 1" in said[2]
    assert said[6].strip().startswith(SECOND) and "why 2" in said[5]
    rollback(to=0)
    assert "blind" in capsys.readouterr().out
    vote(tmp_path, "r-round-002", "r", wins=3, losses=1)
    show_rounds()
    said = capsys.readouterr().out.splitlines()
    assert said[1].strip().startswith("put there by hand; people preferred r (ppo) over r-round-001 (ppo) in 80% [")
    # Beside the one that answers now, too.
    assert (
        said[-1].strip().startswith("people preferred r-round-002 (ppo) over r (ppo) in 75% (too few for an interval)")
    )


def test_rounds_name_the_learner_that_ran(base, tmp_path, capsys, monkeypatch):
    for run in ("r", "r-round-001"):
        manifest = tmp_path / run / "stages" / "ppo" / MANIFEST
        manifest.write_text(json.dumps({"settings": {"learner": "kto"}}), encoding="utf-8")
    monkeypatch.setattr("pipeline.cli_rounds.open_run", lambda *a, **k: base())
    vote(tmp_path, "r-round-002", "r-round-001", wins=9, losses=3)
    show_rounds()
    said = capsys.readouterr().out
    assert said.startswith("in service: r-round-001 (kto)")
    assert "preferred r-round-002 (ppo) over r-round-001 (kto)" in said
    assert rounds.roll_back(base(), 0).why.endswith("nobody has compared it with r-round-001 (kto), blind")
    rounds.roll_back(base(), 2)
    assert rounds.roll_back(base(), 0).why.endswith("nobody has compared it with r-round-002 (ppo), blind")
    monkeypatch.setattr("pipeline.cli_standings.open_run", lambda *a, **k: base())
    monkeypatch.setattr("pipeline.cli_feedback.open_run", lambda *a, **k: base())
    standings(run_name="r", db=tmp_path / "votes.sqlite")
    assert "ppo-round-2 over kto-round-1" in capsys.readouterr().out


def test_votes_are_about_the_weights_that_are_there_now(base, tmp_path):
    vote(tmp_path, "r-round-002", "r-round-001", wins=3, losses=1)
    adapter = tmp_path / "r-round-002" / "stages" / "ppo" / "adapter" / "adapter_model.safetensors"
    assert verdicts(base())(ASSISTANTS[2], ASSISTANTS[1]) and not verdicts(base())(ASSISTANTS[2], ASSISTANTS[0])
    assert not verdicts(base("local"))(ASSISTANTS[2], ASSISTANTS[1])
    adapter.write_bytes(b"made anew")
    assert verdicts(base())(ASSISTANTS[2], ASSISTANTS[1]) == ""
    adapter.unlink()
    assert verdicts(base())(ASSISTANTS[2], ASSISTANTS[1]) == ""


def test_a_file_from_before_there_were_reasons_is_read(base, tmp_path):
    row = {"run": "r", "stage": "ppo", "round": 0, "since": "2026-01-01 00:00:00"}
    (tmp_path / "r" / service.SERVICE).write_text(json.dumps({"history": [row]}), encoding="utf-8")
    assert service.present(tmp_path / "r") == service.InService("r", "ppo", 0, "2026-01-01 00:00:00", "")


def test_the_list_of_rounds_says_which_one_serves_also_where_it_was_put_there_by_hand(base, capsys, monkeypatch):
    monkeypatch.setattr("pipeline.cli_rounds.open_run", lambda *a, **k: base())

    def serving():
        show_rounds()
        return [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.endswith("; in service now")]

    assert serving() == ["001"]
    rounds.roll_back(base(), 2)
    assert serving() == ["002"]
    rounds.roll_back(base(), 0)
    assert serving() == []
