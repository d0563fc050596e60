"""The reward models of benchmarks/people.py: trained above cached trunk states, one file of margins as each is done."""

from __future__ import annotations

import time
from pathlib import Path

import torch

from benchmarks.labelled import Labelled, encode
from benchmarks.people import PARTS, SETTINGS, Fit, compared, join, save
from benchmarks.trunk_cache import TrunkCache
from pipeline.adapters import SharedBase
from pipeline.config import LoraConfig, ModelConfig, RewardConfig
from pipeline.models import load
from reward.model import ScalarHead
from reward.train import train


class Models:
    """The embedded base, and the states of its trunk on disk."""

    def __init__(self, cache: Path, last_layers: int):
        model, self.tokenizer = load(ModelConfig())
        self.base = SharedBase(model, self.tokenizer, LoraConfig(last_layers=last_layers))
        self.cache = TrunkCache(self.base, cache, f"{ModelConfig().name} {model.dtype}")

    def read(self, sets: dict[str, list[Labelled]]) -> None:
        """Fills the cache, set by set, and says how fast."""
        spent, tokens = time.process_time(), 0

        def count(more: int) -> None:
            nonlocal tokens
            tokens += more

        for name, items in sets.items():
            encoded = [encode(self.tokenizer, item)[0] for item in items]
            self.cache.fill([(r.prompt, r.answers) for r in encoded], count)
            cpu = time.process_time() - spent
            print(f"{name}: {len(items)} lists; so far {tokens} tokens, {cpu:.0f} CPU-s", flush=True)

    def train(self, design: str, fits: list[Fit], command: str) -> None:
        """Trains what is not done yet; `benchmarks/results/people_<design>.json` joins what is."""
        for fit in fits:
            if not (PARTS / f"{fit.name}.json").exists():
                self._fit(fit, PARTS / f"{fit.name}.json")
                join(design, fits, command)
        join(design, fits, command)

    def _fit(self, fit: Fit, file: Path) -> None:
        started, steps, role = time.process_time(), [], fit.name
        torch.manual_seed(fit.seed)
        self.base.add(role, trainable=True)
        head = ScalarHead(self.base.hidden_size)

        def on_step(figures: dict, _) -> None:
            steps.append(round(figures["loss"], 4))
            if len(steps) % 20 == 0:
                spent = time.process_time() - started
                print(f"{fit.name} step {len(steps)}: loss {sum(steps[-20:]) / 20:.3f}, {spent:.0f} CPU-s", flush=True)

        train(
            lambda lists: self.cache.encode(lists, role),
            head,
            self.base.parameters(role),
            [encode(self.tokenizer, item)[0] for item in fit.train],
            RewardConfig(**SETTINGS),
            seed=fit.seed,
            on_step=on_step,
        )
        made = [(item, *encode(self.tokenizer, item)) for item in fit.tested()]
        lines = [line for item, ranking, *_ in made for line in self._margins(fit, item, ranking, head)]
        found = {
            "trained_on": len(fit.train),
            "cpu_s": round(time.process_time() - started),
            "losses": steps,
            "tested": len(made),
            "prompts_cut": sum(cut > 0 for _, _, cut, _ in made),
            "answers": sum(len(item.answers) for item, *_ in made),
            "answers_cut": sum(cut for *_, cut in made),
        }
        save(file, found, lines)
        for parameter in self.base.parameters(role):
            parameter.requires_grad_(False)

    @torch.no_grad()
    def _margins(self, fit: Fit, item: Labelled, ranking, head: ScalarHead) -> list[dict]:
        """Better minus worse, in the order of `pair_lines`."""
        scores = head(self.cache.encode([(ranking.prompt, ranking.answers)], fit.name)).tolist()
        return [
            {"fit": fit.name, "list": item.id, "margin": round(scores[better] - scores[worse], 5)}
            for better, worse in compared(item)
        ]
