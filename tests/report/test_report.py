"""The report is checked on fabricated runs: numbers in round figures that no training would give."""

import itertools
import json
import math
import random
import re
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import pytest

from data.errors import UserError
from pipeline.config import DetectorsConfig
from pipeline.evaluation import accepted
from pipeline.evaluation.cards import Card, Entry, write_card
from pipeline.evaluation.standings import Pair, Standings
from pipeline.evaluation.standings_file import keep
from pipeline.evaluation.statistics import Estimate
from pipeline.report import charts, curves, facts, provenance, sentences, tables, wording
from pipeline.report.markdown import escape
from pipeline.report.side_by_side import side_by_side
from pipeline.report.write import write_report

PARTS = ("finished", "concise", "relevant", "direct", "varied", "plain")
ATTACK = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"


def make_config(**changes):
    settings = {
        "seed": 7,
        "run_name": "made-up",
        "model": SimpleNamespace(name="made-up-model", dtype="auto", quantization="none"),
        "evaluation": SimpleNamespace(side_by_side=10, samples_per_prompt=2, max_new_tokens=40, temperature=0.7),
        "gates": {
            "sft.eos_rate": {"min": 0.3},
            "reward.clean_accuracy": {"min": 0.65},
            "ppo.gold_minus_sft.ci_low": {"min": 0.0},
            "ppo.kl_to_reference": {"min": 1.0, "max": 5.0},
        },
    }
    return SimpleNamespace(**{**settings, **changes})


def fabricate_run(run_dir: Path, upto: str = "ppo", prompts: int = 24, text: str = "") -> Path:
    """A run directory with made-up numbers, up to the stage `upto`; `text` is put into every prompt and answer."""
    rng = random.Random(0)
    order = ("base", "prepare", "sft", "reward", "ppo")
    for place, stage in enumerate(order[: order.index(upto) + 1]):
        if stage != "base":
            _stage(run_dir / "stages" / stage, stage, 10.0 * place)
        if stage in ("base", "sft", "ppo"):
            _answers(run_dir / "evaluation" / stage, stage, prompts, text, rng)
        if stage != "prepare":
            out = run_dir / "evaluation" / stage
            out.mkdir(parents=True, exist_ok=True)
            write_card(out / "card.json", _card(stage))
            _write(out / "manifest.json", {"stage": f"evaluate-{stage}", "environment": {"seconds": 20.0}})
    for stage, rows in _logs(rng).items():
        if (folder := run_dir / "stages" / stage).exists():
            (folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return run_dir


def _stage(folder: Path, stage: str, seconds: float) -> None:
    manifest = {
        "stage": stage,
        "key": "0" * 64,
        "artifacts": [{"path": "rankings.train.jsonl", "sha256": "ab" * 32, "bytes": 3}] if stage == "prepare" else [],
        "metrics": {"demonstrations": 222.0} if stage == "prepare" else {},
        "environment": {
            "commit": "c0ffee",
            "versions": {"torch": "2.13.0", "python": "3.11"},
            "device": "cpu",
            "seed": 7,
            "started_utc": f"2030-01-01T00:0{int(seconds) // 10}:00Z",
            "seconds": seconds,
        },
    }
    folder.mkdir(parents=True)
    _write(folder / "manifest.json", manifest)


def _card(stage: str) -> Card:
    def entry(metric, value, spread=None, unit="", note=""):
        low, high = (None, None) if spread is None else (value - spread, value + spread)
        return Entry(metric, value, 120, low, high, unit, note)

    level = {"base": 2.0, "sft": 3.0, "ppo": 4.5}.get(stage)
    if stage == "reward":
        entries = [
            entry("observed_accuracy", 0.62, 0.03, "share"),
            entry("clean_accuracy", 0.75, 0.03, "share", "720 pairs"),
            *(entry(f"clean_accuracy_{p}", 0.55 + 0.05 * k, 0.04, "share") for k, p in enumerate(PARTS)),
            entry("length_rule_accuracy", 0.58, 0.03, "share"),
            entry("ece", 0.04, None, "share"),
        ]
        return Card(stage, tuple(entries))
    entries = [entry("gold", level, 0.2, "points")]
    entries += [entry(f"gold_{p}", level / 6 + 0.03 * k, 0.05, "share") for k, p in enumerate(PARTS)]
    entries += [entry("eos_rate", level / 5, 0.04, "share"), entry("answer_tokens", 40 - 4 * level, 2, "tokens")]
    if stage == "sft":
        entries += [
            entry("base_heldout_nll", 2.5, 0.1, "nats/token"),
            entry("heldout_nll", 1.5, 0.1, "nats/token"),
            entry("gold_minus_base", 1.0, 0.25, "points"),
        ]
    if stage == "ppo":
        entries += [
            entry("gold_minus_sft", 1.5, 0.3, "points"),
            entry("gold_concise_minus_sft", 0.25, 0.1, "share"),
            entry("best_of_2_gold", 3.5, 0.2, "points"),
            entry("best_of_2_kl", 0.193, None, "nats/sequence"),
            entry("gold_minus_best_of_2", 1.0, 0.3, "points"),
            entry("kl_to_reference", 6.0, 0.5, "nats/sequence", "k1"),
            entry("unheard_of_metric", 42.0, None, "furlongs"),
            entry("broken_metric", float("nan")),
        ]
    return Card(stage, tuple(entries))


def _answers(folder: Path, stage: str, prompts: int, text: str, rng: random.Random) -> None:
    level = {"base": 2.0, "sft": 3.0, "ppo": 4.5}[stage]
    words = {"base": 34, "sft": 18, "ppo": 12}[stage]
    rows = []
    for k in range(prompts):
        for sample in range(2):
            score = level + rng.gauss(0, 0.6)
            sentence = " ".join(["Made", "up", "words", "in", "a", "row"] * 9)[: 6 * words]
            rows.append(
                {
                    "prompt_id": f"p{k}",
                    "topic": f"topic {k % 5}",
                    "prompt": f"Made-up question number {k}? {text}",
                    "sample": sample,
                    "answer": f"{stage} sample {sample}: {sentence}. {text}",
                    "finished": (k + sample) % 5 < level,
                    "tokens": words,
                    "ids": [1, 2],
                    "proxy": None if stage == "base" else score - 3 + rng.gauss(0, 0.5),
                    "gold": score,
                    "parts": {},
                }
            )
    folder.mkdir(parents=True)
    lines = (json.dumps(row, ensure_ascii=True) + "\n" for row in rows)
    (folder / "answers.jsonl").write_text("".join(lines))


def _logs(rng: random.Random) -> dict[str, list[dict]]:
    def noise(scale):
        return rng.gauss(0, scale)

    ppo = [
        {
            "update": k,
            "score": -0.5 + 0.1 * k + noise(0.08),
            "kl": 0.0 if k == 0 else 0.3 * k + noise(0.15),
            "entropy": 1.6 - 0.04 * k,
            "response_tokens": 28 - 0.7 * k + noise(0.8),
            "eos_rate": min(1.0, 0.5 + 0.028 * k),
        }
        for k in range(20)
    ]
    sft = [{"step": k, "loss": 1.4 + 1.2 * 0.95**k + noise(0.12)} for k in range(90)]
    reward = [
        {"step": k, "loss": 0.7 - 0.001 * k + noise(0.04), "accuracy": 0.5 + 0.0015 * k + noise(0.05)}
        for k in range(150)
    ]
    return {"sft": sft, "reward": reward, "ppo": ppo}


def _write(path: Path, document: dict) -> None:
    path.write_text(json.dumps(document))


class Document(HTMLParser):
    """What a browser would build: elements with their attributes, and the text outside script and style."""

    VOID = frozenset({"meta", "input", "wbr", "br", "img", "line", "polyline", "circle", "path", "link"})

    def __init__(self, source: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.stack: list[str] = []
        self.said: list[str] = []
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag in self.VOID:
            return
        assert self.stack, f"</{tag}> closes nothing"
        assert self.stack.pop() == tag

    def handle_data(self, data):
        if not {"script", "style"} & set(self.stack):
            self.said.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.said).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture
def run(tmp_path):
    return fabricate_run(tmp_path / "r1")


def read(run_dir, config=None):
    markdown, html = write_report(run_dir, config or make_config())
    return markdown.read_text(encoding="utf-8"), html.read_text(encoding="utf-8")


def test_both_files_land_in_the_run_and_nothing_else_does(run):
    before = set(run.iterdir())
    markdown, html = write_report(run, make_config())
    assert (markdown, html) == (run / "report.md", run / "report.html")
    assert set(run.iterdir()) - before == {markdown, html}


def test_the_same_files_give_the_same_report(run):
    assert read(run) == read(run)


def test_the_verdict_is_one_sentence_with_interval_and_missed_gate(run):
    sentence = (
        "PPO beats SFT by 1.50 points on the gold score (95 % interval 1.20 to 1.80, 120 held-out prompts); "
        "3 of 4 gates passed, missed: ppo.kl_to_reference."
    )
    markdown, html = read(run)
    assert sentence in markdown.replace("\\_", "_")
    assert sentence in Document(html).text


@pytest.mark.parametrize(
    ("value", "spread", "said"),
    [
        (
            -1.0,
            0.5,
            "PPO is worse than SFT by 1.00 points on the gold score (95 % interval −1.50 to −0.500, 120 held-out",
        ),
        (
            0.2,
            0.5,
            "PPO cannot be told apart from SFT on the gold score: +0.200 points (95 % interval −0.300 to 0.700, 1",
        ),
        (0.5, None, "PPO scores 0.500 points above SFT on the gold score, without an interval"),
    ],
)
def test_the_verdict_does_not_flatter(run, value, spread, said):
    low, high = (None, None) if spread is None else (value - spread, value + spread)
    card = Card("ppo", (Entry("gold_minus_sft", value, 120, low, high, "points"),))
    write_card(run / "evaluation/ppo/card.json", card)
    assert sentences.verdict(facts.gather(run, make_config(gates={}))).startswith(said)


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


def test_gates_are_shown_with_value_interval_bound_and_what_to_do(run):
    markdown, html = read(run)
    plain = markdown.replace("\\_", "_")
    assert "| ppo.kl_to_reference | distance from SFT at the end | 6.00 nats/sequence | 5.50 to 6.50 | 1 to 5 nats/sequence | missed |" in plain
    right = "share of pairs without noise that the reward model puts in the right order"
    assert f"| reward.clean_accuracy | {right} | 75.0 % | 72.0 % to 78.0 % | at least 65 % | passed |" in plain
    assert "The policy drifted; raise ppo.kl_coef." in plain
    assert "The policy drifted; raise ppo.kl_coef." in Document(html).text


def test_a_gate_that_was_not_reached_shows_its_bound_and_no_number(tmp_path):
    markdown, html = read(fabricate_run(tmp_path / "r", "sft"))
    assert "| ppo.kl_to_reference | distance from SFT at the end | – | – | 1 to 5 | not reached |" in markdown.replace("\\_", "_")
    assert "1 to 5 · not reached" in Document(html).text


def test_an_accepted_gate_is_shown_with_its_reason(run):
    accepted.accept(run, "ppo.kl_to_reference", "a <b>pilot</b>")
    markdown, html = read(run)
    assert "3 of 4 gates passed, accepted although missed: ppo.kl_to_reference" in markdown.replace("\\_", "_")
    assert "Accepted: a <b>pilot</b>" in Document(html).text
    assert "a &lt;b&gt;pilot&lt;/b&gt;" in markdown


def test_a_metric_nobody_planned_for_is_listed_with_its_unit(run):
    markdown, html = read(run)
    assert "42.0 furlongs" in markdown
    assert "42.0 furlongs" in Document(html).text


def test_a_number_that_is_none_is_named_and_not_drawn(run):
    markdown, html = read(run)
    assert "| broken\\_metric | no number | – | 120 | value was nan |" in markdown
    assert not re.search(r'(?:x|y|x1|x2|y1|y2|cx|cy|d|points)="[^"]*nan', html)


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


def test_text_from_models_cannot_become_markup(tmp_path):
    markdown, html = read(fabricate_run(tmp_path / "r", text=ATTACK))
    document = Document(html)
    assert ATTACK in document.text
    assert len(document.all("script")) == 1
    assert not document.all("img")
    assert "<script" not in markdown
    assert "<img" not in markdown


def test_names_from_cards_and_manifests_cannot_become_markup(run):
    payload = "\"'><script>x</script>"
    card = _card("ppo")
    card = Card("ppo", (*card.entries, Entry(f"gold_{payload}", 0.5, 1, 0.4, 0.6, payload, payload)))
    write_card(run / "evaluation/ppo/card.json", card)
    manifest = json.loads((run / "stages/sft/manifest.json").read_text())
    manifest["environment"]["commit"] = manifest["environment"]["versions"][payload] = payload
    _write(run / "stages/sft/manifest.json", manifest)
    _, html = read(run, make_config(gates={f"ppo.{payload}": {"min": 0.0}}))
    document = Document(html)
    assert len(document.all("script")) == 1
    assert payload in document.text
    assert not [a for _, attributes in document.elements for a in attributes if a.startswith("on")]


@pytest.mark.parametrize("odd", ["\ud800", "\x00", "\x1b[31m", "\u2028", "\ufffe", "\u202e"])
def test_text_that_no_file_could_hold_is_replaced(tmp_path, odd):
    markdown, html = read(fabricate_run(tmp_path / "r", text=f"before{odd}after"))
    assert "before" in markdown
    Document(html)
    assert not re.search(r"[\x00\x1b\ufffe\u202e]", markdown + html)


@pytest.mark.parametrize(
    "attack",
    [
        "[click](javascript:alert(1))",
        "![x](http://tracker.example/a.png)",
        "**bold** _it_ `code` | cell | ~~gone~~",
        "# heading",
        "1. list",
        "- item",
        "line\n\n| a | b |\n|---|---|",
        "https://tracker.example",
        "---",
    ],
)
def test_markdown_from_models_stays_text(attack):
    escaped = escape(attack)
    assert "\n" not in escaped
    assert not re.search(r"(?<!\\)[\[\]`*_|~!<>]", escaped)
    assert not re.match(r"#|[+-]( |-|$)|\d+[.)]( |$)", escaped)
    assert "https://" not in escaped


@pytest.mark.parametrize("plain", ["+0.81 points", "12.5 nats", "0.193", "3 of 4", "well-known", "−1.5"])
def test_numbers_and_plain_words_are_left_as_they_are(plain):
    assert escape(plain) == plain


def test_the_page_needs_no_network(run):
    _, html = read(run)
    document = Document(html)
    assert not document.all("link")
    assert not [a for _, attributes in document.elements for a in attributes if a in ("src", "srcset", "action")]
    assert all(a["href"].startswith("#") for a in document.all("a"))
    assert not re.search(r"url\(|@import|https?:", html)
    assert "default-src &#x27;none&#x27;" in html or "default-src 'none'" in html


def test_every_figure_and_table_can_be_read_without_seeing_it(run):
    document = Document(read(run)[1])
    count = len(document.all("figure"))
    assert count >= 12
    assert len(document.all("figcaption")) == count
    drawings = [a for a in document.all("svg") if a.get("aria-hidden") != "true"]
    assert len(drawings) == count
    assert all(a.get("role") == "img" for a in drawings)
    assert len(document.all("caption")) == len(document.all("table"))
    assert all("scope" in a for a in document.all("th"))
    assert document.all("html")[0]["lang"] == "en"


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
    _write(run / "stages/ppo/manifest.json", manifest)
    assert dict(provenance.run_facts(facts.gather(run, make_config())))["Commit"] == "c0ffee, decaf"


@pytest.mark.parametrize("broken", ["{", "[1]"])
def test_a_broken_log_is_named_with_its_row(run, broken):
    path = run / "stages/sft/log.jsonl"
    path.write_text('{"step": 0, "loss": 1.0}\n' + broken + "\n")
    with pytest.raises(UserError, match=r"log\.jsonl row 2"):
        write_report(run, make_config())


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0.0, "0.00"),
        (0.00123, "0.0012"),
        (0.0996, "0.100"),
        (0.123456, "0.123"),
        (0.996, "1.00"),
        (1.234, "1.23"),
        (-12.34, "−12.3"),
        (123.4, "123"),
        (1234.5, "1,234"),
    ],
)
def test_numbers_are_written_with_three_digits(value, said):
    assert wording.number(value) == said


def test_a_share_is_per_cent_and_a_difference_of_shares_percentage_points():
    assert wording.figure(Entry("eos_rate", 0.971, 1, unit="share")) == "97.1 %"
    assert wording.figure(Entry("eos_rate_minus_sft", 0.25, 1, unit="share")) == "+25.0 pp"
    assert wording.figure(Entry("eos_rate_minus_sft", -0.25, 1, unit="share")) == "−25.0 pp"


@pytest.mark.parametrize(
    ("seconds", "said"), [(None, "–"), (3.21, "3.2 s"), (59.4, "59 s"), (125, "2 min 05 s"), (3725, "1 h 02 min")]
)
def test_durations_are_written_in_the_unit_that_fits(seconds, said):
    assert wording.duration(seconds) == said


def test_the_rolling_mean_looks_back_only_and_skips_holes():
    nan = float("nan")
    assert curves.rolling_mean([1, 3, nan, 5], 2) == [1, 2, 3, 5]


def test_ticks_are_round_and_inside():
    assert charts.nice_ticks(0, 1) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    assert charts.nice_ticks(-0.31, 0.92) == [-0.25, 0, 0.25, 0.5, 0.75]
    assert charts.nice_ticks(3, 3) == [3]


@pytest.mark.parametrize("label_width", [84, 112, 138, 200])
@pytest.mark.parametrize("ends", [(0.08, 1.0), (0.4, 0.95), (-0.1, 0.02)])
def test_the_labels_of_an_axis_leave_room_between_each_other(label_width, ends):
    def show(x):
        return f"{100 * x:.0f} %"

    mark = charts.Mark("a", sum(ends) / 2, *ends)
    drawn = charts.interval_rows("t", [("a", [mark])], show=show, label_width=label_width)
    ticks = [(float(x), said) for x, said in re.findall(r'class="tick" x="([\d.]+)"[^>]*>([^<]+)<', drawn)]
    assert len(ticks) >= 2
    # Eleven pixels of type: a digit is about six wide. Half of either label lies between the two middles.
    for (left, first), (right, second) in itertools.pairwise(ticks):
        assert right - left - 6 * (len(first) + len(second)) / 2 >= 8, ticks


def test_labels_are_moved_apart_and_no_further():
    assert charts.spread([10, 50], 13) == [10, 50]
    close = charts.spread([10, 12], 13)
    assert close[1] - close[0] == 13


def test_a_hole_in_a_curve_is_a_hole():
    drawn = charts.line_chart("t", [charts.Line("a", [0, 1, 2, 3], [1, 2, float("nan"), 4])], x_name="x", show=str)
    assert drawn.count("<polyline") == 2
    assert charts.line_chart("t", [charts.Line("a", [0], [float("nan")])], x_name="x", show=str) == ""


def watched(run, config=None, **changes):
    looks = [{"update": u, "judge": [4.0 - u, 5.0 - u], "proxy": 0.5 + u} for u in (0, 1, 2)]
    document = {
        "judge": True, "looks": looks, "alarms": [], "rolled_back_to": 0,
        "said": "reward hacking after 2 updates: made up <b>", **changes,
    }  # fmt: skip
    _write(run / "stages" / "ppo" / "detectors.json", document)
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


def test_bars_stand_at_their_points_and_widen_the_axis():
    line = charts.Line("a", [0, 10], [1.0, 2.0], ends=[(0.0, 2.0), (-8.0, 12.0)])
    drawn = charts.line_chart("t", [line], x_name="x", show=str)
    bars = [dict(re.findall(r'([xy][12])="([^"]+)"', bar)) for bar in re.findall(r'<line class="bar[^>]+>', drawn)]
    assert len(bars) == 2 and bars[0]["x1"] == bars[0]["x2"] != bars[1]["x1"]
    lengths = [float(bar["y1"]) - float(bar["y2"]) for bar in bars]
    # Twenty units of the axis against two, read off the drawing.
    assert lengths[1] / lengths[0] == pytest.approx(10, rel=0.02)


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


def with_entries(run, stage, *entries):
    file = run / "evaluation" / stage / "card.json"
    card = Card.from_dict(json.loads(file.read_text()))
    write_card(file, Card(stage, (*card.entries, *entries)))


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


def test_how_alike_answers_are_stands_in_both_reports(run):
    for stage, value in (("base", 0.14), ("sft", 0.11), ("ppo", 0.32)):
        with_entries(run, stage, Entry("self_bleu", value, 120, value - 0.02, value + 0.02))
    markdown, html = read(run)
    assert (
        "| self-BLEU of the answers | 0.140 (0.120 to 0.160) | 0.110 (0.09 to 0.130) | 0.320 (0.300 to 0.340) |"
        in markdown
    )
    assert html.count("<figcaption><b>Sameness of answers</b>") == 1 and "How alike 120 answers" in html


def test_a_gate_on_benchmarks_that_nobody_asked_says_so(run):
    gate = "benchmarks.ppo_gsm8k_exact_match.ci_low"
    markdown, html = read(run, make_config(gates={gate: {"min": 0.1}, "sft.eos_rate": {"min": 0.3}}))
    assert f"| {gate} | – | – | – | at least 0.1 | not measured yet |" in markdown.replace("\\_", "_")
    assert "the one gate passed, 1 not measured yet." in markdown and 'class="state not-measured-yet"' in html


def test_what_each_detector_saw_is_a_table_with_its_state(run):
    config = make_config(detectors=DetectorsConfig())
    alarm = {"detector": "length_drift", "sentence": "longer", "stops": True}
    markdown, html = watched(run, alarms=[alarm], config=config)
    row = next(line for line in markdown.split("## Failure detectors")[1].splitlines() if line.startswith("| length"))
    assert row.endswith("| stopped |") and "+30 % or −70 %" in row
    assert "Failure detectors" in Document(html).text and html.count("✕</i>stopped") == 1


def test_a_gate_that_only_warned_is_neither_passed_nor_missed(run):
    gates_now = {"ppo.gold_minus_sft": {"min": 9.0, "warn": True}, "ppo.kl_to_reference": {"min": 1.0}}
    markdown, html = read(run, make_config(gates=gates_now))
    assert (
        "1 of 2 gates passed, 1 warned" in markdown
        and "| warned |" in markdown
        and "missed" not in markdown.split("## Gates")[0]
    )
    assert 'class="state warned"' in html


def people_said(first="ppo", **changes):
    """30 votes in round figures; the second pair has too few conversations for an interval."""
    pairs = (
        Pair(first, "sft", 12, 6, 4, 2, Estimate(0.625, 0.45, 0.75), 0.2, 0.4, 5, 20, "conversations"),
        Pair(first, "base", 5, 1, 0, 0, Estimate(5 / 6, math.nan, math.nan), 0.2, 0.4, 3, 6, "conversations"),
    )
    places = (
        (
            (first, Estimate(80.0, 20.0, 140.0)),
            ("sft", Estimate(-10.0, -60.0, 40.0)),
            ("base", Estimate(-70.0, -130.0, -10.0)),
        ),
    )
    known = {
        "votes": 30, "people": 5, "conversations": 26, "pairs": pairs, "places": places, "unplaced": (),
        "first_side": Estimate(0.5, 0.32, 0.68), "decisive": 24, "agreement": None, "judged_twice": 0, "agreement_of": {},
        "left_out": {"taken back": 2, "skipped": 1},
    }  # fmt: skip
    return Standings(**{**known, **changes})


def test_what_people_prefer_is_there_once_it_was_counted(run):
    assert all("What people prefer" not in text for text in read(run))
    keep(run, people_said())
    markdown, html = read(run)
    part = markdown.split("## What people prefer")[1].split("\n## ")[0]
    assert "30 blind votes between 3 checkpoints, of 5 people in 26 conversations" in part
    assert "| ppo over sft | 62.5 % (45.0 % to 75.0 %) | 12 | 6 | 4 | 2 | 5 | p = 0.400 |" in part
    assert "| ppo over base | 83.3 % | 5 | 1 | 0 | 0 | 3 | p = 0.400 |" in part
    assert "| ppo | 80.0 (20.0 to 140) |" in part and "| base | −70.0 (−130 to −10.0) |" in part
    assert "50.0 % (32.0 % to 68.0 %) of 24 choices of a side" in part and "3 more choices are no such votes" in part
    said = Document(html).text
    assert "What people prefer" in said and "12 won, 6 lost" in said and "no interval" in said
    for title in ("Preferred", "Places"):
        assert html.count(f"<figcaption><b>{title}</b>") == 1
    assert read(run) == (markdown, html)
    keep(run, people_said(agreement=Estimate(0.75, 0.5, 0.9), judged_twice=8))
    assert all("Two people agreed in 75.0 % (50.0 % to 90.0 %) of 8 verdicts" in text for text in read(run))


def test_who_has_no_place_is_named_and_a_checkpoint_s_name_is_only_text(run):
    keep(run, people_said(ATTACK, places=(), unplaced=(f"between {ATTACK} and the others one side never lost",)))
    markdown, html = read(run)
    assert "No places: between" in markdown and "Places by Bradley-Terry" not in markdown
    assert "<script>alert" not in html and "<img" not in html and "<img" not in markdown


def test_the_data_of_a_run_are_told_with_what_was_too_long_of_them(run):
    file = run / "stages" / "prepare" / "manifest.json"
    manifest = json.loads(file.read_text())
    counts = {"demonstrations": 190, "demonstrations_test": 15, "demonstrations_too_long": 0, "rankings": 1704}
    manifest["metrics"] = {**counts, "rankings_too_long": 3, "prompts": 704, "heldout_prompts": 150}
    _write(file, manifest)
    markdown, _ = read(run)
    row = next(line for line in markdown.splitlines() if line.startswith("| Prepare |"))
    assert "demonstrations 190; rankings 1,704; rankings too long 3; prompts 704; held-out prompts 150" in row
    assert "test 15" not in row and "demonstrations too long" not in row
