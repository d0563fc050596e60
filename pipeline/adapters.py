"""One base, four roles: policy, reference, reward and value are adapters on a single copy of the weights.

With adapters on the last N layers only (`lora.last_layers`), everything below is the same for every role. That part is the
*trunk*: it runs once per batch, and its states serve all roles and every PPO epoch.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from data.errors import UserError
from pipeline.adapter_file import other_scale
from pipeline.batches import Batch, Lists, attends, side_by_side
from pipeline.lm_head import LMHead
from pipeline.slices import Recomputed, layers_of
from reward.model import last_states

# Families whose kernels take the weights of the projection out of a layer and never run the layer itself.
_FUSED = {"falcon_h1", "mamba", "mamba2", "falcon_mamba", "nemotron_h"}
# Where model code lives, of the library and of a checkpoint itself: what is made into another linear layer there returns something else.
_MODEL_CODE = ("transformers.models.", "transformers_modules.")
BASE, POLICY, REFERENCE, REWARD, VALUE = "base", "policy", "reference", "reward", "value"


class SharedBase:
    """A frozen causal LM with LoRA adapters by role, split into trunk and upper layers."""

    def __init__(self, model, tokenizer, lora, *, recompute: bool = False):
        """Wraps `model` in place. `lora` is the `lora` section of the config.

        With `recompute` the states inside an adapted layer are made again in the backward pass (Chen et al. 2016).
        """
        self.tokenizer = tokenizer
        self.device = model.device
        self._lora = lora
        self._model = model
        decoder = model.get_decoder()
        if not isinstance(getattr(decoder, "layers", None), nn.ModuleList):
            raise UserError(
                f"model.name: {type(decoder).__name__} keeps its layers under another name than 'layers', so they cannot be run in two parts. "
                "Take a model of another family."
            )
        self.layers = len(decoder.layers)
        if lora.last_layers is not None and lora.last_layers > self.layers:
            raise UserError(f"lora.last_layers: {lora.last_layers}, but the model has {self.layers} layers.")
        self._refuse_unknown_targets(decoder)
        self.trunk_layers = self.layers - lora.last_layers if lora.last_layers is not None else 0
        self._trunk = layers_of(decoder, 0, self.trunk_layers) if self.trunk_layers else None
        self._upper = layers_of(decoder, self.trunk_layers, self.layers)
        if recompute:
            self._upper.layers = nn.ModuleList(Recomputed(layer, self) for layer in self._upper.layers)
        self._peft = None
        self.active = BASE

    # -- roles ---------------------------------------------------------------------------------------------------------

    def add(self, role: str, *, trainable: bool, like: str | None = None) -> None:
        """A fresh adapter (the identity: its B is zero), or one that starts as a copy of the role `like`."""
        from peft import get_peft_model

        # PEFT makes the adapter that it adds the only trainable one, so what was trainable is put back afterwards.
        before = {r: self._is_trainable(r) for r in self.roles}
        if self._peft is None:
            self._peft = get_peft_model(self._model, self._lora_config(), adapter_name=role)
        else:
            self._peft.add_adapter(role, self._lora_config())
        # What PEFT adds is in training mode, whatever the model is in: its dropout would make every log-probability a matter of
        # chance (Huang et al. 2024, detail 7).
        self._model.train(self._model.training)
        if like is not None:
            self.load_state(role, self.state(like))
        for name, state in {**before, role: trainable}.items():
            for parameter in self._parameters(name):
                parameter.requires_grad_(state)
        self._activate(self.active)

    @property
    def roles(self) -> tuple[str, ...]:
        return tuple(self._peft.peft_config) if self._peft is not None else ()

    @contextmanager
    def acting_as(self, role: str) -> Iterator[None]:
        """Within the block the model is `role`; BASE is the model without adapters. The only place that switches adapters.

        Which adapters are trainable does not change, unlike with PEFT's own `set_adapter`.
        """
        if role != BASE and role not in self.roles:
            raise ValueError(f"no adapter for role '{role}'; there are {', '.join(self.roles) or 'none'}")
        previous = self.active
        self._activate(role)
        try:
            yield
        finally:
            self._activate(previous)

    def parameters(self, role: str) -> list[nn.Parameter]:
        return list(self._parameters(role))

    def state(self, role: str) -> dict[str, Tensor]:
        """Copies of the adapter's tensors, by name without the role."""
        return {name: p.detach().clone() for name, p in self._named(role)}

    def load_state(self, role: str, state: dict[str, Tensor]) -> None:
        """Puts tensors into the adapter of `role`.

        Raises:
            ValueError: a tensor is missing, unknown, or of another shape.
        """
        own = dict(self._named(role))
        missing, unknown = own.keys() - state.keys(), state.keys() - own.keys()
        shapes = [n for n in own.keys() & state.keys() if own[n].shape != state[n].shape]
        if missing or unknown or shapes:
            raise ValueError(
                f"adapter for '{role}' does not fit: {len(missing)} tensors missing, {len(unknown)} unknown, {len(shapes)} of another shape"
            )
        with torch.no_grad():
            for name, parameter in own.items():
                parameter.copy_(state[name])

    def save(self, role: str, directory: Path) -> None:
        """Writes the adapter as PEFT does, so that `PeftModel.from_pretrained` and serving engines read it."""
        directory.mkdir(parents=True, exist_ok=True)
        tensors = {f"base_model.model.{name}": t.contiguous().cpu() for name, t in self.state(role).items()}
        save_file(tensors, directory / "adapter_model.safetensors", metadata={"format": "pt"})
        self._lora_config().save_pretrained(directory)
        # PEFT writes a set in whatever order it has in this process; the same adapter should be the same bytes.
        file = directory / "adapter_config.json"
        written = json.loads(file.read_text(encoding="utf-8"))
        written["target_modules"] = sorted(written["target_modules"])
        file.write_text(json.dumps(written, indent=2, sort_keys=True) + "\n", encoding="utf-8")

    def load(self, role: str, directory: Path, *, trainable: bool) -> None:
        """Adds the adapter saved in `directory` under `role`.

        Raises:
            UserError: the file does not fit this base and these LoRA settings.
        """
        file = directory / "adapter_model.safetensors"
        try:
            tensors = {name.removeprefix("base_model.model."): t for name, t in load_file(file).items()}
        except (OSError, SafetensorError) as error:
            raise UserError(
                f"{file}: cannot be read ({str(error).splitlines()[0]}). It is missing or damaged; "
                "`status --verify` names every such file, `run --redo` with the stage makes it anew."
            ) from None
        if why := other_scale(directory, self._lora):
            raise UserError(f"{directory}: {why}. Take the settings that it was made with.")
        if role not in self.roles:
            self.add(role, trainable=trainable)
        try:
            self.load_state(role, tensors)
        except ValueError as error:
            raise UserError(f"{file}: {error}. It was made for another base model or other lora settings.") from None

    # -- forward passes --------------------------------------------------------------------------------------------------

    @property
    def causal_lm(self):
        """The whole model for generation, in the role that is active."""
        return self._model

    @property
    def peft_model(self):
        return self._peft

    @property
    def lm_head(self) -> LMHead:
        """Makes logits of final states, in every role the same."""
        return LMHead.of(self._model)

    @property
    def hidden_size(self) -> int:
        return self._model.config.get_text_config().hidden_size

    @property
    def side_by_side(self) -> bool:
        """Whether answers can stand beside each other in a row: no layer carries a state past the end of one into the next."""
        return attends(self._model.config.get_text_config())

    @torch.no_grad()
    def trunk(self, batch: Batch) -> Tensor:
        """(b, t, d) states below the first adapted layer: the same for all roles, so no role is needed and nothing is learnt."""
        embedded = self._model.get_input_embeddings()(batch.ids)
        return self._run(self._trunk, embedded, batch.mask) if self.trunk_layers else embedded

    def states(self, trunk: Tensor, mask: Tensor, role: str) -> Tensor:
        """(b, t, d) final states of `role` from the trunk's states. Differentiable with respect to the role's adapter."""
        with self.acting_as(role):
            return self._run(self._upper, trunk, mask)

    def encode(self, sequences: Sequence[Sequence[int]], role: str) -> tuple[Tensor, Tensor]:
        """Final states (b, t, d) of `role`, right-padded, and the lengths (b,) of the sequences."""
        batch = Batch.of(sequences, self.tokenizer.pad_token_id, self.device)
        return self.states(self.trunk(batch), batch.mask, role), batch.mask.sum(1)

    def encode_lists(self, lists: Sequence[tuple[Sequence[int], Sequence[Sequence[int]]]], role: str) -> Tensor:
        """(Σ K, d) state of `role` at the last token of every answer, list by list.

        A list is one row: its prompt once, then its K answers side by side. An answer attends to the prompt and to itself,
        at the positions that it would have alone, so the states are those of K separate rows, for one reading of the prompt
        and without padding between answers. Where layers carry a state along (`side_by_side` is False), they are K separate rows.

        Args:
            lists: (prompt ids, K answers' ids), each answer at least one token.
        """
        if not self.side_by_side:
            rows = [[*prompt, *answer] for prompt, answers in lists for answer in answers]
            return last_states(*self.encode(rows, role))
        layout = Lists.of(lists, self.tokenizer.pad_token_id, self.device)
        return self.list_states(self.list_trunk(layout), layout, role)

    @torch.no_grad()
    def list_trunk(self, layout: Lists) -> Tensor:
        """(b, t, d) states of lists below the first adapted layer: the same for all roles, whatever is trained above."""
        embedded = self._model.get_input_embeddings()(layout.ids)
        return self._run(self._trunk, embedded, layout.allowed, layout.positions) if self.trunk_layers else embedded

    def list_states(self, trunk: Tensor, layout: Lists, role: str) -> Tensor:
        """(Σ K, d) state of `role` at the last token of every answer, from the lists' trunk states."""
        with self.acting_as(role):
            states = self._run(self._upper, trunk, layout.allowed, layout.positions)
        return states[layout.ends[0], layout.ends[1]]

    def _run(self, part: nn.Module, states: Tensor, mask: Tensor, positions: Tensor | None = None) -> Tensor:
        """`mask` is (b, t), True on real tokens, or (b, 1, t, t), True where a query may look."""
        if positions is None:
            positions = torch.arange(states.shape[1], device=states.device)[None]
        seen = mask.long() if mask.dim() == 2 else side_by_side(part.config, mask, positions, states.dtype)
        return part(
            inputs_embeds=states, attention_mask=seen, position_ids=positions, use_cache=False
        ).last_hidden_state

    def _refuse_unknown_targets(self, decoder) -> None:
        """PEFT passes over a name that no layer has as long as another one fits."""
        if self._lora.target_modules == "all-linear":
            return
        names = {name for name, module in decoder.named_modules() if _is_linear(module)}
        missing = [t for t in self._lora.target_modules if not any(n == t or n.endswith(f".{t}") for n in names)]
        if missing:
            there = ", ".join(sorted({name.rsplit(".", 1)[-1] for name in names}))
            raise UserError(f"lora.target_modules: the model has no linear layer {', '.join(missing)}; there are {there}.")
        if unfit := sorted(self._unfit().intersection(self._lora.target_modules)):
            raise UserError(
                f"lora.target_modules: {', '.join(unfit)} of {type(decoder).__name__} cannot be adapted, its weights are read past the layer by a "
                "kernel. Leave it out, or set all-linear."
            )

    def _unfit(self) -> set[str]:
        """Linear layers that PEFT refuses to adapt (peft.tuners.tuners_utils, _check_lora_target_modules_mamba)."""
        return {"out_proj"} if self._model.config.model_type in _FUSED else set()

    # -- inside PEFT -----------------------------------------------------------------------------------------------------

    def _lora_config(self):
        from peft import LoraConfig

        targets = self._lora.target_modules
        if targets == "all-linear":
            targets = sorted(
                {
                    name.rsplit(".", 1)[-1]
                    for name, module in self._model.get_decoder().named_modules()
                    if _is_linear(module) and "lora_" not in name and "base_layer" not in name
                }
                - self._unfit()
                | {name.rsplit(".", 1)[-1] for name, module in self._model.named_modules() if hasattr(module, "lora_A")}
            )
        layers = list(range(self.trunk_layers, self.layers)) if self.trunk_layers else None
        return LoraConfig(
            r=self._lora.rank,
            lora_alpha=self._lora.alpha,
            lora_dropout=self._lora.dropout,
            target_modules=list(targets),
            layers_to_transform=layers,
            task_type="CAUSAL_LM",
        )

    def _tuner_layers(self):
        from peft.tuners.tuners_utils import BaseTunerLayer

        return [m for m in self._model.modules() if isinstance(m, BaseTunerLayer)]

    def _activate(self, role: str) -> None:
        # Through PEFT, `set_adapter` would also make the adapter trainable and freeze the others, and costs a walk over all
        # modules. What decides the forward pass are these two fields of each adapted layer.
        self.active = role
        if self._peft is None:
            return
        for layer in self._layers_of_peft():
            layer._disable_adapters = role == BASE
            if role != BASE:
                layer._active_adapter = [role]

    def _layers_of_peft(self):
        if getattr(self, "_cached_count", None) != len(self.roles):
            self._cached_layers, self._cached_count = self._tuner_layers(), len(self.roles)
        return self._cached_layers

    def _named(self, role: str) -> Iterator[tuple[str, nn.Parameter]]:
        mark = f".{role}."
        for name, parameter in self._model.named_parameters():
            if "lora_" in name and mark in name:
                yield name.replace(mark, "."), parameter

    def _parameters(self, role: str) -> Iterator[nn.Parameter]:
        return (parameter for _, parameter in self._named(role))

    def _is_trainable(self, role: str) -> bool:
        return any(p.requires_grad for p in self._parameters(role))


def _is_linear(module: nn.Module) -> bool:
    """Whether states go through it and nothing but a product comes out; the router of Phi-3.5-MoE is a linear layer that returns two tensors."""
    return isinstance(module, nn.Linear) and not type(module).__module__.startswith(_MODEL_CODE)
