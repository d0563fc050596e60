"""The base model and the adapters on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import Field

from pipeline.config.section import Section, rule


class ModelConfig(Section):
    name: str = Field(
        "smollm2-135m-instruct", description="the embedded model, 'tiny-random', a directory, or a Hub id"
    )
    revision: str | None = Field(None, description="branch, tag or commit of a Hub id")
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="of the frozen weights; adapters are float32"
    )
    quantization: Literal["none", "8bit", "4bit"] = Field("none", description="of the frozen weights")
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="where everything is computed; auto is the GPU where there is one"
    )
    gradient_checkpointing: bool = Field(
        False,
        description="states inside adapted layers are made again for the gradient, not kept: less memory, more time",
    )
    allow_cpu_quantization: bool = Field(False, description="quantize without a GPU: less memory, more time")
    trust_remote_code: bool = Field(False, description="run code that comes with the model")
    chat_template: str | None = Field(None, description="file with a Jinja chat template, for a model that has none")
    system_prompt: str | None = Field(None, description="put before every conversation that has none")
    cache_dir: str | None = Field(
        None, description="where the embedded model is converted to; None is the user's cache"
    )

    @rule
    def _foreign_code_was_read(self) -> Iterator[str]:
        if self.trust_remote_code and self.revision is None and not Path(self.name).expanduser().is_dir():
            yield "'trust_remote_code' should come with model.revision, the commit whose code was read (got none)"

    @rule
    def _the_model_made_on_the_spot_is_what_it_is(self) -> Iterator[str]:
        for name in ("quantization", "chat_template", "revision"):
            if self.name == "tiny-random" and (given := getattr(self, name)) != type(self).model_fields[name].default:
                yield f"'{name}' should be left out where the model is tiny-random, which is made on the spot (got {given!r})"


class LoraConfig(Section):
    rank: int = Field(16, ge=1, le=1024, description="r, columns of A and rows of B")
    alpha: float = Field(32.0, gt=0, description="the update is scaled by alpha / rank")
    dropout: float = Field(0.0, ge=0, lt=1, description="share of adapter inputs dropped, in SFT only")
    target_modules: Literal["all-linear"] | list[str] = Field(
        "all-linear", description="which linear layers are adapted"
    )
    last_layers: int | None = Field(
        None, ge=1, description="adapt the last N layers only; those below are the shared trunk"
    )

    @rule
    def _something_is_adapted(self) -> Iterator[str]:
        if not self.target_modules:
            yield "'target_modules' should name at least one linear layer, or be all-linear (got none)"
