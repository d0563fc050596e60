"""What the failure detectors saw, in both reports."""

import re

import pytest
from made_up_run import Document, make_config, read, write

from data.errors import UserError
from pipeline.config import DetectorsConfig


def watched(run, config=None, **changes):
    looks = [{"update": u, "judge": [4.0 - u, 5.0 - u], "proxy": 0.5 + u} for u in (0, 1, 2)]
    document = {
        "judge": True, "looks": looks, "alarms": [], "rolled_back_to": 0,
        "said": "reward hacking after 2 updates: made up <b>", **changes,
    }  # fmt: skip
    write(run / "stages" / "ppo" / "detectors.json", document)
    return read(run, config)


def test_a_stopped_run_says_why_in_both_reports_and_shows_judge_and_reward(run):
    markdown, page = watched(run)
    assert "- A failure detector stopped PPO: reward hacking after 2 updates: made up &lt;b&gt;" in markdown
    assert "A failure detector stopped PPO: reward hacking after 2 updates: made up &lt;b&gt;" in page
    assert "| 2 | 2.50 | 2.50 |" in markdown and "| 0 | 4.50 | 0.500 |" in markdown
    assert "Independent judge" in page and "Reward on the judge’s prompts" in page


def test_what_watched_kto_is_told_of_kto_by_its_looks_and_without_a_reward(run):
    looks = [{"update": u, "judge": [4.0 - u, 5.0 - u], "proxy": None} for u in (0, 4, 8)]
    lines = [
        {"update": u, "episodes": 2, "kl": 0.25 * u, "entropy": 1.5, "response_tokens": 20.0 - u, "eos_rate": 0.5}
        for u in (0, 4, 8)
    ]
    config = make_config(learner="kto", judged_by="rubric", detectors=DetectorsConfig())
    markdown, page = watched(run, config, looks=looks, lines=lines)
    for text in (markdown, page):
        assert "A failure detector stopped KTO: " in text and "While KTO ran, each detector" in text
        assert "stopped PPO" not in text and "A reward that rises" not in text
        assert "judge -3.50 (best 4.50 after 0)" in text.replace("−", "-")
    assert "KTO, 3 of 3 looks:" in markdown and "| Updates | Judge |\n" in markdown and "| 4 | 0.500 |" in markdown
    assert "KTO, look by look" in page and "Reward on the judge’s prompts" not in page
    # Nothing of it is put down to PPO, which never ran.
    assert "KTO beats SFT by" in page and "KTO learnt from thumbs alone" in markdown
    assert not re.findall(r".{30}PPO.{30}", page + markdown)


def test_the_judge_s_curve_has_an_interval_at_each_look_where_prompts_are_enough(run):
    looks = [{"update": u, "judge": [float(k % 3 + u) for k in range(9)], "proxy": 0.5} for u in (0, 2)]
    figure = watched(run, looks=looks)[1].split("<b>Independent judge</b>")[1].split("</figure>")[0]
    assert figure.count('class="bar') == len(looks)
    few = [{**look, "judge": look["judge"][:5]} for look in looks]
    figure = watched(run, looks=few)[1].split("<b>Independent judge</b>")[1].split("</figure>")[0]
    assert 'class="bar' not in figure


def test_a_warning_is_told_as_one_that_stopped_nothing(run):
    alarm = {"detector": "eos_loss", "sentence": "fewer ends", "stops": False}
    markdown, _ = watched(run, alarms=[alarm], said="", rolled_back_to=None)
    assert "A failure detector warned, and PPO went on: fewer ends." in markdown and "stopped PPO" not in markdown


def test_a_run_that_nobody_watched_says_nothing_of_detectors(run):
    assert all("detector" not in text and "Independent judge" not in text for text in read(run))


def test_a_damaged_note_of_the_detectors_is_named(run):
    (run / "stages" / "ppo" / "detectors.json").write_text('{"looks": [{"judge": []}]}')
    with pytest.raises(UserError, match="detectors.json: not what the PPO stage wrote"):
        read(run)


def test_what_each_detector_saw_is_a_table_with_its_state(run):
    config = make_config(detectors=DetectorsConfig())
    alarm = {"detector": "length_drift", "sentence": "longer", "stops": True}
    markdown, html = watched(run, alarms=[alarm], config=config)
    row = next(line for line in markdown.split("## Failure detectors")[1].splitlines() if line.startswith("| length"))
    assert row.endswith("| stopped |") and "+30 % or −70 %" in row
    assert "Failure detectors" in Document(html).text and html.count("✕</i>stopped") == 1
