"""Supervised fine-tuning with TRL: the policy adapter learns to answer as the demonstrations do."""

from __future__ import annotations

import json
import math
import shutil
import time

from data.errors import UserError
from data.loading import load as load_records
from pipeline import checkpoint
from pipeline.adapters import POLICY, SharedBase
from pipeline.memory import MicroBatch
from pipeline.roles import ADAPTER, open_base
from pipeline.stages.trl import shared_arguments, trainer_of
from pipeline.step import LOG
from pipeline.stopping import asked, steps_finish, stop_if_asked
from pipeline.template import prompt_ids, response_ids
from reward.optimizer import ADAMW

PREFIX = "checkpoint-"
LINES = "lines.json"


def run(ctx) -> dict[str, float]:
    """Trains on the response tokens only, end-of-sequence token included. Leaves `adapter/`."""
    config, settings = ctx.config, ctx.config.sft
    base = open_base(config)
    base.add(POLICY, trainable=True)
    rows = load_records(ctx.inputs["prepare"] / "demonstrations.train.jsonl", "messages")
    # Tokenised here, with the project's one rendering, rather than by the trainer with the model's own template.
    examples = [_example(base.tokenizer, d, config) for d in rows]
    fresh = base.state(POLICY)
    micro = MicroBatch(
        settings.micro_batch_size, "sft.micro_batch_size", "sft.max_tokens", divides=settings.batch_size
    )
    steps = round(-(-len(examples) // settings.batch_size) * settings.epochs)
    with ctx.progress(steps, "SFT", unit="steps") as bar, steps_finish():

        def attempt(size: int) -> list[dict[str, float]]:
            base.load_state(POLICY, fresh)
            return _train(ctx, base, examples, size, bar)

        lines = micro.attempt(attempt)
    base.causal_lm.eval()
    base.save(POLICY, ctx.out / ADAPTER)
    return {
        "loss": sum(line["loss"] for line in lines) / len(lines),
        "steps": float(len(lines)),
        "trained_tokens": float(sum(sum(e["completion_mask"]) for e in examples)),
    }


def _train(ctx, base: SharedBase, examples: list[dict], micro_batch: int, bar) -> list[dict[str, float]]:
    """TRL's trainer, from the newest whole checkpoint if there is one. Returns a line of figures for every step.

    Its own resume takes half-written and altered checkpoints in silence, so only sealed ones are shown to it.
    """
    from trl import SFTTrainer

    found = checkpoint.newest_sealed(ctx.checkpoints, PREFIX)
    for folder in checkpoint.numbered(ctx.checkpoints, PREFIX):
        if not checkpoint.is_whole(folder):
            shutil.rmtree(folder)
    lines = json.loads((found / LINES).read_text(encoding="utf-8")) if found else []
    (ctx.out / LOG).unlink(missing_ok=True)
    for line in lines:
        ctx.log(line)
    bar.done = len(lines)
    with base.acting_as(POLICY):
        keeper = _keeper(ctx, bar, lines)
        trainer = trainer_of(SFTTrainer, base, POLICY, _arguments(ctx, base, micro_batch), examples, keeper)
        trainer.train(resume_from_checkpoint=str(found) if found else None)
    stop_if_asked()
    return lines


def _arguments(ctx, base: SharedBase, micro_batch: int):
    from trl import SFTConfig

    settings = ctx.config.sft
    return SFTConfig(
        **shared_arguments(ctx, base, settings),
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=settings.batch_size // micro_batch,
        max_length=settings.max_tokens,
        completion_only_loss=True,
        packing=False,
        optim="adamw_torch" if settings.optimizer == ADAMW else settings.optimizer,
        save_strategy="steps" if settings.checkpoint_every else "no",
        save_steps=settings.checkpoint_every or 1,
        train_sampling_strategy="random",
    )


def _example(tokenizer, demonstration, config) -> dict[str, list[int]]:
    prompt = prompt_ids(tokenizer, demonstration.prompt, system_prompt=config.model.system_prompt)
    response = response_ids(tokenizer, demonstration.response)
    return {"input_ids": prompt + response, "completion_mask": [0] * len(prompt) + [1] * len(response)}


def _keeper(ctx, bar, lines: list[dict[str, float]]):
    from transformers import TrainerCallback

    class Keeper(TrainerCallback):
        """Each step's figures into the log, each checkpoint sealed; stops at a loss that is not a number, or when asked to."""

        def on_step_begin(self, args, state, control, **kwargs):
            self.started = time.monotonic()

        def on_log(self, args, state, control, logs=None, **kwargs):
            if not logs or "loss" not in logs:
                return
            loss = float(logs["loss"])
            line = {
                "step": state.global_step,
                "loss": loss,
                "learning_rate": float(logs.get("learning_rate", 0.0)),
                "grad_norm": float(logs.get("grad_norm", 0.0)),
                "seconds": time.monotonic() - self.started,
            }
            ctx.log(line)
            lines.append(line)
            if not (math.isfinite(loss) and math.isfinite(line["grad_norm"])):
                raise UserError(
                    f"sft: loss {loss}, gradient norm {line['grad_norm']} at step {state.global_step}. "
                    "Lower sft.learning_rate."
                )
            bar.advance(1, loss=loss)

        def on_step_end(self, args, state, control, **kwargs):
            if asked():
                control.should_save = control.should_training_stop = True

        def on_save(self, args, state, control, **kwargs):
            folder = ctx.checkpoints / f"{PREFIX}{state.global_step}"
            (folder / LINES).write_text(json.dumps(lines), encoding="utf-8")
            checkpoint.seal(folder)
            checkpoint.rotate(ctx.checkpoints, PREFIX)

    return Keeper()
