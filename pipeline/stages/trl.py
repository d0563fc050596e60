"""What the stages that train with TRL have in common: the settings that do not differ, and what its trainers do behind one's back, undone."""

from __future__ import annotations

from torch import Tensor

from pipeline.adapters import SharedBase


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
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }


def trainer_of(kind, base: SharedBase, role: str, arguments, rows: list[dict], keeper):
    """A trainer of the class `kind` for the adapter of `role` on `rows`, silent, with that adapter as it was before the trainer was made."""
    from datasets import Dataset

    begun = base.state(role)
    trainer = kind(
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
