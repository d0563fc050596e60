"""Thumbs, and a stage's context over them, for tests of KTO."""

from pathlib import Path
from types import SimpleNamespace

import torch

from data.records import Message, Ranking, Thumb
from data.rows import ranking_row, thumb_row, write_rows
from pipeline import progress
from pipeline.adapters import POLICY
from pipeline.config import load_config
from pipeline.roles import ADAPTER, open_base

SETTINGS = ("threads=1", "learner=kto", "kto.batch_size=8", "kto.learning_rate=5e-3", "kto.epochs=2")


def thumbs(ups: int, downs: int) -> list[Thumb]:
    """The more an answer says "yes", the better."""
    asked = lambda i: (Message("user", f"question {i}?"),)  # noqa: E731
    return [
        *(Thumb(f"u{i}", asked(i), "yes yes yes", True) for i in range(ups)),
        *(Thumb(f"d{i}", asked(100 + i), "no no no", False, finished=False) for i in range(downs)),
    ]


def make_context(folder: Path, *settings: str) -> SimpleNamespace:
    """The context of KTO's stage over 36 thumbs and an SFT adapter that is not the identity; `lines` is what it logs."""
    config = load_config(Path("configs/smoke.yaml"), [*SETTINGS, *settings])
    base = open_base(config)
    base.add(POLICY, trainable=False)
    generator = torch.Generator().manual_seed(0)
    drawn = {name: torch.randn(t.shape, generator=generator) * 0.1 for name, t in base.state(POLICY).items()}
    base.load_state(POLICY, drawn)
    base.save(POLICY, folder / "sft" / ADAPTER)
    for name in ("prepare", "out"):
        (folder / name).mkdir()
    write_rows(folder / "prepare" / "thumbs.train.jsonl", map(thumb_row, thumbs(24, 12)))
    # What the detectors ask: the questions of the test side that nobody learns from, nor is asked at the end.
    questions = {"prompts": "u1 u2", "heldout_prompts": "h1", "prompts.test": "u1 h1 a b c d e f g h i"}
    for name, asked in questions.items():
        write_rows(folder / "prepare" / f"{name}.jsonl", [{"prompt": question} for question in asked.split()])
    ranking = Ranking("r", (Message("user", "j"),), ("yes", "no"), (0, 1), (True, True))
    write_rows(folder / "prepare" / "rankings.test.jsonl", [ranking_row(ranking)])
    log = []
    return SimpleNamespace(
        config=config, inputs={n: folder / n for n in ("prepare", "sft")}, out=folder / "out", checkpoints=folder / "c",
        log=log.append, lines=log, progress=progress.track,
    )  # fmt: skip
