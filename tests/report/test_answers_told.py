"""Answers side by side, in both reports."""

import json

from made_up_run import Document, fabricate_run, make_config, read

from pipeline.report import facts, tables
from pipeline.report.side_by_side import side_by_side


def test_side_by_side_shows_the_wanted_prompts_evenly_and_the_first_sample(run):
    pairs = side_by_side(facts.gather(run, make_config()))
    assert len(pairs) == 24
    assert [k for k, pair in enumerate(pairs) if pair.shown] == [0, 2, 4, 7, 9, 12, 14, 16, 19, 21]
    assert {row["sample"] for pair in pairs for _, row in pair.answers} == {0}
    assert [policy for policy, _ in pairs[0].answers] == ["base", "sft", "ppo"]
    markdown, html = read(run)
    articles = Document(html).all("article")
    assert len(articles) == 24
    assert sum("hidden" not in a for a in articles) == 10
    assert markdown.count("- *PPO* (") == 10


def test_a_prompt_that_one_policy_did_not_answer_is_not_compared(run):
    path = run / "evaluation/ppo/answers.jsonl"
    rows = path.read_text().splitlines(keepends=True)
    path.write_text("".join(rows[2:]))  # both samples of p0
    assert len(side_by_side(facts.gather(run, make_config()))) == 23


def test_fewer_prompts_than_wanted_are_all_shown(tmp_path):
    run_dir = fabricate_run(tmp_path / "r", prompts=3)
    assert sum(pair.shown for pair in side_by_side(facts.gather(run_dir, make_config()))) == 3


def test_answers_rescored_for_ppo_replace_those_without_a_proxy(run):
    gathered = facts.gather(run, make_config())
    assert set(tables.proxy_and_gold(gathered)) == {"sft", "ppo"}
    rows = [json.loads(line) for line in (run / "evaluation/sft/answers.jsonl").read_text().splitlines()]
    bare = "".join(json.dumps({**row, "proxy": None}) + "\n" for row in rows)
    (run / "evaluation/sft/answers.jsonl").write_text(bare)
    assert set(tables.proxy_and_gold(facts.gather(run, make_config()))) == {"ppo"}
    rescored = "".join(json.dumps({**row, "proxy": 1.0, "gold": 2.0}) + "\n" for row in rows)
    (run / "evaluation/ppo/sft_answers.jsonl").write_text(rescored)
    assert tables.proxy_and_gold(facts.gather(run, make_config()))["sft"] == [(1.0, 2.0)] * 24
