"""Watching a policy that learns, by PPO or by KTO: what the failure detectors need to see, and the policy to go back to when one
of them fires.

The judge sees answers to a few fixed prompts every so many updates. It is never the reward that PPO raises: the policy that
this reward likes best is the one that games it best. The same prompts and the same chance serve every look, so two looks
differ by the policy alone, and looking changes nothing in the run. Where no answers are drawn to learn from (KTO), those of
the looks are what the detectors of a rollout read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from data.numbers import many
from pipeline.adapters import REWARD, SharedBase
from pipeline.evaluation import detectors
from pipeline.evaluation.detectors import Alarm, History, Look, Probe
from pipeline.memory import READ_AT_ONCE, MicroBatch
from pipeline.ppo.figures import answer_figures
from pipeline.ppo.probes import Probes
from pipeline.ppo.rollout import PromptIds, Scorer, draw
from pipeline.rollouts.engine import RolloutEngine
from reward.sources import Answered

Judge = Callable[[Sequence[Answered]], Sequence[float]]
_CARRIED = ("policy/", "value/", "head/", "ema/")
_KEPT = "kept/"


class Learner(Protocol):
    """What is watched: `PPO`, or the like.

    Attributes:
        role: the adapter that learns.
        settings: `updates` in all, and how the looks' answers are drawn: `max_new_tokens`, `temperature`.
        scorer: the reward that is raised; None where none is.
        at_once: how many answers are drawn at a time.
        done: updates so far.
    """

    role: str
    base: SharedBase
    settings: Any
    scorer: Scorer | None
    engine: RolloutEngine | None
    at_once: MicroBatch
    done: int

    def state(self) -> tuple[dict[str, Tensor], dict]:
        """As `PPO.state`; what is gone back to is named as there."""

    def load_roles(self, tensors: dict[str, Tensor]) -> None:
        """As `PPO.load_roles`."""


class Watch:
    """The notes of a run, the alarms they raise, and the policy kept to go back to.

    With a judge that is the policy it liked best so far. Without one it is that of the last quiet moment: nothing else may
    choose, least of all the reward.
    """

    def __init__(
        self,
        bounds,
        prompts: Sequence[PromptIds] = (),
        judge: Judge | None = None,
        *,
        probes: Probes | None = None,
        seed: int = 0,
        start: str = detectors.SFT,
        name: str = "PPO",
        reference: str | None = None,
    ):
        """
        Args:
            bounds: the `detectors` section of the config.
            prompts: what the judge sees answers to; asked neither in training nor by the final evaluation.
            judge: answers → one score each, higher is better; None where nothing independent is at hand.
            start, name: what sentences call the policy that is begun with, and the training.
            reference: the adapter that KL is measured from where the looks' answers are the only ones; None where there are rollouts.
            probes: texts and questions that show forgetting and sycophancy; read whenever the judge looks.
        """
        self.bounds, self.prompts, self.seed, self.start = bounds, list(prompts), seed, start
        self.judge = judge if bounds.judge_every and prompts else None
        self.reference, self.name = reference, name
        # Told of the answers of every look, with the judge's scores where there is one: (update, answers, scores).
        self.onlooker: Callable[[int, Sequence[Answered], Sequence[float]], None] = lambda *look: None
        self._read = probes
        self.probes: list[Probe] = []
        self.lines: list[dict] = []
        self.looks: list[Look] = []
        self.alarms: list[Alarm] = []
        self.kept_update: int | None = None
        self._kept: dict[str, Tensor] = {}

    @property
    def alarm(self) -> Alarm | None:
        """What stops the run: the first alarm that is more than a warning."""
        return next((alarm for alarm in self.alarms if alarm.stops), None)

    def before(self, ppo: Learner) -> Alarm | None:
        """To call before every update and after the last one: looks when it is time, and keeps a policy worth keeping.

        Returns:
            what stops the run, or None to go on. The same holds for `after`.
        """
        last = ppo.done == ppo.settings.updates
        every = self.bounds.judge_every or self.bounds.window
        # A run that was killed between an alarm and its end comes here again: nothing more is to be seen.
        if self.alarm is not None or not self.bounds.enabled or (ppo.done % every and not last):
            return self.alarm
        if self._read is not None:
            self.probes.append(self._read.read(ppo.done))
            self._note(detectors.ON_PROBES)
        if self.judge is not None or (self.prompts and self.reference is not None):
            look = self._look(ppo)
            if look is not None:
                self.looks.append(look)
                self._note(detectors.ON_LOOKS)
        # A policy that forgot or flatters is nothing to go back to, however much the judge likes it.
        if self.alarm is None and (self.judge is None or detectors.best_look(self.looks) is self.looks[-1]):
            self._keep(ppo)
        return self.alarm

    def after(self, figures: dict) -> Alarm | None:
        """To call with the figures of every update."""
        self.lines.append(figures)
        if self.bounds.enabled:
            self._note(detectors.ON_UPDATES)
        return self.alarm

    def roll_back(self, ppo: Learner) -> None:
        """Puts the kept policy, its value model and its average back in place of the present ones."""
        ppo.load_roles(self._kept)

    def report(self) -> dict:
        """What is written beside the stage's log, in numbers that JSON can hold."""
        return {
            "judge": self.judge is not None,
            "looks": [asdict(look) for look in self.looks],
            "probes": [asdict(probe) for probe in self.probes],
            "alarms": [_finite(asdict(alarm)) for alarm in self.alarms],
            "rolled_back_to": self.kept_update if self.alarm else None,
            "said": self.sentence(),
            # Rollouts have theirs in the stage's log.
            **({"lines": self.lines} if self.reference is not None else {}),
        }

    def sentence(self) -> str:
        """Why the run stopped and what it went back to, in one line; empty when it did not."""
        if self.alarm is None:
            return ""
        chosen = "the judge's best so far" if self.judge else "the last quiet check, for want of a judge"
        best = detectors.best_look(self.looks)
        if self.judge and best and best.update != self.kept_update:
            # The look at which the alarm came was a better one, but of a policy that forgot or flatters.
            chosen = "the judge's best before it"
        policy = f"the policy after {many(self.kept_update, 'update')}" if self.kept_update else self._beginning
        return f"{self.alarm.sentence}. {self.name} stopped and went back to {policy} ({chosen})."

    @property
    def _beginning(self) -> str:
        return "the SFT policy" if self.start == detectors.SFT else f"the policy that {self.name} started from"

    # -- carrying over ---------------------------------------------------------------------------------------------------

    def state(self) -> tuple[dict[str, Tensor], dict]:
        """As `PPO.state`: what a resumed run needs so that it watches as the whole one does."""
        facts = {
            "lines": self.lines,
            "looks": [asdict(look) for look in self.looks],
            "probes": [asdict(probe) for probe in self.probes],
            "alarms": [_finite(asdict(alarm)) for alarm in self.alarms],
            "kept_update": self.kept_update,
        }
        return {_KEPT + name: tensor for name, tensor in self._kept.items()}, {"watch": facts}

    def load_state(self, tensors: dict[str, Tensor], facts: dict) -> None:
        facts = facts["watch"]
        self.lines = list(facts["lines"])
        self.looks = [Look(**{**look, "judge": tuple(look["judge"])}) for look in facts["looks"]]
        self.probes = [
            Probe(**{k: tuple(v) if isinstance(v, list) else v for k, v in probe.items()}) for probe in facts["probes"]
        ]
        self.alarms = [Alarm(**alarm) for alarm in facts["alarms"]]
        self.kept_update = facts["kept_update"]
        self._kept = {n.removeprefix(_KEPT): t for n, t in tensors.items() if n.startswith(_KEPT)}

    # -- inside ----------------------------------------------------------------------------------------------------------

    def _note(self, which) -> None:
        known = {alarm.detector for alarm in self.alarms}
        found = detectors.alarms(History(self.lines, self.looks, self.probes), self.bounds, which)
        # A warning that goes on is one warning.
        self.alarms += [
            replace(alarm, sentence=alarm.sentence.replace(detectors.SFT, self.start))
            for alarm in found
            if alarm.stops or alarm.detector not in known
        ]

    def _keep(self, ppo: Learner) -> None:
        tensors, _ = ppo.state()
        # Copies: the average is moved in place at every update.
        self._kept = {name: tensor.clone() for name, tensor in tensors.items() if name.startswith(_CARRIED)}
        self.kept_update = ppo.done

    def _look(self, ppo: Learner) -> Look | None:
        def drawn(rows: int):
            generator = torch.Generator(device=ppo.base.device).manual_seed(self.seed)
            return draw(
                ppo.base, self.prompts, ppo.settings, generator, batch_size=rows, engine=ppo.engine, role=ppo.role
            )

        # As many at a time as in a rollout: a look must not be what fills the memory.
        samples, answers = ppo.at_once.attempt(drawn)
        if self.reference is not None:
            figures = answer_figures(ppo.base, ppo.role, self.reference, samples, answers, ppo.settings.temperature)
            self.after({"update": ppo.done, **figures})
        judged = tuple(float(x) for x in self.judge(answers)) if self.judge is not None else ()
        self.onlooker(ppo.done, answers, judged)
        if self.judge is None:
            return None
        return Look(ppo.done, judged, self._paid(ppo, answers) if ppo.scorer is not None else None)

    def _paid(self, ppo: Learner, answers: Sequence[Answered]) -> float:
        """The mean reward of the answers, by what the training raises."""
        proxy: list[float] = []

        @torch.no_grad()
        def read(part) -> None:
            proxy.extend(
                ppo.scorer(part, lambda sequences, role=REWARD: ppo.base.encode(sequences, role)).float().tolist()
            )

        MicroBatch(READ_AT_ONCE, None, "ppo.max_new_tokens or data.max_prompt_tokens").over(answers, read)
        return sum(proxy) / len(proxy)


def _finite(row: dict) -> dict:
    """JSON has no infinity: a fall that every prompt shares has no standard error, and its size in them is left out."""
    return {key: None if isinstance(v, float) and not math.isfinite(v) else v for key, v in row.items()}
