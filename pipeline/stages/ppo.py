"""PPO on the reward model: the policy starts from SFT, the value from the reward model, the reference stays SFT."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from data.errors import UserError
from data.loading import load as load_records
from pipeline import checkpoint
from pipeline.adapters import POLICY, REFERENCE, REWARD, VALUE
from pipeline.evaluation.detectors import OTHER_START, SFT
from pipeline.memory import MicroBatch, release
from pipeline.ppo.figures import text_figures
from pipeline.ppo.masking import TooFewTokens
from pipeline.ppo.rollout import PromptIds
from pipeline.ppo.trainer import PPO
from pipeline.ppo.watch import Watch
from pipeline.roles import ADAPTER, RewardEnsemble, RewardModel, open_base
from pipeline.rollouts.engine import RolloutEngine, open_engine
from pipeline.stages.samples import Samples
from pipeline.stages.watching import check_room, encoded, open_watch, write_report
from pipeline.stopping import asked, steps_finish, stop_if_asked
from pipeline.template import prompt_ids, response_ids
from reward.model import ScalarHead
from reward.sources import REWARD_SOURCES, Answered, weighted_scores

# A mean score above this share of training answers lies where the reward model has hardly been taught (Bai et al. 2022, fig. 14).
HIGH = 0.99


def run(ctx) -> dict[str, float]:
    """Leaves `adapter/` (and `ema/`), the value model, one line an update in `log.jsonl`, answers in `samples.jsonl`,
    and in `detectors.json` what the failure detectors saw. After an alarm the policy is the one that they went back to."""
    settings = ctx.config.ppo
    base = open_base(ctx.config)
    base.load(POLICY, Path(settings.start_from or ctx.inputs["sft"] / ADAPTER), trainable=True)
    base.load(REFERENCE, ctx.inputs["sft"] / ADAPTER, trainable=False)
    reward_model = RewardEnsemble.open(base, ctx.inputs["reward"], settings)
    base.add(VALUE, trainable=True, like=REWARD)
    prompts = _prompts(ctx, base)
    check_room(base, "ppo", settings.max_new_tokens, prompts)
    watch = open_watch(ctx, base, start=OTHER_START if settings.start_from else SFT)
    # The judge's questions are drawn for by the same engine, and may be longer than all that PPO asks.
    longest = max(len(p.ids) for p in [*prompts, *watch.prompts]) + settings.max_new_tokens
    engine = open_engine(settings.rollout, longest=longest, temperature=settings.temperature)
    try:
        return _run(ctx, base, reward_model, prompts, engine, watch)
    finally:
        engine.close()


def _run(
    ctx, base, reward_model: RewardEnsemble, prompts: list[PromptIds], engine: RolloutEngine, watch: Watch
) -> dict[str, float]:
    config, settings = ctx.config, ctx.config.ppo
    ppo = PPO(
        base,
        _value_head(reward_model.members[0]),
        prompts,
        settings,
        scorer := _Scorer(reward_model, settings.reward_sources),
        seed=config.seed,
        micro_batch=MicroBatch(settings.micro_batch, "ppo.micro_batch", "ppo.max_new_tokens or data.max_prompt_tokens"),
        demonstrations=_demonstrations(ctx, base) if settings.ptx_coef > 0 else (),
        engine=engine,
    )
    samples = Samples(ctx.out)
    _resume(ctx, ppo, watch, samples)
    with ctx.progress(settings.updates, "PPO", unit="updates") as bar, steps_finish():
        bar.advance(ppo.done)
        while watch.before(ppo) is None and ppo.done < settings.updates:
            try:
                figures, rollout = ppo.update()
            except FloatingPointError as error:
                raise UserError(str(error)) from None
            except TooFewTokens as error:
                raise UserError(
                    f"ppo: update {ppo.done}: {error} (ppo.episodes), or see in samples.jsonl why the answers are so short."
                ) from None
            figures |= text_figures([answer.response for answer in rollout.answers]) | scorer.figures()
            ctx.log(figures)
            samples.add(figures["update"], rollout.answers, rollout.scores.tolist())
            # The rollout holds the trunk's states of a whole batch.
            del rollout
            release()
            bar.advance(1, score=figures["score"], kl=figures["kl"], eos=figures["eos_rate"])
            alarm = watch.after(figures)
            due = settings.checkpoint_every and ppo.done % settings.checkpoint_every == 0
            if due or asked():
                checkpoint.save(ctx.checkpoints, ppo.done, *_state(ppo, watch, samples))
            stop_if_asked()
            if alarm is not None:
                break
    if watch.alarm is not None:
        watch.roll_back(ppo)
    write_report(ctx, watch)
    base.save(POLICY, ctx.out / ADAPTER)
    if ppo.ema is not None:
        base.load_state(POLICY, ppo.ema.state)
        base.save(POLICY, ctx.out / "ema")
    base.save(VALUE, ctx.out / "value")
    ppo.value_head.save(ctx.out / "value" / "head.safetensors")
    last = watch.lines[-1]
    return {
        "updates": float(ppo.done),
        "updates_kept": float(ppo.done if watch.alarm is None else watch.kept_update),
        "episodes": float(last["episodes"]),
        **{name: last[name] for name in ("score", "kl", "eos_rate", "response_tokens", "entropy")},
        "kl_at_start": watch.lines[0]["kl"],
        "first_ratio_max": watch.lines[0]["first_ratio_max"],
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


class _Scorer:
    """The reward that PPO raises, and what the detectors want to know of the reward model's part in it."""

    def __init__(self, reward_model: RewardEnsemble, weights: Mapping[str, float]):
        self._model, self._weights = reward_model, weights
        self._members = torch.empty(0)
        seen = reward_model.seen()
        self._high = float(seen.quantile(HIGH)) if len(seen) else None

    def __call__(self, answers: Sequence[Answered], encode) -> Tensor:
        try:
            return weighted_scores(self._weights, {**REWARD_SOURCES, "model": partial(self._score, encode)}, answers)
        except ValueError as error:
            raise UserError(str(error)) from None

    def _score(self, encode, answers: Sequence[Answered]) -> Tensor:
        self._members = self._model.member_scores([a.ids for a in answers], encode).detach()
        return self._model.combine(self._members)

    def figures(self) -> dict[str, float]:
        """Of the answers scored last: the model's mean score, beside the 99th percentile of training answers where that is
        known, and with several members their variance on one answer, in squared reward units."""
        if not self._members.numel():
            return {}
        out = {"model_score": float(self._model.combine(self._members).mean())}
        if self._high is not None:
            out["model_score_high"] = self._high
        if len(self._members) > 1:
            out["member_variance"] = float(self._members.var(0, correction=0).mean())
        return out


def _prompts(ctx, base) -> list[PromptIds]:
    return [encoded(ctx, base, p) for p in load_records(ctx.inputs["prepare"] / "prompts.jsonl", "prompts")]


def _demonstrations(ctx, base) -> list[tuple[tuple[int, ...], int]]:
    rows = load_records(ctx.inputs["prepare"] / "demonstrations.train.jsonl", "messages")
    encoded = []
    for row in rows:
        prompt = prompt_ids(base.tokenizer, row.prompt, system_prompt=ctx.config.model.system_prompt)
        encoded.append((tuple(prompt + response_ids(base.tokenizer, row.response)), len(prompt)))
    return encoded


def _state(ppo: PPO, watch: Watch, samples: Samples) -> tuple[dict, dict]:
    (tensors, facts), (kept, notes) = ppo.state(), watch.state()
    return tensors | kept, facts | notes | {"samples": samples.text}


def _resume(ctx, ppo: PPO, watch: Watch, samples: Samples) -> None:
    """Takes up the newest whole checkpoint of a run that was stopped, if there is one, with the log lines up to it."""
    found = checkpoint.newest(ctx.checkpoints)
    if found is None:
        return
    samples.begin(found[1]["samples"])
    ppo.load_state(*found)
    watch.load_state(*found)
    for line in watch.lines:
        ctx.log(line)
