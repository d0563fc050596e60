"""A run that never ran: its files, made up, and the two reports of it."""

import json
import random
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

from pipeline.evaluation.cards import Card, Entry, write_card
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
            write_card(out / "card.json", card_of(stage))
            write(out / "manifest.json", {"stage": f"evaluate-{stage}", "environment": {"seconds": 20.0}})
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
    write(folder / "manifest.json", manifest)


def card_of(stage: str) -> Card:
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


def write(path: Path, document: dict) -> None:
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


def read(run_dir, config=None):
    markdown, html = write_report(run_dir, config or make_config())
    return markdown.read_text(encoding="utf-8"), html.read_text(encoding="utf-8")


def with_entries(run, stage, *entries):
    file = run / "evaluation" / stage / "card.json"
    card = Card.from_dict(json.loads(file.read_text()))
    write_card(file, Card(stage, (*card.entries, *entries)))
