"""Proximal policy optimisation with a critic: rollout, shape, estimate, update (Schulman et al. 2017; Ouyang et al. 2022).

Everything that carries over from one update to the next is in `PPO.state()`; all chance follows from (seed, update). So a run
that was killed and resumed is the same run.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from data.errors import UserError
from pipeline.adapters import POLICY, VALUE, SharedBase
from pipeline.memory import MicroBatch
from pipeline.ppo.advantages import gae
from pipeline.ppo.ema import EMA
from pipeline.ppo.kl import AdaptiveKLController, FixedKLController, sequence_kl, shape_rewards
from pipeline.ppo.losses import explained_variance, importance_weights, policy_loss, value_loss
from pipeline.ppo.masking import masked_mean, masked_whiten
from pipeline.ppo.rollout import PromptIds, Rollout, Scorer, View, collect
from pipeline.ppo.scores import RunningMoments, clip_scores, missing_eos
from pipeline.rollouts.engine import InProcess, RolloutEngine
from reward.model import ScalarHead
from reward.optimizer import load_tensors, make_optimizer, tensors_of


class PPO:
    """The state of a run and its one verb, `update`."""

    # The adapter that learns, for whoever watches.
    role = POLICY

    def __init__(
        self,
        base: SharedBase,
        value_head: ScalarHead,
        prompts: Sequence[PromptIds],
        settings,
        scorer: Scorer,
        *,
        seed: int,
        micro_batch: MicroBatch | None = None,
        demonstrations: Sequence[tuple[tuple[int, ...], int]] = (),
        engine: RolloutEngine | None = None,
    ):
        """
        Args:
            base: with the roles policy (trainable), reference, reward and value (trainable).
            settings: the `ppo` section of the config.
            micro_batch: how many answers a forward pass takes; halved when memory runs out. Default: `settings.micro_batch`.
            demonstrations: (ids, prompt length) of texts for the pretraining mix, needed when `ptx_coef` > 0.
            engine: who draws the answers; this process when not given.

        Raises:
            ValueError: no prompts, or a pretraining mix without texts.
        """
        if not prompts:
            raise ValueError("PPO needs at least one prompt")
        if settings.ptx_coef > 0 and not demonstrations:
            raise ValueError("ppo.ptx_coef > 0 needs demonstrations to mix in")
        self.base, self.value_head, self.prompts, self.settings = base, value_head, prompts, settings
        self.scorer, self.seed, self.demonstrations = scorer, seed, demonstrations
        self.engine = engine or InProcess()
        self.micro_batch = micro_batch or MicroBatch(settings.micro_batch, "ppo.micro_batch", "ppo.max_new_tokens")
        self.at_once = MicroBatch(
            min(settings.rollout.batch or settings.episodes, settings.episodes),
            "ppo.rollout.batch",
            "ppo.max_new_tokens",
        )
        self.policy = base.parameters(POLICY)
        self.value = [*base.parameters(VALUE), *value_head.parameters()]
        self.policy_optimizer, self.value_optimizer = (
            make_optimizer(settings.optimizer, trained, lr=rate, eps=settings.adam_eps, weight_decay=0.0)
            for trained, rate in ((self.policy, settings.learning_rate), (self.value, settings.value_learning_rate))
        )
        self.controller = (
            FixedKLController(settings.kl_coef)
            if settings.kl_target is None
            else AdaptiveKLController(settings.kl_coef, settings.kl_target, settings.kl_horizon)
        )
        self.moments = RunningMoments()
        self.ema = EMA(base.state(POLICY), settings.ema_decay) if settings.ema_decay is not None else None
        self.done = 0

    # -- one update ------------------------------------------------------------------------------------------------------

    def update(self) -> tuple[dict[str, float], Rollout]:
        """Collects a rollout and learns from it. Returns the figures of the update, and the rollout for looking at.

        Raises:
            FloatingPointError: a score, loss or gradient is not finite. The step that it belongs to was not taken; earlier minibatches of
                the same update were.
            TooFewTokens: the rollout's answers hold too few tokens to whiten over.
            UserError: another engine's answers cannot be this policy's; nothing was learnt from them.
        """
        started = time.monotonic()
        settings = self.settings
        self._set_learning_rate()
        rollout = self.micro_batch.attempt(self._collect)
        collected = time.monotonic()
        rewards, kl = self._rewards(rollout)
        if settings.whiten_rewards:
            rewards = masked_whiten(rewards, rollout.mask, shift_mean=False)
        advantages, returns = gae(rewards, rollout.values, rollout.mask, gamma=settings.gamma, lam=settings.lam)
        # Whitened once, over the tokens of the whole rollout; the returns keep their unit.
        if settings.whiten_advantages:
            advantages = masked_whiten(advantages, rollout.mask)
        mismatch: dict[str, float] = {}
        if self.engine.foreign or settings.rollout.importance_cap is not None:
            weights, mismatch = importance_weights(
                rollout.logprobs, rollout.generated, rollout.mask, cap=settings.rollout.importance_cap
            )
            self._check_sampler(mismatch["sampler_kl"])
            advantages = advantages * weights
        learnt = self._learn(rollout, advantages, returns)
        beta = self.controller.value
        self.controller.update(float(kl.mean()), len(rollout.answers))
        if self.ema is not None:
            self.ema.update(self.base.state(POLICY))
        lengths = rollout.mask.sum(1).float()
        figures = {
            "update": self.done,
            "score": float(rollout.scores.mean()),
            "score_std": float(rollout.scores.std(correction=0)),
            "kl": float(kl.mean()),
            "entropy": rollout.entropy,
            "response_tokens": float(lengths.mean()),
            "eos_rate": float(rollout.finished.float().mean()),
            "reward_total": float(rewards.sum(1).mean()),
            "kl_coef": beta,
            **({} if settings.kl_target is None else {"kl_target": settings.kl_target}),
            "learning_rate": self.policy_optimizer.param_groups[0]["lr"],
            "explained_variance": float(explained_variance(rollout.values, returns, rollout.mask)),
            **({} if rollout.sampler_gap is None else {"sampler_gap": rollout.sampler_gap}),
            **mismatch,
            "episodes": len(rollout.answers) * (self.done + 1),
            "micro_batch": self.micro_batch.size,
            **learnt,
            "rollout_seconds": collected - started,
            "seconds": time.monotonic() - started,
        }
        self.done += 1
        return figures, rollout

    def _check_sampler(self, kl: float) -> None:
        most = self.settings.rollout.max_sampler_kl
        if self.engine.foreign and not abs(kl) <= most:
            raise UserError(
                f"ppo.rollout: the sampler's log-probabilities are {kl:.2f} nats a token from those of the policy that trains, at most "
                f"{most:g} (ppo.rollout.max_sampler_kl). Rounding makes hundredths: the server probably holds another base, or other "
                "weights of it. Start it over the run's own base; nothing was learnt from these answers."
            )

    def _collect(self, micro_batch: int) -> Rollout:
        """The update's rollout. All its chance follows from (seed, update), so a second attempt draws the same answers."""
        return collect(
            self.base,
            self.value_head,
            self._next_prompts(),
            self.settings,
            self.scorer,
            generator=torch.Generator(device=self.base.device).manual_seed(_mix(self.seed, self.done)),
            micro_batch=micro_batch,
            at_once=self.at_once,
            engine=self.engine,
        )

    def _rewards(self, rollout: Rollout) -> tuple[Tensor, Tensor]:
        """(b, t) rewards: −β·KL on every token and the treated score on the last; and the KL (b,) in nats a sequence."""
        settings = self.settings
        scores = rollout.scores
        if settings.score_scaling:
            self.moments.update(scores)
            scores = self.moments.scale(scores)
        scores = clip_scores(scores, settings.score_clip)
        scores = missing_eos(scores, rollout.finished, settings.missing_eos_penalty)
        rewards = shape_rewards(
            scores,
            rollout.logprobs,
            rollout.ref_logprobs,
            rollout.mask,
            kl_coef=self.controller.value,
            estimator=settings.kl_estimator,
        )
        return rewards, sequence_kl(rollout.logprobs, rollout.ref_logprobs, rollout.mask, estimator="k1")

    def _learn(self, rollout: Rollout, advantages: Tensor, returns: Tensor) -> dict[str, float]:
        """`epochs` passes over the rollout in shuffled minibatches. Figures are means over the minibatches taken."""
        settings = self.settings
        rng = random.Random(_mix(self.seed, self.done) ^ 0x5EED)
        taken: list[dict[str, float]] = []
        for _ in range(settings.epochs):
            order = list(range(len(rollout.answers)))
            rng.shuffle(order)
            for start in range(0, len(order), settings.minibatch):
                rows = order[start : start + settings.minibatch]
                taken.append(self._minibatch(rollout, advantages, returns, rows, rng))
                if settings.early_stop_kl is not None and taken[-1]["sequence_kl_step"] > settings.early_stop_kl:
                    return _summary(taken)
        return _summary(taken)

    def _minibatch(self, rollout, advantages, returns, rows: list[int], rng: random.Random) -> dict[str, float]:
        """One optimiser step for policy and value. Micro-batches add up to the gradient of the whole minibatch."""
        settings = self.settings
        # Rows of like length share a micro-batch, so that little of a forward pass is padding.
        lengths = rollout.batch.mask.sum(1).tolist()
        rows = sorted(rows, key=lambda i: lengths[i])
        tokens = int(rollout.mask[rows].sum())
        mixed_in = [self._a_demonstration(rng) for _ in rows] if settings.ptx_coef > 0 else []
        sums = self.micro_batch.attempt(
            lambda size: self._accumulate(rollout, advantages, returns, rows, tokens, mixed_in, size)
        )
        sums["grad_norm"] = float(nn.utils.clip_grad_norm_(self.policy, settings.max_grad_norm))
        sums["value_grad_norm"] = float(nn.utils.clip_grad_norm_(self.value, settings.max_grad_norm))
        for name in ("policy_loss", "value_loss", "grad_norm", "value_grad_norm"):
            if not math.isfinite(sums[name]):
                raise FloatingPointError(
                    f"ppo: {name} is {sums[name]} in update {self.done}, answers {sorted(rows)}. "
                    "That step was not taken; lower ppo.learning_rate or raise ppo.kl_coef."
                )
        for optimizer in (self.policy_optimizer, self.value_optimizer):
            optimizer.step()
        self._zero_grad()
        sums["sequence_kl_step"] = sums["approx_kl"] * tokens / len(rows)
        return sums

    def _zero_grad(self) -> None:
        for optimizer in (self.policy_optimizer, self.value_optimizer):
            optimizer.zero_grad()

    def _accumulate(
        self, rollout, advantages, returns, rows: list[int], tokens: int, mixed_in: Sequence, micro_batch: int
    ) -> dict[str, float]:
        """Leaves the gradients of a minibatch from passes over `micro_batch` rows each.

        Args:
            tokens: answer tokens in the minibatch.
            mixed_in: demonstrations for the pretraining mix.
        """
        settings = self.settings
        self._zero_grad()
        sums: dict[str, float] = {"ratio_max": 0.0}
        for start in range(0, len(rows), micro_batch):
            part = torch.tensor(rows[start : start + micro_batch], device=self.base.device)
            view = View.of(rollout.batch, rollout.trunk, rollout.starts, rollout.tokens, rollout.mask, part)
            share = int(view.mask.sum()) / tokens
            wide = slice(0, view.width)
            logprobs, entropy = view.policy_logprobs(
                self.base, POLICY, settings.temperature, entropy=settings.entropy_coef > 0
            )
            loss, stats = policy_loss(
                logprobs,
                rollout.logprobs[part, wide],
                advantages[part, wide],
                view.mask,
                clip_range=settings.clip_range,
            )
            total = loss
            if settings.entropy_coef > 0:
                total = total - settings.entropy_coef * masked_mean(entropy, view.mask)
            (total * share).backward()
            values = view.values(self.base, self.value_head)
            critic = value_loss(
                values,
                rollout.values[part, wide],
                returns[part, wide],
                view.mask,
                clip_range=settings.value_clip_range,
            )
            (settings.value_coef * critic * share).backward()
            figures = {
                "policy_loss": loss.item(),
                "value_loss": critic.item(),
                **{k: float(v) for k, v in stats.items()},
            }
            sums["ratio_max"] = max(sums["ratio_max"], figures.pop("ratio_max"))
            for name, value in figures.items():
                sums[name] = sums.get(name, 0.0) + value * share
        if mixed_in:
            sums["ptx_loss"] = self._pretraining_mix(mixed_in, micro_batch)
        return sums

    def _a_demonstration(self, rng: random.Random) -> tuple[tuple[int, ...], int]:
        return self.demonstrations[rng.randrange(len(self.demonstrations))]

    def _pretraining_mix(self, chosen: Sequence[tuple[tuple[int, ...], int]], micro_batch: int) -> float:
        """Adds the gradient of γ · LM loss on demonstrations (PPO-ptx; Ouyang et al. 2022, eq. 2).

        Returns:
            the loss: −log π at temperature 1, nats, mean over the answers' tokens with their end.
        """
        from pipeline.ppo.logprobs import token_logprobs

        tokens = sum(len(ids) - prompt for ids, prompt in chosen)
        total = 0.0
        for start in range(0, len(chosen), micro_batch):
            part = chosen[start : start + micro_batch]
            states, _ = self.base.encode([ids for ids, _ in part], POLICY)
            mask = torch.zeros(states.shape[:2], dtype=torch.bool, device=states.device)
            target = torch.zeros(states.shape[:2], dtype=torch.long, device=states.device)
            for i, (ids, prompt) in enumerate(part):
                mask[i, prompt - 1 : len(ids) - 1] = True
                target[i, : len(ids) - 1] = torch.tensor(ids[1:], device=states.device)
            logprobs, _ = token_logprobs(states[mask], self.base.lm_head, target[mask], temperature=1.0)
            loss = -logprobs.sum() / tokens
            (self.settings.ptx_coef * loss).backward()
            total += loss.item()
        return total

    # -- carrying over ---------------------------------------------------------------------------------------------------

    def state(self) -> tuple[dict[str, Tensor], dict]:
        """Everything the next update depends on: tensors by name, and facts that JSON can hold."""
        tensors = {f"policy/{n}": t for n, t in self.base.state(POLICY).items()}
        tensors |= {f"value/{n}": t for n, t in self.base.state(VALUE).items()}
        tensors |= {f"head/{n}": t.detach().clone() for n, t in self.value_head.state_dict().items()}
        for name, optimizer in (("policy", self.policy_optimizer), ("value", self.value_optimizer)):
            tensors |= tensors_of(optimizer, f"adam/{name}/")
        if self.ema is not None:
            tensors |= {f"ema/{n}": t for n, t in self.ema.state.items()}
        facts = {
            "done": self.done,
            "micro_batch": self.micro_batch.size,
            "at_once": self.at_once.size,
            "controller": self.controller.state_dict(),
            "moments": self.moments.state_dict(),
        }
        return tensors, facts

    def load_state(self, tensors: dict[str, Tensor], facts: dict) -> None:
        """Takes up where `state` left off."""

        self.load_roles(tensors)
        for name, optimizer in (("policy", self.policy_optimizer), ("value", self.value_optimizer)):
            load_tensors(optimizer, tensors, f"adam/{name}/")
        self.controller.load_state_dict(facts["controller"])
        self.moments.load_state_dict(facts["moments"])
        self.done = facts["done"]
        self.micro_batch.size, self.at_once.size = facts["micro_batch"], facts["at_once"]

    def load_roles(self, tensors: dict[str, Tensor]) -> None:
        """Puts back what of a `state` speaks and judges: policy, value model and averaged policy. The optimisers stay."""
        self.base.load_state(POLICY, _part(tensors, "policy/"))
        self.base.load_state(VALUE, _part(tensors, "value/"))
        self.value_head.load_state_dict(_part(tensors, "head/"))
        if self.ema is not None:
            self.ema.load(_part(tensors, "ema/"))

    # -- what is next ----------------------------------------------------------------------------------------------------

    def _next_prompts(self) -> list[PromptIds]:
        """The prompts in shuffled order, each once before any comes again."""
        first, count = self.done * self.settings.episodes, self.settings.episodes
        return [self._prompt_at(i) for i in range(first, first + count)]

    def _prompt_at(self, position: int) -> PromptIds:
        epoch, index = divmod(position, len(self.prompts))
        if getattr(self, "_order_epoch", None) != epoch:
            self._order = list(range(len(self.prompts)))
            random.Random(_mix(self.seed, epoch) ^ 0xFACE).shuffle(self._order)
            self._order_epoch = epoch
        return self.prompts[self._order[index]]

    def _set_learning_rate(self) -> None:
        """Falls linearly to zero over the run when `lr_decay` is on."""
        settings = self.settings
        left = 1.0 - self.done / settings.updates if settings.lr_decay else 1.0
        for optimizer, rate in (
            (self.policy_optimizer, settings.learning_rate),
            (self.value_optimizer, settings.value_learning_rate),
        ):
            for group in optimizer.param_groups:
                group["lr"] = rate * left


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def _mix(seed: int, counter: int) -> int:
    """A seed for each counter, far from its neighbours' (SplitMix64's constant)."""
    return ((seed + 1) * 0x9E3779B97F4A7C15 + counter * 0xBF58476D1CE4E5B9) & 0x7FFFFFFFFFFFFFFF


def _summary(taken: list[dict[str, float]]) -> dict[str, float]:
    names = taken[0].keys()
    figures = {name: sum(t[name] for t in taken) / len(taken) for name in names if name != "ratio_max"}
    # Before the first step nothing has moved: this is 0 up to the arithmetic, and says so.
    return {
        **figures,
        "ratio_max": max(t["ratio_max"] for t in taken),
        "first_ratio_max": taken[0]["ratio_max"],
        "minibatches": len(taken),
    }
