"""Supervised fine-tuning with TRL: the policy adapter learns to answer as the demonstrations do."""

from __future__ import annotations

from data.loading import load as load_records
from pipeline.adapters import POLICY, SharedBase
from pipeline.memory import MicroBatch
from pipeline.roles import ADAPTER, open_base
from pipeline.stages.trl import shared_arguments, train
from pipeline.stopping import steps_finish
from pipeline.template import prompt_ids, response_ids
from reward.optimizer import ADAMW


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
    from trl import SFTTrainer

    arguments = _arguments(ctx, base, micro_batch)
    return train(
        ctx, base, POLICY, SFTTrainer, arguments, examples, bar, stage="sft", line_of=lambda step, logs: {"step": step}
    )


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
        train_sampling_strategy="random",
    )


def _example(tokenizer, demonstration, config) -> dict[str, list[int]]:
    prompt = prompt_ids(tokenizer, demonstration.prompt, system_prompt=config.model.system_prompt)
    response = response_ids(tokenizer, demonstration.response)
    return {"input_ids": prompt + response, "completion_mask": [0] * len(prompt) + [1] * len(response)}
