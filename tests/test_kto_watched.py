"""KTO under the failure detectors: a rate that ruins the policy is caught and undone, a gentle one left alone, and looking changes nothing."""

import json

import pytest
import torch
from thumbing import make_context

from data.records import Message, Prompt
from pipeline import checkpoint
from pipeline.adapters import POLICY, REFERENCE
from pipeline.evaluation.detectors import REPORT
from pipeline.generation import Sample
from pipeline.ppo.figures import answer_figures
from pipeline.ppo.rollout import PromptIds
from pipeline.roles import ADAPTER
from pipeline.stages import kto, watching
from pipeline.stages.trl import PREFIX
from pipeline.stages.watching import judge_prompts
from reward.sources import Answered

WEIGHTS = "adapter_model.safetensors"


@pytest.fixture
def opinionated(monkeypatch):
    """A fresh model finds all tokens about equally likely, whatever its layers say: here its layers count for more."""
    opened = kto.open_base

    def open_base(config):
        base = opened(config)
        with torch.no_grad():
            base.lm_head.weight.mul_(5)
        return base

    monkeypatch.setattr(kto, "open_base", open_base)


def judged(monkeypatch, *means):
    """A judge whose looks have about these means, and whose differences between two looks are not the same for every prompt."""
    looks = iter(enumerate(means, start=1))

    def judge(answers):
        number, mean = next(looks)
        return [mean + 0.1 * (i * number % 5) for i in range(len(answers))]

    monkeypatch.setattr(watching, "_judge", lambda ctx, base: judge)


def report(context):
    return json.loads((context.out / REPORT).read_text(encoding="utf-8"))


def weights(folder):
    return (folder / WEIGHTS).read_bytes()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ((), "for the judge to see answers to: 2. With fewer than 8"),
        (("detectors.judge_every=0",), "to read answers to, KTO drawing no others: 2."),
        (("detectors.enabled=false",), ""),
    ],
)
def test_too_few_questions_are_told_as_what_they_are_for(tmp_path, capsys, settings, said):
    kto.run(make_context(tmp_path, "detectors.judge_prompts=2", "kto.epochs=1", *settings))
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("detectors: questions")]
    assert len(told) == bool(said) and all(said in line for line in told)


def test_a_rate_that_is_far_too_high_is_stopped_and_undone(opinionated, tmp_path):
    context = make_context(tmp_path, "kto.learning_rate=0.1", "kto.epochs=4")
    metrics = kto.run(context)
    seen = report(context)
    stopping = [alarm for alarm in seen["alarms"] if alarm["stops"]]
    assert stopping and metrics["steps"] < 20 and seen["rolled_back_to"] == metrics["updates_kept"] == 0.0
    assert "KTO stopped and went back to the SFT policy" in seen["said"]
    assert weights(context.out / ADAPTER) == weights(context.inputs["sft"] / ADAPTER)
    assert seen["lines"][0]["kl"] == 0.0 and seen["lines"][-1]["kl"] > 10


def test_a_gentle_rate_is_left_alone_and_looking_changes_nothing(opinionated, tmp_path):
    trained = []
    for enabled in ("true", "false"):
        folder = tmp_path / enabled
        folder.mkdir()
        context = make_context(folder, "kto.learning_rate=1e-3", f"detectors.enabled={enabled}")
        metrics = kto.run(context)
        assert metrics["steps"] == metrics["updates_kept"] == 10.0
        trained.append((weights(context.out / ADAPTER), report(context)))
    (watched, seen), (unwatched, unseen) = trained
    assert watched == unwatched != weights(context.inputs["sft"] / ADAPTER)
    assert seen["alarms"] == [] and seen["rolled_back_to"] is None and seen["said"] == ""
    # Ten steps: before the first, every fourth, and after the last.
    assert [look["update"] for look in seen["looks"]] == [line["update"] for line in seen["lines"]] == [0, 4, 8, 10]
    assert all(look["proxy"] is None for look in seen["looks"]) and unseen["lines"] == []


def test_a_judge_that_falls_twice_takes_the_run_back_to_its_best_look(opinionated, tmp_path, monkeypatch):
    judged(monkeypatch, 3.0, 4.0, 2.0, 2.0)
    # Every checkpoint stays, to see what the policy was.
    monkeypatch.setattr(checkpoint, "rotate", lambda *a: None)
    context = make_context(tmp_path, "kto.learning_rate=1e-3", "kto.epochs=4", "kto.checkpoint_every=4")
    with monkeypatch.context() as killed:

        def die(*arguments):
            raise KeyboardInterrupt

        killed.setattr(kto, "write_report", die)
        with pytest.raises(KeyboardInterrupt):
            kto.run(context)
    # Taken up after it had been stopped: no step is made, no look taken, and it goes back all the same.
    context.lines.clear()
    monkeypatch.setattr(torch.optim.AdamW, "step", die)
    metrics = kto.run(context)
    seen = report(context)
    assert [alarm["detector"] for alarm in seen["alarms"] if alarm["stops"]] == ["decline"]
    assert (metrics["steps"], metrics["updates_kept"], seen["rolled_back_to"]) == (12.0, 4.0, 4)
    assert [line["update"] for line in context.lines] == list(range(12))
    assert weights(context.out / ADAPTER) == weights(context.checkpoints / f"{PREFIX}4")
    assert weights(context.out / ADAPTER) != weights(context.checkpoints / f"{PREFIX}12")
    assert "decline after 12 updates: the judge fell from" in seen["said"]
    assert "went back to the policy after 4 updates (the judge's best so far)" in seen["said"]


def samples(context):
    return [json.loads(line) for line in (context.out / "samples.jsonl").read_text(encoding="utf-8").splitlines()]


def dies_after(monkeypatch, steps: int):
    step, made = torch.optim.AdamW.step, []

    def one(*arguments, **named):
        if len(made) == steps:
            raise KeyboardInterrupt
        made.append(1)
        return step(*arguments, **named)

    monkeypatch.setattr(torch.optim.AdamW, "step", one)


def test_a_person_can_read_along_also_where_it_was_interrupted(opinionated, tmp_path, monkeypatch):
    """The same answers to the same four questions at every look, whether or not it was killed between two of them."""
    texts = {}
    for name in ("whole", "killed"):
        folder = tmp_path / name
        folder.mkdir()
        context = make_context(folder, "kto.learning_rate=1e-3", "kto.checkpoint_every=3")
        if name == "killed":
            with monkeypatch.context() as strike:
                dies_after(strike, 8)
                with pytest.raises(KeyboardInterrupt):
                    kto.run(context)
            # The look at step 8 is one that the checkpoint of step 6 knows nothing of.
            assert {row["update"] for row in samples(context)} == {0, 4, 8}
            context.lines.clear()
        kto.run(context)
        texts[name] = (context.out / "samples.jsonl").read_text(encoding="utf-8")
        found = samples(context)
        assert [row["update"] for row in found] == [update for update in (0, 4, 8, 10) for _ in range(4)]
        assert {row["prompt"] for row in found} == {row["prompt"] for row in found[:4]} and len({row["prompt"] for row in found}) == 4
        looks = {look["update"]: look["judge"] for look in report(context)["looks"]}
        assert all(found[4 * k + i]["judge"] == looks[u][i] for k, u in enumerate((0, 4, 8, 10)) for i in range(4))
    assert texts["whole"] == texts["killed"]


def test_without_a_judge_the_answers_are_kept_without_a_score(tmp_path):
    context = make_context(tmp_path, "detectors.judge_every=0", "kto.epochs=1")
    kto.run(context)
    assert samples(context) and all(set(row) == {"update", "prompt", "response"} for row in samples(context))


def test_the_judge_is_asked_what_nobody_learned_from_nor_is_asked_at_the_end(tmp_path):
    context = make_context(tmp_path)
    base = kto.open_base(context.config)

    def asked():
        return {p.prompt.messages[0].content for p in judge_prompts(context, base)}

    assert asked() == set("abcdefghij")
    file = context.inputs["prepare"] / "thumbs.train.jsonl"
    rows = file.read_text(encoding="utf-8")
    file.write_text(rows.replace("question 3?", "c"), encoding="utf-8")
    assert asked() == set("abdefghij")


def test_figures_of_a_look_are_those_that_a_slow_reading_gives(make_base):
    base = make_base(POLICY, REFERENCE)
    prompts = [PromptIds(Prompt(f"p{i}", (Message("user", "x"),)), (20 + i, 21, 22)) for i in range(2)]
    said = [(30, 31, 32), (40, 41)]
    samples = [Sample(ids, (0.0,) * len(ids), finished) for ids, finished in zip(said, (True, False), strict=True)]
    answers = [
        Answered(p.prompt.messages, "one two three", s.finished, (*p.ids, *s.ids))
        for p, s in zip(prompts, samples, strict=True)
    ]
    found = answer_figures(base, POLICY, REFERENCE, samples, answers, 0.5)
    nats = {}
    for role in (POLICY, REFERENCE):
        with base.acting_as(role), torch.no_grad():
            nats[role] = 0.0
            for answer, own in zip(answers, said, strict=True):
                logits = base.causal_lm(torch.tensor([answer.ids])).logits[0] / 0.5
                for k, token in enumerate(own):
                    nats[role] += float(logits[2 + k].log_softmax(-1)[token])
    assert found["kl"] == pytest.approx((nats[POLICY] - nats[REFERENCE]) / 2, abs=1e-4)
    assert found["entropy"] == pytest.approx(-nats[POLICY] / 5, abs=1e-4)
    assert (found["response_tokens"], found["eos_rate"], found["episodes"]) == (2.5, 0.5, 2)
