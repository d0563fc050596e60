"""Answers side by side, in both reports."""

import json

import pytest
from made_up_run import Document, fabricate_run, make_config, read

from data.records import Message, Prompt
from data.rows import prompt_row, write_rows
from data.votes import ASKED
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


def test_the_turns_of_a_conversation_do_not_run_together(run):
    for policy in ("base", "sft", "ppo"):
        path = run / "evaluation" / policy / "answers.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        said = "System: Be brief.\n\nUser: a*b?\n\n\n\n1. c\n\nAssistant: **d**\nso\n\nUser: e?"
        path.write_text("".join(json.dumps({**row, "prompt": said}) + "\n" for row in rows))
    markdown, html = read(run)
    shown = r"""
**System: Be brief.**

**User: a\*b?**

**1&#8203;. c**

**Assistant: \*\*d\*\* so**

**User: e?**

- *Base* ("""
    assert markdown.count(shown) == 10 and " ".join(said.split()) in Document(html).text


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


@pytest.mark.parametrize(
    ("learner", "scored", "said"),
    [
        ("ppo", "score", "Each update asks other questions; the score is the reward that PPO raises."),
        ("kto", "judge", "the same each time; the score is the judge’s."),
        ("kto", None, "the same each time; nobody scored the answers."),
    ],
)
def test_answers_of_the_training_are_shown_at_even_steps_with_who_scored_them(run, learner, scored, said):
    rows = [
        {"update": u, "prompt": f"asked {u}|{i} <b>?", "response": f"said {u:02d}", **({scored: u + i / 4} if scored else {})}
        for u in range(0, 20, 2)
        for i in range(2)
    ]
    (run / "stages" / "ppo" / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    markdown, page = read(run, make_config(learner=learner))
    # Ten moments, of which the first, the last and two at even steps between them.
    for text in (markdown, page):
        assert said in text and [u for u in range(20) if f"said {u:02d}" in text] == [0, 6, 12, 18]
        assert f"Answers while {learner.upper()} ran" in text and "4 of 10" in text
    assert "asked 0|1 &lt;b&gt;?" in page and "<b>?" not in page + markdown
    assert (f"| 6 | asked 6\\|1 &lt;b&gt;? | said 06 | {'6.25' if scored else '–'} |" in markdown), markdown


def test_what_people_asked_in_the_chat_is_not_handed_on_with_the_report(run):
    """A round's prompts are the old ones and people's own questions; `train` lets it learn from them, and no more."""
    prompts = [(f"rank-{i}", f"public {i}") for i in range(3)] + [(f"vote-1{ASKED}", "a secret"), (f"vote-2{ASKED}", "another secret")]
    for name, some in (("prompts.jsonl", prompts[:4]), ("prompts.test.jsonl", prompts[4:])):
        written = [prompt_row(Prompt(id, (Message("user", "first"), Message("assistant", "a"), Message("user", text)))) for id, text in some]
        write_rows(run / "stages" / "prepare" / name, written)
    rows = [{"update": u, "prompt": text, "response": f"said of {text}", "score": 1.0} for u, (_, text) in enumerate(prompts)]
    whole = [{**row, "prompt": f"User: first\n\nAssistant: a\n\nUser: {row['prompt']}"} for row in rows]
    for kept in (rows, whole):
        write_rows(run / "stages" / "ppo" / "samples.jsonl", kept)
        for told in read(run):
            assert "secret" not in told and "said of public 2" in told
            assert "the first few of 3 of 3" in told and "2 more are to questions that people asked in the chat" in told


def test_a_run_that_kept_no_answers_of_its_training_says_nothing_of_them(run):
    assert "Answers while" not in "".join(read(run))
