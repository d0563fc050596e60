"""A tiny random model for tests that need one, made once."""

import os
from types import SimpleNamespace

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch

from pipeline.adapters import SharedBase
from pipeline.config import LoraConfig, ModelConfig
from pipeline.models import load

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tokenizer():
    return load(ModelConfig(name="tiny-random", dtype="float32"))[1]


@pytest.fixture
def make_base():
    """A fresh tiny base; roles named in the call get adapters with random weights, so that they differ."""

    def make(*roles: str, last_layers: int | None = 2, trainable: bool = True) -> SharedBase:
        model, tokenizer = load(ModelConfig(name="tiny-random", dtype="float32"))
        base = SharedBase(model, tokenizer, LoraConfig(rank=4, alpha=8.0, last_layers=last_layers))
        generator = torch.Generator().manual_seed(1)
        for role in roles:
            base.add(role, trainable=trainable)
            for parameter in base.parameters(role):
                parameter.data.normal_(std=0.2, generator=generator)
        return base

    return make


@pytest.fixture
def namespace():
    return SimpleNamespace


@pytest.fixture
def few_prompts(monkeypatch):
    """Intervals of two prompts: for examples that are counted by hand, where three say all."""
    from pipeline.evaluation import statistics

    monkeypatch.setattr(statistics, "FEWEST", 2)
