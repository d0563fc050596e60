"""PPO on the reward model: the policy starts from SFT, the value from the reward model, the reference stays SFT."""

from __future__ import annotations

import json
import shutil

from data.errors import UserError
from data.loading import load as load_records
from pipeline.adapters import POLICY, REFERENCE, REWARD, VALUE
from pipeline.memory import release
from pipeline.ppo import checkpoint
from pipeline.ppo.rollout import PromptIds
from pipeline.ppo.trainer import PPO
from pipeline.roles import ADAPTER, RewardEnsemble, RewardModel, open_base
from pipeline.template import prompt_ids, response_ids
from reward.model import ScalarHead
from reward.sources import REWARD_SOURCES, weighted_scores

CHECKPOINTS = "checkpoints"


def run(ctx) -> dict[str, float]:
    """Leaves `adapter/` (and `ema/`), the value model, one line an update in `log.jsonl` and answers in `samples.jsonl`."""
    config, settings = ctx.config, ctx.config.ppo
    base = open_base(config)
    base.load(POLICY, ctx.inputs["sft"] / ADAPTER, trainable=True)
    base.load(REFERENCE, ctx.inputs["sft"] / ADAPTER, trainable=False)
    reward_model = RewardEnsemble.open(base, ctx.inputs["reward"], settings)
    base.add(VALUE, trainable=True, like=REWARD)
    ppo = PPO(
        base,
        _value_head(reward_model.members[0]),
        _prompts(ctx, base),
        settings,
        _scorer(reward_model, settings.reward_sources),
        seed=config.seed,
        demonstrations=_demonstrations(ctx, base) if settings.ptx_coef > 0 else (),
    )
    samples = ctx.out / "samples.jsonl"
    lines = _resume(ctx, ppo)
    if not lines:
        samples.write_text("", encoding="utf-8")
    with ctx.progress(settings.updates, "PPO", unit="updates") as bar:
        bar.advance(ppo.done)
        while ppo.done < settings.updates:
            try:
                figures, rollout = ppo.update()
            except FloatingPointError as error:
                raise UserError(str(error)) from None
            ctx.log(figures)
            lines.append(figures)
            with samples.open("a", encoding="utf-8", newline="\n") as file:
                for answer, score in list(zip(rollout.answers, rollout.scores.tolist(), strict=True))[:4]:
                    row = {
                        "update": figures["update"],
                        "prompt": answer.prompt[-1].content,
                        "response": answer.response,
                        "score": score,
                    }
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")
            # The rollout holds the trunk's states of a whole batch.
            del rollout
            release()
            bar.advance(1, score=figures["score"], kl=figures["kl"], eos=figures["eos_rate"])
            if settings.checkpoint_every and ppo.done % settings.checkpoint_every == 0 and ppo.done < settings.updates:
                tensors, facts = ppo.state()
                checkpoint.save(ctx.out / CHECKPOINTS, ppo.done, tensors, {**facts, "lines": lines})
    base.save(POLICY, ctx.out / ADAPTER)
    if ppo.ema is not None:
        base.load_state(POLICY, ppo.ema.state)
        base.save(POLICY, ctx.out / "ema")
    base.save(VALUE, ctx.out / "value")
    ppo.value_head.save(ctx.out / "value" / "head.safetensors")
    # The stage is whole now; what only served to go on after a kill would double its size.
    shutil.rmtree(ctx.out / CHECKPOINTS, ignore_errors=True)
    last = lines[-1]
    return {
        "updates": float(ppo.done),
        "episodes": float(last["episodes"]),
        **{name: last[name] for name in ("score", "kl", "eos_rate", "response_tokens", "entropy")},
        "kl_at_start": lines[0]["kl"],
        "first_ratio_max": lines[0]["first_ratio_max"],
    }


def _value_head(reward_model: RewardModel) -> ScalarHead:
    """The reward head in units of the scaled reward: V before any learning is what the reward model would say so far."""
    head = ScalarHead(reward_model.base.hidden_size).to(reward_model.base.device)
    scale = reward_model.scale
    head.load_state_dict(
        {
            "weight": reward_model.head.weight.detach() / scale.std,
            "bias": (reward_model.head.bias.detach() - scale.mean) / scale.std,
        }
    )
    return head


def _scorer(reward_model: RewardEnsemble, weights):
    def score(answers, encode):
        sources = {**REWARD_SOURCES, "model": lambda rows: reward_model.score([a.ids for a in rows], encode)}
        try:
            return weighted_scores(weights, sources, answers)
        except ValueError as error:
            raise UserError(str(error)) from None

    return score


def _prompts(ctx, base) -> list[PromptIds]:
    config = ctx.config
    return [
        PromptIds(
            p,
            tuple(
                prompt_ids(
                    base.tokenizer,
                    p.messages,
                    system_prompt=config.model.system_prompt,
                    max_tokens=config.data.max_prompt_tokens,
                )
            ),
        )
        for p in load_records(ctx.inputs["prepare"] / "prompts.jsonl", "prompts")
    ]


def _demonstrations(ctx, base) -> list[tuple[tuple[int, ...], int]]:
    rows = load_records(ctx.inputs["prepare"] / "demonstrations.train.jsonl", "messages")
    encoded = []
    for row in rows:
        prompt = prompt_ids(base.tokenizer, row.prompt, system_prompt=ctx.config.model.system_prompt)
        encoded.append((tuple(prompt + response_ids(base.tokenizer, row.response)), len(prompt)))
    return encoded


def _resume(ctx, ppo: PPO) -> list[dict]:
    """Takes up the newest whole checkpoint of a run that was stopped; returns the log lines up to it."""
    found = checkpoint.newest(ctx.out / CHECKPOINTS) if ctx.resume_dir else None
    if found is None:
        return []
    tensors, facts = found
    ppo.load_state(tensors, facts)
    for line in facts["lines"]:
        ctx.log(line)
    old = ctx.resume_dir / "samples.jsonl"
    kept = (
        [row for row in old.read_text(encoding="utf-8").split("\n") if row and json.loads(row)["update"] < ppo.done]
        if old.exists()
        else []
    )
    (ctx.out / "samples.jsonl").write_text("".join(row + "\n" for row in kept), encoding="utf-8")
    return list(facts["lines"])
