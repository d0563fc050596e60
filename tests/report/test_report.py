"""The report is checked on fabricated runs: numbers in round figures that no training would give."""

import json
import re
from types import SimpleNamespace

import pytest
from made_up_run import PARTS, Document, fabricate_run, make_config, read, with_entries, write

from data.errors import UserError
from pipeline.evaluation.cards import Entry
from pipeline.report import facts, provenance
from pipeline.report.write import write_report


def test_both_files_land_in_the_run_and_nothing_else_does(run):
    before = set(run.iterdir())
    markdown, html = write_report(run, make_config())
    assert (markdown, html) == (run / "report.md", run / "report.html")
    assert set(run.iterdir()) - before == {markdown, html}


def test_the_same_files_give_the_same_report(run):
    assert read(run) == read(run)


@pytest.mark.parametrize(
    ("upto", "said", "absent"),
    [
        ("base", "Nothing has finished in this run yet", ["Training", "Reward model"]),
        ("prepare", "Finished so far: Prepare; no comparison on the gold score yet", ["Training", "Reward model"]),
        ("sft", "So far: SFT beats the base model by 1.00 points", ["Reward model", "Beside best-of-n"]),
        ("reward", "So far: SFT beats the base model", ["Beside best-of-n"]),
    ],
)
def test_a_run_that_is_not_done_gives_a_shorter_report(tmp_path, upto, said, absent):
    markdown, html = read(fabricate_run(tmp_path / "r", upto))
    assert said in markdown
    assert said in Document(html).text
    for title in absent:
        assert f"## {title}" not in markdown
        assert f">{title}</h2>" not in html


def test_an_empty_run_still_has_a_report(tmp_path):
    markdown, html = read(tmp_path)
    assert "Nothing has finished in this run yet" in markdown
    assert "not reached" in markdown
    Document(html)


def test_a_stage_still_being_written_is_left_out(run):
    (run / "stages" / "ppo").rename(run / "stages" / "ppo.partial")
    (run / "evaluation" / "ppo").rename(run / "evaluation" / "ppo.partial")
    gathered = facts.gather(run, make_config())
    assert list(gathered.manifests) == ["prepare", "sft", "reward"]
    assert list(gathered.cards) == ["base", "sft", "reward"]


def test_a_metric_nobody_planned_for_is_listed_with_its_unit(run):
    markdown, html = read(run)
    assert "42.0 furlongs" in markdown
    assert "42.0 furlongs" in Document(html).text


def test_a_number_that_is_none_is_named_and_not_drawn(run):
    markdown, html = read(run)
    assert "| broken\\_metric | no number | – | 120 | value was nan |" in markdown
    assert not re.search(r'(?:x|y|x1|x2|y1|y2|cx|cy|d|points)="[^"]*nan', html)


def test_each_curve_is_drawn_once_with_its_last_value(run):
    _, html = read(run)
    for title in (
        "Reward-model score",
        "KL to the reference",
        "Response length",
        "Entropy",
        "Finished answers",
        "SFT loss",
    ):
        assert html.count(f"<figcaption><b>{title}</b>") == 1
    assert "Entropy ends at 0.840" in html


def test_markdown_shows_first_and_last_update(run):
    markdown, _ = read(run)
    assert "PPO, 8 of 20 updates:" in markdown
    assert re.search(r"^\| 0 \|", markdown, re.M)
    assert re.search(r"^\| 19 \|", markdown, re.M)


def test_best_of_n_stands_between_sft_and_ppo(run):
    markdown, html = read(run)
    section = markdown.split("## Beside best-of-n")[1].split("\n\n")[2]
    rows = re.findall(r"^\| (SFT|best of 2|PPO) \| ([\d.]+) \| (\S+)", section, re.M)
    assert rows == [("SFT", "0.00", "3.00"), ("best of 2", "0.193", "3.50"), ("PPO", "6.00", "4.50")]
    assert "best of 2 3.50" in html


@pytest.mark.parametrize(
    ("sources", "said"),
    [
        ({"model": 1.0}, "never saw the rubric"),
        ({"model": 1.0, "rubric": 0.5}, "PPO was paid by 1 × model, 0.5 × rubric."),
    ],
)
def test_the_report_says_whether_ppo_saw_the_rubric(run, sources, said):
    markdown, html = read(run, make_config(ppo=SimpleNamespace(reward_sources=sources)))
    assert said in markdown
    assert said in Document(html).text
    assert "never saw" not in "".join(read(run))


def test_differences_are_no_parts_of_the_gold_score(run):
    assert facts.gather(run, make_config()).parts("ppo", "gold_") == list(PARTS)


def test_how_the_run_was_made_is_told(run):
    told = dict(provenance.run_facts(facts.gather(run, make_config())))
    assert told["Seed"] == "7"
    assert told["Commit"] == "c0ffee"
    assert told["Versions"] == "torch 2.13.0, python 3.11"
    assert told["Started (UTC)"] == "2030-01-01T00:01:00Z"
    assert told["Time in stages and evaluations"] == "3 min 00 s"  # 10 + 20 + 30 + 40 in stages, 4 · 20 judging
    assert ("prepare/rankings.train.jsonl", "ab" * 32) in provenance.data_hashes(facts.gather(run, make_config()))


def test_two_commits_in_one_run_are_both_shown(run):
    manifest = json.loads((run / "stages/ppo/manifest.json").read_text())
    manifest["environment"]["commit"] = "decaf"
    write(run / "stages/ppo/manifest.json", manifest)
    assert dict(provenance.run_facts(facts.gather(run, make_config())))["Commit"] == "c0ffee, decaf"


@pytest.mark.parametrize("broken", ["{", "[1]"])
def test_a_broken_log_is_named_with_its_row(run, broken):
    path = run / "stages/sft/log.jsonl"
    path.write_text('{"step": 0, "loss": 1.0}\n' + broken + "\n")
    with pytest.raises(UserError, match=r"log\.jsonl row 2"):
        write_report(run, make_config())


def test_what_training_did_beside_its_task_stands_in_both_reports(run):
    for stage, ratio, agrees in (("base", None, 0.5), ("sft", 0.9, 0.6), ("ppo", 1.2, 0.7)):
        entries = [
            Entry("general_perplexity", 40.0, 40, 30.0, 50.0),
            Entry("wrong_suggested", agrees, 40, unit="share"),
        ]
        if ratio:
            entries.append(Entry("general_perplexity_ratio", ratio, 40, ratio - 0.05, ratio + 0.05))
        with_entries(run, stage, *entries)
    with_entries(
        run, "reward", Entry("probe_shuffled", 0.6, 120, 0.5, 0.7, "share"), Entry("accuracy_longer_third", 0.4, 9)
    )
    with_entries(
        run,
        "ppo",
        Entry("ema_gold", 4.6, 120, 4.4, 4.8, "points"),
        Entry("normalised_reward_gain", 0.1, 120, 0.0, 0.2, "share"),
    )
    markdown, html = read(run)
    section = markdown.split("## Beside the task")[1].split("\n## ")[0]
    assert "| over the base model's | – | 0.900 (0.850 to 0.950) | 1.20 (1.15 to 1.25) |" in section
    assert "| prefers it when it was suggested | 50.0 % | 60.0 % | 70.0 % |" in section
    assert "| shuffled words | 60.0 % (50.0 % to 70.0 %) |" in markdown
    assert (
        "PPO predicts ordinary text worse than the base model: perplexity 1.20 times as high (1.15 to 1.25)."
        in markdown
    )
    assert "SFT predicts ordinary text worse" not in markdown
    assert "only 10.0 % of the reward that PPO gained is left" in markdown
    assert "Under the probe “shuffled words” the reward model holds up on only 60.0 % of answers" in markdown
    said = Document(html).text
    for title in ("Perplexity", "Preferring a wrong answer", "Probes", "By length"):
        assert html.count(f"<figcaption><b>{title}</b>") == 1
    assert "PPO (EMA)" in said and "PPO, averaged over its updates" in html
    assert "Beside the task" not in read(fabricate_run(run.parent / "plain"))[0]


def test_what_needs_no_language_model_stands_beside_the_reward_model(run):
    note = "above “bag of words”, the best floor on these pairs: shorter 55.0 %, longer 45.0 %, bag of words 76.0 %"
    with_entries(
        run,
        "reward",
        Entry("observed_bag_of_words_accuracy", 0.333, 60, 0.55, 0.67, "share"),
        Entry("bag_of_words_accuracy", 0.76, 120, 0.72, 0.8, "share"),
        Entry("clean_accuracy_minus_best_floor", -0.01, 120, -0.05, 0.03, "share", note),
        Entry("accuracy_turn_1", 0.7, 30, 0.6, 0.8, "share"),
        Entry("accuracy_turn_2_3", float("nan"), 0, unit="share"),
        Entry("accuracy_turn_4_on", 0.5, 30, 0.4, 0.6, "share"),
    )
    markdown, html = read(run)
    section = markdown.split("## Reward model")[1].split("\n## ")[0]
    assert "| rule: bag of words | 76.0 % (72.0 % to 80.0 %) |" in section and "33.3 %" not in section
    assert "| first turn | 70.0 % (60.0 % to 80.0 %) |" in section and "| turn 4 and later | 50.0 %" in section
    assert "turns 2 and 3" not in section
    said = "minus the best rule without a language model, “bag of words”, is −1.0 pp (−5.0 pp to 3.0 pp). The rules: shorter"
    assert said in section and said in Document(html).text
    assert "not measurably better than the best rule without a language model, “bag of words”" in markdown
    assert html.count("<figcaption><b>By turn</b>") == 1 and "rule: bag of words" in html


def test_what_n_counts_is_said_above_the_numbers_of_both_reports(run):
    markdown, html = read(run)
    said = "n is how many stand behind a number: "
    assert markdown.index("## Every number") < markdown.index(said) < markdown.index("| Metric | Value |")
    assert html.index('id="h-numbers"') < html.index(said) < html.index("<details>", html.index('id="h-numbers"'))


def test_how_alike_answers_are_stands_in_both_reports(run):
    for stage, value in (("base", 0.14), ("sft", 0.11), ("ppo", 0.32)):
        with_entries(run, stage, Entry("self_bleu", value, 120, value - 0.02, value + 0.02))
    markdown, html = read(run)
    assert (
        "| self-BLEU of the answers | 0.140 (0.120 to 0.160) | 0.110 (0.090 to 0.130) | 0.320 (0.300 to 0.340) |"
        in markdown
    )
    assert html.count("<figcaption><b>Sameness of answers</b>") == 1 and "How alike a policy’s answers" in html


def test_the_data_of_a_run_are_told_with_what_was_too_long_of_them(run):
    file = run / "stages" / "prepare" / "manifest.json"
    manifest = json.loads(file.read_text())
    counts = {"demonstrations": 190, "demonstrations_test": 15, "demonstrations_too_long": 0, "rankings": 1704}
    manifest["metrics"] = {**counts, "rankings_too_long": 3, "prompts": 704, "heldout_prompts": 150}
    write(file, manifest)
    markdown, _ = read(run)
    row = next(line for line in markdown.splitlines() if line.startswith("| Prepare |"))
    assert "demonstrations 190; rankings 1,704; rankings too long 3; prompts 704; held-out prompts 150" in row
    assert "test 15" not in row and "demonstrations too long" not in row
