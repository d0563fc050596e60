"""Thumbloop's side of `benchmarks/side_by_side.py`: policy, reference, reward and value as adapters on one base."""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parent)]

import task  # noqa: E402
import torch  # noqa: E402


def main() -> None:
    parser = task.arguments(__doc__)
    parser.add_argument("--last-layers", type=int, help="adapt the last N layers only; all when not given")
    parser.add_argument("--alpha", type=float, default=32.0, help="LoRA's; the update is scaled by alpha / rank")
    parser.add_argument("--set", nargs="*", default=[], help="further settings of the `ppo` section, key=value")
    parser.add_argument(
        "--quantization", default="none", choices=("none", "8bit", "4bit"), help="of the base's weights"
    )
    parser.add_argument("--endless", action="store_true", help="every answer has --response tokens: none may end")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)

    from data.records import Message, Prompt
    from pipeline.adapters import POLICY, REFERENCE, REWARD, VALUE, SharedBase
    from pipeline.config import LoraConfig, ModelConfig, PpoConfig
    from pipeline.memory import release
    from pipeline.models import choose_device, load, load_tokenizer
    from pipeline.ppo.rollout import PromptIds
    from pipeline.ppo.trainer import PPO
    from reward.model import ScalarHead, score

    quantized = {"quantization": arguments.quantization, "allow_cpu_quantization": True}
    named = ModelConfig(name=arguments.model, dtype=arguments.dtype, device=arguments.device, **quantized)
    lora = LoraConfig(rank=16, alpha=arguments.alpha, last_layers=arguments.last_layers)
    if arguments.random:
        tokenizer = load_tokenizer(named)
        base = random_base(arguments.random, arguments.quantization, choose_device(arguments.device))
        base.tokenizer = tokenizer
    else:
        model, tokenizer = load(named)
        base = SharedBase(model, tokenizer, lora)
    if arguments.endless:
        base.causal_lm.register_forward_hook(never_ends(tokenizer.eos_token_id))
    for role in (POLICY, REFERENCE, REWARD, VALUE):
        base.add(role, trainable=role in (POLICY, VALUE))
    value_head, reward_head = (ScalarHead(base.hidden_size).to(base.device) for _ in range(2))
    torch.nn.init.zeros_(value_head.weight)
    # Random weights draw from as many tokens as there are rows, also from those that the tokenizer does not know.
    known = min(len(tokenizer), len(base.lm_head.weight))
    pays = torch.zeros(len(base.lm_head.weight))
    pays[:known] = torch.tensor(task.pays([tokenizer.decode([i]) for i in range(known)]))
    prompts = [
        PromptIds(
            Prompt(f"p{i}", (Message("user", text),)), tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
        )
        for i, text in enumerate(task.prompts())
    ]
    starts = {p.prompt.messages: len(p.ids) for p in prompts}

    def scorer(answers, encode):
        # The reward model's forward pass is paid for, as on the other side; what counts is the programmatic score.
        with torch.no_grad():
            score(encode, reward_head, [a.ids for a in answers])
        return torch.stack([task.SCALE * pays[list(a.ids[starts[a.prompt] :])].mean() for a in answers])

    settings = PpoConfig(
        updates=arguments.updates,
        episodes=arguments.batch,
        minibatch=arguments.minibatch,
        epochs=arguments.epochs,
        learning_rate=arguments.lr,
        value_learning_rate=arguments.lr,
        lr_decay=False,
        kl_coef=arguments.kl_coef,
        max_new_tokens=arguments.response,
        temperature=1.0,
        missing_eos_penalty=0.0,
        **{"micro_batch": arguments.minibatch, **{k: json.loads(v) for k, v in (s.split("=") for s in arguments.set)}},
    )
    ppo = PPO(base, value_head, prompts, settings, scorer, seed=arguments.seed)
    clock = task.Clock(arguments.json)
    for _ in range(arguments.updates):
        figures, rollout = ppo.update()
        del rollout
        release()
        clock.lap(
            score=figures["score"],
            kl=figures["kl"],
            tokens=figures["response_tokens"] * arguments.batch,
            rollout_s=figures["rollout_seconds"],
        )


def random_base(shape: dict, bits: str, device):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    import gpu_work

    from pipeline.planning.shapes import Shape

    return gpu_work.random_base(Shape(**shape), bits, device, recompute=False)


def never_ends(eos: int):
    """A hook that takes the end token out of every distribution that the whole model gives, so out of drawing alone."""

    def hook(module, inputs, output):
        output.logits[..., eos] = -1e9
        return output

    return hook


if __name__ == "__main__":
    main()
