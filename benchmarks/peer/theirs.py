"""The other side of `benchmarks/side_by_side.py`: the last PPO trainer of TRL (1.12.0), as its documentation sets it up.

Three copies of the base: the policy with LoRA, whose adapter is switched off for the reference (the leanest way that trainer has), the
value model and the reward model. It runs in an environment of its own; `benchmarks/side_by_side.py` says how to make it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent))

import task
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    TrainerCallback,
)
from trl.experimental.ppo import PPOConfig, PPOTrainer


class ProgrammaticReward(torch.nn.Module):
    """A reward model whose forward pass is paid for and whose score, at every position, is the task's."""

    base_model_prefix = "backbone"

    def __init__(self, whole, pays: torch.Tensor, prompt_width: int):
        super().__init__()
        self.backbone, self.head = whole.model, whole.score
        self.pays, self.prompt_width, self.seen = pays, prompt_width, None
        self.backbone.register_forward_pre_hook(self._remember, with_kwargs=True)

    def _remember(self, module, args, kwargs) -> None:
        self.seen = kwargs["input_ids"]

    def score(self, states: torch.Tensor) -> torch.Tensor:
        self.head(states)
        paid = self.pays.to(self.seen.device)[self.seen]
        paid[:, : self.prompt_width] = 0.0
        tokens = torch.arange(1, paid.shape[1] + 1, device=paid.device) - self.prompt_width
        return (task.SCALE * paid.cumsum(1) / tokens.clamp(min=1)).unsqueeze(-1)


def models(arguments, dtype: torch.dtype):
    """Policy, value and reward model: three copies of the base, or three of its shape with random weights."""
    if not arguments.random:
        policy = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=dtype)
        heads = [
            AutoModelForSequenceClassification.from_pretrained(arguments.model, num_labels=1, dtype=dtype)
            for _ in range(2)
        ]
        return policy, *heads
    config = LlamaConfig(**task.llama(arguments.random), num_labels=1)
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        # Made where they are used: the machine's own memory would hold three times 16 GB at 8B.
        with torch.device(arguments.device):
            kinds = (LlamaForCausalLM, LlamaForSequenceClassification, LlamaForSequenceClassification)
            return tuple(kind(config) for kind in kinds)
    finally:
        torch.set_default_dtype(default)


class Laps(TrainerCallback):
    def __init__(self, clock: task.Clock):
        self.clock = clock

    def on_train_begin(self, *args, **kwargs) -> None:
        self.clock.start()

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        if logs and "objective/scores" in logs:
            self.clock.lap(score=logs["objective/scores"], kl=logs["objective/kl"])


def main() -> None:
    arguments = task.arguments(__doc__).parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    dtype = getattr(torch, arguments.dtype)
    tokenizer = AutoTokenizer.from_pretrained(arguments.model, padding_side="left")
    # Not the end-of-turn token, which stands inside every prompt.
    tokenizer.pad_token_id = 0
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in task.prompts()]
    width = max(map(len, ids))
    dataset = Dataset.from_dict({"input_ids": [[tokenizer.pad_token_id] * (width - len(row)) + row for row in ids]})
    policy, value, judge = models(arguments, dtype)
    rows = policy.get_input_embeddings().num_embeddings
    known = min(len(tokenizer), rows)
    pays = torch.zeros(rows)
    pays[:known] = torch.tensor(task.pays([tokenizer.decode([i]) for i in range(known)]))
    torch.nn.init.zeros_(value.score.weight)
    config = PPOConfig(
        output_dir=str(arguments.json.with_suffix("")),
        per_device_train_batch_size=arguments.batch,
        num_mini_batches=arguments.batch // arguments.minibatch,
        gradient_accumulation_steps=1,
        num_ppo_epochs=arguments.epochs,
        total_episodes=arguments.batch * arguments.updates,
        # As many rows a forward pass as on our side; its default is the whole batch, whose logits take more memory.
        local_rollout_forward_batch_size=arguments.minibatch,
        response_length=arguments.response,
        stop_token="eos",
        temperature=1.0,
        kl_coef=arguments.kl_coef,
        cliprange=0.2,
        cliprange_value=0.2,
        vf_coef=0.1,
        gamma=1.0,
        lam=0.95,
        learning_rate=arguments.lr,
        lr_scheduler_type="constant",
        seed=arguments.seed,
        # Nothing that only costs time: no samples printed, no checkpoints, no reports.
        num_sample_generations=0,
        save_strategy="no",
        report_to="none",
        logging_steps=1,
        disable_tqdm=True,
        bf16=False,
        gradient_checkpointing=False,
        use_cpu=arguments.device == "cpu",
    )
    trainer = PPOTrainer(
        args=config,
        processing_class=tokenizer,
        model=policy,
        ref_model=None,
        reward_model=ProgrammaticReward(judge, pays, width),
        value_model=value,
        train_dataset=dataset,
        eval_dataset=dataset.select(range(4)),
        peft_config=LoraConfig(
            r=16, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"
        ),
        callbacks=[Laps(task.Clock(arguments.json))],
    )
    trainer.train()


if __name__ == "__main__":
    main()
