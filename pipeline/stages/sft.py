"""Supervised fine-tuning with TRL: the policy adapter learns to answer as the demonstrations do."""

from __future__ import annotations

import time

from data.errors import UserError
from data.loading import load as load_records
from pipeline.adapters import POLICY
from pipeline.roles import ADAPTER, open_base
from pipeline.template import prompt_ids, response_ids


def run(ctx) -> dict[str, float]:
    """Trains on the response tokens only, end-of-sequence token included. Leaves `adapter/`."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    config, settings = ctx.config, ctx.config.sft
    base = open_base(config)
    base.add(POLICY, trainable=True)
    rows = load_records(ctx.inputs["prepare"] / "demonstrations.train.jsonl", "messages")
    # Tokenised here, with the project's one rendering, rather than by the trainer with the model's own template.
    examples = [_example(base.tokenizer, d, config) for d in rows]
    tokens = sum(sum(e["completion_mask"]) for e in examples)
    accumulation = settings.batch_size // settings.micro_batch_size
    arguments = SFTConfig(
        output_dir=str(ctx.out / "trainer"),
        per_device_train_batch_size=settings.micro_batch_size,
        gradient_accumulation_steps=accumulation,
        num_train_epochs=settings.epochs,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=settings.warmup_share,
        weight_decay=0.0,
        max_grad_norm=settings.max_grad_norm,
        max_length=settings.max_tokens,
        completion_only_loss=True,
        packing=False,
        gradient_checkpointing=False,
        # The weights already have the dtype that they should have; the adapters are float32.
        bf16=False,
        use_cpu=base.device.type == "cpu",
        seed=config.seed,
        data_seed=config.seed,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        train_sampling_strategy="random",
        dataloader_pin_memory=False,
    )
    steps = -(-len(examples) // settings.batch_size) * settings.epochs
    with base.acting_as(POLICY), ctx.progress(round(steps), "SFT", unit="steps") as bar:
        trainer = SFTTrainer(
            model=base.peft_model,
            args=arguments,
            train_dataset=Dataset.from_list(examples),
            processing_class=base.tokenizer,
            callbacks=[_logger(ctx, bar)],
        )
        # Keeps the one line a step that goes to the log off the terminal.
        for callback in list(trainer.callback_handler.callbacks):
            if type(callback).__name__ == "PrinterCallback":
                trainer.remove_callback(callback)
        for parameter in base.parameters(POLICY):
            parameter.requires_grad_(True)
        result = trainer.train()
    base.causal_lm.eval()
    if result.training_loss != result.training_loss:
        raise UserError("sft: the loss is not a number. Lower sft.learning_rate.")
    base.save(POLICY, ctx.out / ADAPTER)
    return {"loss": result.training_loss, "steps": float(result.global_step), "trained_tokens": float(tokens)}


def _example(tokenizer, demonstration, config) -> dict[str, list[int]]:
    prompt = prompt_ids(tokenizer, demonstration.prompt, system_prompt=config.model.system_prompt)
    response = response_ids(tokenizer, demonstration.response)
    return {"input_ids": prompt + response, "completion_mask": [0] * len(prompt) + [1] * len(response)}


def _logger(ctx, bar):
    from transformers import TrainerCallback

    class Log(TrainerCallback):
        """Each step's figures into the stage's log; stops at the first loss that is not a number."""

        def on_step_begin(self, args, state, control, **kwargs):
            self.started = time.monotonic()

        def on_log(self, args, state, control, logs=None, **kwargs):
            if not logs or "loss" not in logs:
                return
            loss = float(logs["loss"])
            ctx.log(
                {
                    "step": state.global_step,
                    "loss": loss,
                    "learning_rate": float(logs.get("learning_rate", 0.0)),
                    "grad_norm": float(logs.get("grad_norm", 0.0)),
                    "seconds": time.monotonic() - self.started,
                }
            )
            if loss != loss:
                raise UserError(f"sft: the loss is not a number at step {state.global_step}. Lower sft.learning_rate.")
            bar.advance(1, loss=loss)

    return Log()
