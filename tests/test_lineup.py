"""Who may answer: a run's checkpoints and the assistants of its other rounds, on one base."""

import hashlib
import itertools
import json
import shutil
from pathlib import Path

import pytest
import torch
from starlette.testclient import TestClient

from data.errors import UserError
from data.feedback import FeedbackStore
from data.records import Message
from pipeline import lineup
from pipeline.adapters import SharedBase
from pipeline.assistant import Assistant
from pipeline.config import load_config
from pipeline.learner import meant
from pipeline.models import load
from pipeline.run import Run
from pipeline.sampling import Sampling
from pipeline.serve.app import create_app
from pipeline.serve.settings import ServeSettings


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """r and two rounds from its SFT policy, one that learned SFT anew, one of another rank, and one that is not finished."""
    runs = tmp_path_factory.mktemp("runs")
    bases = {}
    for number, (sft, ppo, *more) in enumerate([(1, 2), (1, 3), (1, 4), (5, 6), (1, 7, "lora.rank=2"), (1, None)]):
        name = "r" if number == 0 else f"r-round-{number:03d}"
        run = Run.open(load_config(Path("configs/smoke.yaml"), [f"runs_dir={runs}", f"run_name={name}", *more]))
        run.freeze()
        rank = run.config.lora.rank
        if rank not in bases:
            bases[rank] = SharedBase(*load(run.config.model), run.config.lora)
            bases[rank].add("made", trainable=False)
        for stage, seed in (("sft", sft), ("ppo", ppo)):
            if seed is not None:
                generator = torch.Generator().manual_seed(seed)
                for parameter in bases[rank].parameters("made"):
                    parameter.data.normal_(std=0.2, generator=generator)
                bases[rank].save("made", run.path / "stages" / stage / "adapter")
                (run.path / "stages" / stage / "manifest.json").write_text("{}")
    return runs


def digest(runs, run, stage):
    return hashlib.sha256(
        (runs / run / "stages" / stage / "adapter/adapter_model.safetensors").read_bytes()
    ).hexdigest()


def test_rounds_are_offered_once_and_what_is_not_offered_is_told(made):
    found, left_out = lineup.of_rounds(made / "r", Run.load(made / "r-round-002"), keep=9)
    assert [(c.name, c.run, c.stage) for c in found] == [
        ("ppo-round-0", "r", "ppo"),
        ("ppo-round-1", "r-round-001", "ppo"),
        # Its SFT policy learned from other data; that of the others is the one in service.
        ("sft-round-3", "r-round-003", "sft"),
        ("ppo-round-3", "r-round-003", "ppo"),
    ]
    assert left_out == ["r-round-004: has another base model or other lora settings"]
    found, left_out = lineup.of_rounds(made / "r", Run.load(made / "r-round-002"), keep=1)
    assert [c.name for c in found] == ["sft-round-3", "ppo-round-3"]
    assert [line.split(":")[0] for line in left_out] == ["r-round-004", "r", "r-round-001"]
    assert "chat.other_rounds" in left_out[-1]


def test_the_stages_name_means_the_policy_that_another_learner_made():
    offered = ["sft", "kto", "kto-round-2", "ppo-round-3"]
    said = {"ppo": "kto", "ppo-round-2": "kto-round-2", "ppo-round-3": "ppo-round-3", "ppo-round-1": "ppo-round-1", "sft": "sft", "dpo": "dpo"}
    assert {name: meant(name, offered) for name in said} == said
    assert [meant(slip, offered) for slip in ("", "-round-2", "sft-round-2")] == ["", "-round-2", "sft-round-2"]
    assert meant("ppo", ["ppo", "kto"]) == "ppo"


def test_a_checkpoint_is_called_by_the_learner_that_ran(made, tmp_path):
    """The manifest says which; the config may have been changed since. The stage in the store stays `ppo`."""
    shutil.copytree(made, tmp_path / "runs")
    runs = tmp_path / "runs"
    for run, learner in (("r", "kto"), ("r-round-001", "kto"), ("r-round-003", "ppo")):
        (runs / run / "stages/ppo/manifest.json").write_text(json.dumps({"settings": {"learner": learner}}))
    assert [(c.name, c.stage) for c in lineup.of_run(runs / "r")] == [("base", "base"), ("sft", "sft"), ("kto", "ppo")]
    others, _ = lineup.of_rounds(runs / "r", Run.load(runs / "r-round-002"), keep=9)
    assert [c.name for c in others] == ["kto-round-0", "kto-round-1", "sft-round-3", "ppo-round-3"]
    assert lineup.name_of(others, "r-round-001", "ppo", digest(runs, "r-round-001", "ppo")) == "kto-round-1"


def test_the_candidate_is_the_newest_round_that_is_newer_than_the_one_in_service(made):
    def of(serving, keep=9):
        others, _ = lineup.of_rounds(made / "r", Run.load(made / serving), keep)
        return lineup.candidate(others, made / "r", made / serving)

    # Round 4 does not fit on this base and round 5 is not finished.
    assert of("r") == "ppo-round-3" and of("r-round-002") == "ppo-round-3"
    # In service itself, it stands against nobody: an older round is no candidate.
    assert of("r-round-003") is None and of("r", keep=0) is None


def test_the_newest_of_the_run_itself_comes_last_and_a_run_without_rounds_has_no_others(made, tmp_path):
    shutil.copytree(made / "r", tmp_path / "r")
    run = Run.load(tmp_path / "r")
    assert lineup.of_rounds(run.path, run, keep=4) == ([], [])
    assert [c.name for c in lineup.of_run(run.path)] == ["base", "sft", "ppo"]
    shutil.rmtree(run.path / "stages")
    with pytest.raises(UserError, match="no trained model yet"):
        lineup.of_run(run.path)


def test_each_answers_as_itself_and_a_vote_knows_which_it_was_about(made, tmp_path):
    serving = Run.load(made / "r-round-002")
    others, _ = lineup.of_rounds(made / "r", serving, keep=9)
    assistant = Assistant.open(serving.path, serving.config, others)
    names = assistant.checkpoints
    assert names == ("base", "ppo-round-0", "ppo-round-1", "sft-round-3", "ppo-round-3", "sft", "ppo")
    # Base and the run's two: the equal SFT policies of the rounds are not loaded again.
    assert len(assistant.base.roles) == len(names) - 1
    question, sampling = [Message("user", "hi")], Sampling(12, 1.0, seed=1)
    drawn = lambda of, name: [  # noqa: E731
        (d.token_ids, d.logprobs) for d in of.stream(question, checkpoint=name, sampling=sampling)
    ]
    said = {name: drawn(assistant, name) for name in names}
    assert not [pair for pair in itertools.combinations(names, 2) if said[pair[0]] == said[pair[1]]]
    # What it says here is what its own run says.
    alone = Run.load(made / "r-round-001")
    own = Assistant.open(alone.path, alone.config)
    assert drawn(own, "ppo") == said["ppo-round-1"]

    store = FeedbackStore.open(tmp_path / "f.sqlite", one_thread=False)
    client = TestClient(create_app(assistant, store, ServeSettings(rater="ann")), base_url="http://127.0.0.1:8000")
    with client:
        assert [m["id"] for m in client.get("/v1/models").json()["data"]] == list(names)
        assert client.get("/api/state").json()["model"] == "ppo"
        told = client.post("/api/turn", json={"model": "ppo-round-1", "text": "hi", "temperature": 0.0})
        start = json.loads(told.text.split("\n\n")[0].removeprefix("data: "))
        answer = start["answers"]["only"]
        assert client.post("/v1/feedback", json={"id": answer, "value": 1}).status_code == 200
        whole = client.get(f"/api/conversations/{start['conversation']}").json()
        assert [m["model"] for m in whole["messages"]] == [None, "ppo-round-1"]
    found = store.rows(
        """SELECT m.run, m.stage, m.weights_sha256 FROM rating r JOIN message s ON s.id = r.message
           JOIN model m ON m.id = s.model WHERE r.rater = 'ann'"""
    )
    assert found == [("r-round-001", "ppo", digest(made, "r-round-001", "ppo"))]
    store.close()


def test_an_old_answer_is_named_by_what_wrote_it(made):
    known = lineup.of_run(made / "r")
    sha = digest(made, "r", "ppo")
    assert lineup.name_of(known, "renamed", "ppo", sha) == "ppo"
    assert lineup.name_of(known, "r", "sft", "0" * 64) == "an earlier sft of r"
    # Which learner made it, the weights would say, and they are gone.
    assert lineup.name_of(known, "r", "ppo", "0" * 64) == "an earlier assistant of r"
    assert lineup.name_of(known, "other", "sft", "0" * 64) == "sft of other"
    assert lineup.name_of(known, "open-webui", "llama3", "") == "llama3"
