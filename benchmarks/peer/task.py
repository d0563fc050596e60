"""The task that both trainers get: prompts, and a score that is dense, deterministic and learnable. Standard library only, since each
side runs in a virtual environment of its own."""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path

THINGS = (
    *("cats", "the desert", "baking", "swimming", "clouds", "poems", "bridges", "tea", "islands", "stars"),
    *("drums", "kites", "volcanoes", "clocks", "letters", "paint", "bees", "rivers", "lamps", "markets"),
)
ASKS = (
    "Name one good thing about {}.",
    "What should a beginner know about {}?",
    "Describe {} in a sentence.",
    "Why would someone enjoy {}?",
    "Give one fact about {}.",
)


def prompts() -> list[str]:
    """A hundred chat prompts, rendered."""
    asked = (ask.format(thing) for thing in THINGS for ask in ASKS)
    return [f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n" for text in asked]


def pays(pieces: Sequence[str]) -> list[float]:
    """For every token of the vocabulary, given as text: 1 when it starts a word with a vowel, else 0."""
    return [float(p[:1] == " " and p[1:2].lower() in tuple("aeiou")) for p in pieces]


# A response of n tokens, k of which pay, scores SCALE · k / n.
SCALE = 10.0


def arguments(description: str) -> argparse.ArgumentParser:
    """What both sides are told; the meaning and the unit are the same on both."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--model", required=True, help="directory of the base model: safetensors and tokenizer")
    parser.add_argument("--json", required=True, type=Path, help="where the figures go")
    for name, default in {
        "batch": 16,
        "minibatch": 8,
        "epochs": 2,
        "response": 16,
        "updates": 8,
        "threads": 2,
        "seed": 0,
    }.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--lr", type=float, default=2e-4)
    parser.add_argument("--kl-coef", type=float, default=0.05)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument(
        "--random", type=json.loads, help="random weights in place of the model's: layers, hidden, …, as JSON; --model lends its tokenizer"
    )
    return parser


def llama(shape: dict) -> dict:
    """What `LlamaConfig` takes, of a shape's numbers."""
    return {
        "vocab_size": shape["vocabulary"], "hidden_size": shape["hidden"], "intermediate_size": shape["inner"],
        "num_hidden_layers": shape["layers"], "num_attention_heads": shape["heads"], "num_key_value_heads": shape["kv_heads"],
        "head_dim": shape["head_dim"], "tie_word_embeddings": shape["tied"], "max_position_embeddings": 4096, "pad_token_id": 0,
        "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip


class Clock:
    """Wall and CPU seconds between laps, and the peak of the process's resident memory."""

    def __init__(self, file: Path):
        self.file, self.rows = file, []
        self.start()

    def start(self) -> None:
        self._wall, self._cpu = time.monotonic(), time.process_time()

    def lap(self, **figures: float) -> None:
        gpu = self._gpu()
        row = {
            "update": len(self.rows),
            "wall_s": time.monotonic() - self._wall,
            "cpu_s": time.process_time() - self._cpu,
            "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
            **gpu,
            **{name: float(value) for name, value in figures.items()},
        }
        self.rows.append(row)
        print({name: round(value, 3) for name, value in row.items()}, flush=True)
        self.file.write_text(json.dumps(self.rows, indent=1), encoding="utf-8")
        self.start()

    @staticmethod
    def _gpu() -> dict[str, float]:
        """The card's peak, once what was sent to it is done: without waiting, a lap would end before its work."""
        torch = sys.modules.get("torch")
        if torch is None or not torch.cuda.is_initialized():
            return {}
        torch.cuda.synchronize()
        return {"gpu_peak_gb": torch.cuda.max_memory_allocated() / 1e9}
