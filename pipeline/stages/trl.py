"""What the stages that train with TRL have in common: the settings that do not differ, checkpoints that are whole or not there, and what its
trainers do behind one's back, undone."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from torch import Tensor

from data.errors import UserError
from pipeline import checkpoint
from pipeline.adapters import SharedBase
from pipeline.step import LOG
from pipeline.stopping import asked, stop_if_asked

PREFIX = "checkpoint-"
LINES = "lines.json"

Line = dict[str, float]


class Onlooker(Protocol):
    """What looks on while a trainer trains, and may end it. It is kept in the checkpoints, so that a resumed training has seen the same."""

    def after(self, steps: int) -> bool:
        """Looks at the policy that has had so many steps, 0 before the first. Returns whether to stop."""

    def save(self, folder: Path) -> None:
        """Writes what it has seen into a checkpoint."""

    def load(self, folder: Path) -> None:
        """Takes it up from there."""


def train(
    ctx,
    base: SharedBase,
    role: str,
    kind,
    arguments,
    rows: list[dict],
    bar,
    *,
    stage: str,
    line_of: Callable[[int, Mapping[str, float]], Line],
    onlooker: Onlooker | None = None,
) -> list[Line]:
    """Trains the adapter of `role` with TRL's trainer `kind`, from the newest whole checkpoint if there is one.

    Its own resume takes half-written and altered checkpoints in silence, so only sealed ones are shown to it.

    Args:
        stage: the section of the config, for messages.
        line_of: (steps so far, what the trainer says of the last one) → the figures of the step that go to the log.

    Returns:
        the figures of every step, of those before the checkpoint too.

    Raises:
        UserError: a loss or gradient is not a number.
    """
    found = checkpoint.newest_sealed(ctx.checkpoints, PREFIX)
    for folder in checkpoint.numbered(ctx.checkpoints, PREFIX):
        if not checkpoint.is_whole(folder):
            shutil.rmtree(folder)
    lines = json.loads((found / LINES).read_text(encoding="utf-8")) if found else []
    (ctx.out / LOG).unlink(missing_ok=True)
    for line in lines:
        ctx.log(line)
    bar.done = len(lines)
    with base.acting_as(role):
        keeper = _keeper(ctx, bar, lines, stage, line_of, onlooker)
        trainer = trainer_of(kind, base, role, arguments, rows, keeper)
        if onlooker is not None and found:
            onlooker.load(found)
        # Before the first step too; and a training that was killed after it had been stopped is not begun again.
        if onlooker is None or not onlooker.after(len(lines)):
            trainer.train(resume_from_checkpoint=str(found) if found else None)
    stop_if_asked()
    return lines


def on_one_device(arguments):
    """The trainer would spread the model over every GPU that it sees (`nn.DataParallel`), past the adapters' roles."""
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1
    return arguments


def shared_arguments(ctx, base: SharedBase, settings) -> dict:
    """Arguments that every trainer of TRL's gets alike; `settings` is the stage's own section of the config."""
    config = ctx.config
    return {
        "output_dir": str(ctx.checkpoints),
        "num_train_epochs": settings.epochs,
        "learning_rate": settings.learning_rate,
        "lr_scheduler_type": "linear",
        "warmup_steps": settings.warmup_share,
        "weight_decay": 0.0,
        "max_grad_norm": settings.max_grad_norm,
        "gradient_checkpointing": config.model.gradient_checkpointing,
        "gradient_checkpointing_kwargs": {"use_reentrant": False} if config.model.gradient_checkpointing else None,
        # The weights already have the dtype that they should have; the adapters are float32.
        "bf16": False,
        "use_cpu": base.device.type == "cpu",
        "seed": config.seed,
        "data_seed": config.seed,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_strategy": "steps" if settings.checkpoint_every else "no",
        "save_steps": settings.checkpoint_every or 1,
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }


def trainer_of(kind, base: SharedBase, role: str, arguments, rows: list[dict], keeper):
    """A trainer of the class `kind` for the adapter of `role` on `rows`, silent, with that adapter as it was before the trainer was made."""
    from datasets import Dataset

    class Own(kind):
        """Its checkpoints hold the adapter that learns, and none of those beside it."""

        def _save(self, output_dir=None, state_dict=None):
            base.save(role, Path(output_dir or self.args.output_dir))

    begun = base.state(role)
    trainer = Own(
        model=base.peft_model,
        args=on_one_device(arguments),
        train_dataset=Dataset.from_list(rows),
        processing_class=base.tokenizer,
        callbacks=[keeper],
    )
    as_before(base, role, begun)
    return quieted(trainer)


def quieted(trainer):
    """The trainer without the callback that prints on the terminal the one line a step that goes to the log."""
    for callback in list(trainer.callback_handler.callbacks):
        if type(callback).__name__ == "PrinterCallback":
            trainer.remove_callback(callback)
    return trainer


def as_before(base: SharedBase, role: str, begun: dict[str, Tensor]) -> None:
    """Makes the adapter of `role` float32 and trainable again, with the numbers of `begun`.

    Over a quantized base the trainers turn adapters into bfloat16, in which most steps are too small to be a step.
    """
    for parameter in base.parameters(role):
        parameter.data = parameter.data.float()
        parameter.requires_grad_(True)
    base.load_state(role, begun)


def _keeper(ctx, bar, lines: list[Line], stage: str, line_of, onlooker: Onlooker | None):
    from transformers import TrainerCallback

    class Keeper(TrainerCallback):
        """Each step's figures into the log, each checkpoint sealed; stops at a loss that is not a number, or when asked to."""

        def on_step_begin(self, args, state, control, **kwargs):
            self.started = time.monotonic()

        def on_step_end(self, args, state, control, **kwargs):
            self.seconds = time.monotonic() - self.started
            if onlooker is not None and onlooker.after(state.global_step):
                control.should_training_stop = True
            if asked():
                control.should_save = control.should_training_stop = True

        def on_log(self, args, state, control, logs=None, **kwargs):
            if not logs or "loss" not in logs:
                return
            loss, norm = float(logs["loss"]), float(logs.get("grad_norm", 0.0))
            if not (math.isfinite(loss) and math.isfinite(norm)):
                raise UserError(
                    f"{stage}: loss {loss}, gradient norm {norm} at step {state.global_step}. Lower {stage}.learning_rate."
                )
            rate = float(logs.get("learning_rate", 0.0))
            line = {**line_of(state.global_step, logs), "loss": loss, "learning_rate": rate, "grad_norm": norm}
            line["seconds"] = self.seconds
            ctx.log(line)
            lines.append(line)
            bar.advance(1, loss=loss)

        def on_save(self, args, state, control, **kwargs):
            folder = ctx.checkpoints / f"{PREFIX}{state.global_step}"
            (folder / LINES).write_text(json.dumps(lines), encoding="utf-8")
            if onlooker is not None:
                onlooker.save(folder)
            checkpoint.seal(folder)
            checkpoint.rotate(ctx.checkpoints, PREFIX)

    return Keeper()
