"""A second reward model that no policy raises judges the first one's policies: it learns from other questions, and its word is the gold score."""

import json
import shutil
from pathlib import Path
from statistics import fmean
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from on_cards import hold_against_the_table

from data.errors import UserError
from data.loading import load
from data.records import Demonstration, Message, Prompt
from data.rows import ranking_row, write_rows
from pipeline import progress
from pipeline.adapters import BASE, POLICY
from pipeline.conductor import conduct, registry
from pipeline.config import load_config
from pipeline.evaluation import calibration
from pipeline.evaluation.answers import answer_prompts, read_answers
from pipeline.evaluation.cards import read_card
from pipeline.evaluation.rivals import gain
from pipeline.evaluation.rouge import rouge_l
from pipeline.evaluation.scoring import conversation
from pipeline.ppo.rollout import PromptIds, draw
from pipeline.roles import ADAPTER, TEST_REWARD, RewardModel, open_base, open_test_model
from pipeline.run import Run
from pipeline.snapshot import usable
from pipeline.stages.watching import judge_prompts, open_watch
from pipeline.template import prompt_ids
from reward.test_model import is_for_test_model

SMALL = (
    "threads=1", "data.limit=24", "reward.members=2", "reward.test_share=0.4", "evaluation.gold=test_model", "ppo.updates=1",
    "ppo.episodes=4", "ppo.minibatch=4", "ppo.max_new_tokens=4", "evaluation.max_new_tokens=4", "evaluation.limit=4",
    "detectors.judge_prompts=3", "detectors.judge_every=1", "run_name=r",
)  # fmt: skip
FILES = ("adapter/adapter_model.safetensors", "head.safetensors", "scale.json")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    runs = tmp_path_factory.mktemp("runs")
    config = load_config(Path("configs/smoke.yaml"), [*SMALL, f"runs_dir={runs}"])
    conduct(Run.open(config), [s.name for s in registry()[0]], lambda line: None)
    return runs / "r"


@pytest.fixture(scope="module")
def judge(finished):
    """Conversations as the test model scores them, by its files."""
    config = Run.load(finished).config
    base = open_base(config)
    model = open_test_model(base, finished / "stages" / "reward")
    asked = {p.id: p for p in load(finished / "stages" / "prepare" / "heldout_prompts.jsonl", "prompts")}

    def scores(rows):
        system = config.model.system_prompt
        return model.score_all(
            [[*prompt_ids(base.tokenizer, asked[r.prompt_id].messages, system_prompt=system), *r.ids] for r in rows]
        )

    return scores


def test_its_cards_hold_the_numbers_that_are_promised_where_it_judges(finished):
    hold_against_the_table(finished)


def test_a_question_is_on_one_side_whatever_file_or_round_it_stands_in():
    questions = [(Message("user", f"What is {n}?"),) for n in range(4000)]
    kept = [is_for_test_model(q, 0.3) for q in questions]
    # 0.3 ± 4 standard errors of 4,000 draws.
    assert abs(np.mean(kept) - 0.3) < 4 * np.sqrt(0.21 / 4000)
    again = (Message("user", "what is  7?"), Message("assistant", "x"), Message("user", "And 8?"))
    assert is_for_test_model(again, 0.3) == kept[7]
    assert not any(is_for_test_model(q, 0.0) for q in questions[:50])
    # A larger share takes more and gives none back.
    assert all(is_for_test_model(q, 0.6) for q, before in zip(questions, kept, strict=True) if before)


@pytest.mark.parametrize("turned", ["own", "others"])
def test_neither_model_sees_the_others_rankings(finished, tmp_path, turned):
    """The rankings of one side are turned round: that side's models change, the other side's stay the same to the byte."""
    shutil.copytree(finished, tmp_path / "r")
    for name in ("reward", "ppo"):
        shutil.rmtree(tmp_path / "r" / "stages" / name)
        shutil.rmtree(tmp_path / "r" / "evaluation" / name)
    file = tmp_path / "r" / "stages" / "prepare" / "rankings.train.jsonl"
    rankings = load(file, "ranked")
    ours = [is_for_test_model(r.prompt, 0.4) == (turned == "own") for r in rankings]
    assert 0 < sum(ours) < len(ours)
    write_rows(
        file,
        [
            ranking_row(r) | ({"ranks": [max(r.ranks) - rank for rank in r.ranks]} if mine else {})
            for r, mine in zip(rankings, ours, strict=True)
        ],
    )
    from pipeline.stages import reward

    ctx = SimpleNamespace(
        config=Run.load(tmp_path / "r").config,
        inputs={name: tmp_path / "r" / "stages" / name for name in ("prepare", "sft")},
        out=tmp_path / "out",
        checkpoints=tmp_path / "checkpoints",
        log=lambda line: None,
        progress=progress.track,
    )
    reward.run(ctx)
    for folder, is_test in (("", False), ("member-1", False), ("test-model", True)):
        for name in FILES:
            before, after = (
                (at / folder / name).read_bytes() for at in (finished / "stages" / "reward", tmp_path / "out")
            )
            assert (before == after) != (is_test == (turned == "own")), f"{folder}/{name}"


def test_every_ranking_teaches_one_model(finished):
    done = json.loads((finished / "stages" / "reward" / "manifest.json").read_text())["metrics"]
    rankings = [r for r in load(finished / "stages" / "prepare" / "rankings.train.jsonl", "ranked") if list(r.pairs())]
    kept = sum(is_for_test_model(r.prompt, 0.4) for r in rankings)
    assert done["test_model_rankings"] == kept
    assert done["rankings"] + kept + done["too_long"] >= len(rankings)
    steps = [json.loads(line)["step"] for line in (finished / "stages" / "reward" / "log.jsonl").open()]
    assert steps == list(range(1, len(steps) + 1)) or steps == list(range(len(steps)))


def test_the_gold_score_is_the_test_models(finished, judge):
    card = read_card(finished / "evaluation" / "ppo" / "card.json")
    ppo = read_answers(finished / "evaluation" / "ppo" / "answers.jsonl")
    sft = read_answers(finished / "evaluation" / "ppo" / "sft_answers.jsonl")
    base = read_answers(finished / "evaluation" / "base" / "answers.jsonl")
    for rows in (ppo, sft):
        np.testing.assert_allclose([r.gold for r in rows], judge(rows), atol=1e-5)
    assert [r.gold for r in ppo] != [r.proxy for r in ppo]
    for metric, rows in (("gold", ppo), ("sft_gold", sft), ("base_gold", base)):
        assert card.get(metric).value == pytest.approx(np.mean(judge(rows)), abs=1e-5)
        assert card.get(metric).unit == "reward"
    # As many answers to each prompt on both sides, so the mean difference is the difference of means.
    assert card.get("gold_minus_sft").value == pytest.approx(np.mean(judge(ppo)) - np.mean(judge(sft)), abs=1e-5)
    assert "test model" in card.get("win_rate_vs_sft").note
    assert card.get("ema_gold_minus_raw") is not None and card.get("best_of_2_gold") is not None


def test_two_assistants_are_judged_by_one_test_model(finished, judge):
    config = Run.load(finished).config
    assert gain(finished, "ppo", finished, "ppo", config, progress.track).value == 0.0
    found = gain(finished, "ppo", finished, "sft", config, progress.track)
    card = read_card(finished / "evaluation" / "ppo" / "card.json")
    assert found.value == pytest.approx(card.get("gold_minus_sft").value, abs=1e-5)
    assert (found.unit, found.by, found.questions) == ("reward", "the test model", 4)


def test_a_reward_models_unit_is_the_spread_of_its_training_answers_behind_their_questions(finished):
    config = Run.load(finished).config
    base = open_base(config)
    rankings = load(finished / "stages" / "prepare" / "rankings.train.jsonl", "ranked")
    for role, folder, tested in (("one", ".", False), ("two", "member-1", False), ("three", "test-model", True)):
        model = RewardModel.open(base, finished / "stages" / "reward" / folder, role)
        own = [r for r in rankings if is_for_test_model(r.prompt, 0.4) == tested and list(r.pairs())]
        read = [[conversation(base, r.prompt, a, e, config) for a, e in zip(r.responses, r.finished, strict=True)] for r in own]
        fitting = [row for row in read if max(map(len, row)) <= config.reward.max_tokens]
        scores = np.array(model.score_all([ids for row in fitting[: config.reward.scale_lists] for ids in row]))
        assert len(scores) == len(model.seen) > 10
        np.testing.assert_allclose(scores, model.seen, atol=1e-3)
        assert abs(scores.mean()) < 1e-3 and abs(scores.std(ddof=1) - 1) < 1e-3


def test_members_are_reward_models_of_their_own(finished):
    """Two that learnt the same from the same chance would agree on every answer, and disagreement would warn of nothing."""
    base = open_base(Run.load(finished).config)
    opened = [
        RewardModel.open(base, finished / "stages" / "reward" / folder, role)
        for role, folder in (("one", "."), ("two", "member-1"), ("three", "test-model"))
    ]
    weights = [m.head.weight.flatten() / m.head.weight.norm() for m in opened]
    texts = [list(range(20 + i, 40 + 3 * i)) for i in range(12)]
    for i, j in ((0, 1), (0, 2), (1, 2)):
        # Heads are drawn by chance: in 64 dimensions two are nearly at right angles.
        assert abs(float(weights[i] @ weights[j])) < 0.7
        assert not np.allclose(opened[i].score_all(texts), opened[j].score_all(texts), atol=1e-2)


def test_the_detectors_ask_the_test_model(finished):
    config = Run.load(finished).config
    base = open_base(config)
    base.load(POLICY, finished / "stages" / "sft" / "adapter", trainable=True)
    model = open_test_model(base, finished / "stages" / "reward")
    prompts = judge_prompts(SimpleNamespace(config=config, inputs={"prepare": finished / "stages" / "prepare"}), base)
    _, answers = draw(base, prompts, config.ppo, torch.Generator().manual_seed(config.seed))
    looks = json.loads((finished / "stages" / "ppo" / "detectors.json").read_text())["looks"]
    np.testing.assert_allclose(looks[0]["judge"], model.score_all([a.ids for a in answers]), atol=1e-4)


def test_a_judge_of_few_questions_is_told_of(finished, capfd):
    run = Run.load(finished)
    base = open_base(run.config)
    ctx = SimpleNamespace(config=run.config, inputs={n: finished / "stages" / n for n in ("prepare", "reward")})
    open_watch(ctx, base)
    few = len(judge_prompts(ctx, base))
    assert few < 8 and f"for the judge to see answers to: {few}." in capfd.readouterr().err


def test_detectors_that_are_off_open_no_test_model_and_read_no_file(finished):
    for settings, roles in (([], (TEST_REWARD,)), (["detectors.judge_every=0"], ()), (["detectors.enabled=false"], ())):
        config = Run.load(finished, settings).config
        base = open_base(config)
        inputs = {n: finished / "stages" / n for n in ("prepare", "reward")}
        watch = open_watch(SimpleNamespace(config=config, inputs=inputs if config.detectors.enabled else {}), base)
        assert base.roles == roles and (watch.judge is not None) == bool(roles)
        assert config.detectors.enabled or watch.before(SimpleNamespace(done=0, settings=config.ppo)) is None


def test_the_average_that_is_kept_is_one_and_an_alarm_leaves_the_policy_gone_back_to(finished, tmp_path):
    from safetensors.torch import load_file

    from pipeline.stages import ppo

    read = lambda folder: load_file(folder / "adapter_model.safetensors")  # noqa: E731
    stages = finished / "stages"
    start, policy, average = read(stages / "sft" / ADAPTER), read(stages / "ppo" / ADAPTER), read(stages / "ppo" / "ema")
    # One update, decay 0.9.
    assert any(not torch.equal(t, start[n]) for n, t in policy.items())
    assert all(torch.allclose(average[n], 0.9 * start[n] + 0.1 * t, atol=1e-6) for n, t in policy.items())
    assert any(not torch.equal(average[n], t) for n, t in policy.items())
    ctx = SimpleNamespace(
        config=Run.load(finished, ["detectors.clip_fraction_max=1e-9", "ppo.clip_range=1e-9", "ppo.epochs=2"]).config,
        inputs={name: stages / name for name in ("prepare", "sft", "reward")},
        out=tmp_path,
        checkpoints=tmp_path / "checkpoints",
        log=lambda line: None,
        progress=progress.track,
    )
    assert ppo.run(ctx)["updates_kept"] == 0.0
    assert all(torch.equal(t, start[n]) for kept in ("adapter", "ema") for n, t in read(tmp_path / kept).items())


def test_the_engine_has_room_for_the_judges_questions_too(finished, tmp_path, monkeypatch):
    """They come from the test side, and may be longer than all that PPO asks."""
    from pipeline.stages import ppo, watching

    config = Run.load(finished).config
    inputs = {n: finished / "stages" / n for n in ("prepare", "sft", "reward")}
    asked = ppo._prompts(SimpleNamespace(config=config, inputs=inputs), open_base(config))
    long = PromptIds(asked[0].prompt, tuple(range(20, 20 + max(len(p.ids) for p in asked) + 7)))
    monkeypatch.setattr(watching, "judge_prompts", lambda ctx, base: [long])

    class Asked(Exception):
        pass

    def open_engine(settings, *, longest, temperature):
        raise Asked(longest)

    monkeypatch.setattr(ppo, "open_engine", open_engine)
    with pytest.raises(Asked) as caught:
        ppo.run(SimpleNamespace(config=config, inputs=inputs, out=tmp_path))
    assert caught.value.args == (len(long.ids) + config.ppo.max_new_tokens,)


def test_the_report_says_who_judged(finished):
    for name in ("report.md", "report.html"):
        text = (finished / name).read_text(encoding="utf-8")
        assert "second reward model" in text and "rubric" not in text.lower(), name


def test_a_test_model_that_nothing_teaches_is_refused(tmp_path):
    head = "data: {demonstrations: a, rankings: b, heldout_prompts: c}\n"
    (tmp_path / "c.yaml").write_text(f"{head}evaluation: {{gold: test_model}}\n")
    with pytest.raises(UserError, match="set reward.test_share"):
        load_config(tmp_path / "c.yaml")
    assert load_config(tmp_path / "c.yaml", ["reward.test_share=0.5"]).judged_by == "test_model"


def test_too_large_a_share_says_so_before_anything_is_trained(finished, tmp_path):
    ctx = SimpleNamespace(
        config=Run.load(finished, ["reward.test_share=0.999999"]).config,
        inputs={name: finished / "stages" / name for name in ("prepare", "sft")},
        out=tmp_path / "out",
        checkpoints=tmp_path / "checkpoints",
        log=lambda line: None,
        progress=progress.track,
    )
    from pipeline.stages import reward

    with pytest.raises(UserError, match=r"none of 0 rankings for the reward model can be used.*reward.test_share is 0.999999"):
        reward.run(ctx)


def test_a_round_shows_no_policy_the_answers_that_taught_the_test_model(tmp_path):
    """Edits and good answers on its questions are rankings for it; as demonstrations they would teach the policy that it judges."""
    prepared = tmp_path / "stages" / "prepare"
    prepared.mkdir(parents=True)
    write_rows(prepared / "heldout_prompts.jsonl", [{"id": "h", "prompt": "Something else altogether?"}])
    shown = [Demonstration(f"d{k}", (Message("user", f"How high is hill number {k}?"),), "High.") for k in range(40)]
    lesson = SimpleNamespace(rankings=[], demonstrations=shown, again=[], unpaired=[])
    for share in (0.0, 0.5):
        base = SimpleNamespace(path=tmp_path, config=SimpleNamespace(reward=SimpleNamespace(test_share=share)))
        lot = usable(base, lesson, set())
        found = lot.demonstrations
        assert len(found) + lot.test_models == 40 and lot.held_out == 0
        assert found == [d for d in shown if not is_for_test_model(d.prompt, share)]
        assert (len(found) == 40) if share == 0 else (5 < len(found) < 35)


def test_answers_of_sft_and_base_are_held_against_the_demonstrations_they_did_not_learn(finished):
    config = Run.load(finished).config
    shown = load(finished / "stages" / "prepare" / "demonstrations.test.jsonl", "messages")
    base = open_base(config)
    base.load(POLICY, finished / "stages" / "sft" / ADAPTER, trainable=False)
    asked = [Prompt(d.id, d.prompt) for d in shown]
    scores = []
    for role in (POLICY, BASE):
        rows = answer_prompts(base, role, asked, config, samples=1, progress=progress.track, label="")
        scores.append([rouge_l(row.answer, d.response) for row, d in zip(rows, shown, strict=True)])
    card = read_card(finished / "evaluation" / "sft" / "card.json")
    found, change = card.get("rouge_l"), card.get("rouge_l_minus_base")
    assert (found.n, found.value) == (len(shown), pytest.approx(fmean(scores[0]))) and f"first {len(shown)} of {len(shown)} " in found.note
    assert change.value == pytest.approx(fmean(scores[0]) - fmean(scores[1]))


def test_the_report_in_markdown_says_how_sure_the_reward_model_is(finished):
    bins = calibration.read(finished / "evaluation" / "reward")
    text = (finished / "report.md").read_text(encoding="utf-8").split("How sure it says it is")[1].split("Good answers")[0]
    lines = [line for line in text.splitlines() if line.startswith("|")][2:]
    assert bins and [int(line.split("|")[-2]) for line in lines] == [b.pairs for b in bins]
