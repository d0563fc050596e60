"""KTO under the watch that PPO has: looks at answers to kept-back questions every few steps, and the policy to go back to."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

from torch import Tensor

from pipeline.adapters import SharedBase
from pipeline.memory import READ_AT_ONCE, MicroBatch
from pipeline.ppo.watch import Watch
from pipeline.rollouts.engine import InProcess
from pipeline.stages.samples import Samples

TENSORS, FACTS = "watched.safetensors", "watched.json"
# As PPO names its policy: what a watch keeps.
_POLICY = "policy/"


class Learner:
    """The policy as it learns by KTO: it raises no reward, and draws answers for looks alone."""

    scorer = None

    def __init__(self, base: SharedBase, role: str, settings, steps: int):
        self.base, self.role, self.done = base, role, 0
        self.settings = SimpleNamespace(
            updates=steps, max_new_tokens=settings.max_new_tokens, temperature=settings.temperature
        )
        self.engine = InProcess()
        self.at_once = MicroBatch(READ_AT_ONCE, None, "kto.max_new_tokens or data.max_prompt_tokens")

    def state(self) -> tuple[dict[str, Tensor], dict]:
        return {_POLICY + name: tensor for name, tensor in self.base.state(self.role).items()}, {}

    def load_roles(self, tensors: dict[str, Tensor]) -> None:
        self.base.load_state(self.role, {name.removeprefix(_POLICY): t for name, t in tensors.items()})


class Watching:
    """A watch as the onlooker of a trainer of TRL's (`pipeline.stages.trl.Onlooker`)."""

    def __init__(self, watch: Watch, learner: Learner, samples: Samples):
        self.watch, self._learner, self._samples = watch, learner, samples
        self._seen: int | None = None
        watch.onlooker = lambda update, answers, judged: samples.add(update, answers, judged, by="judge")

    def after(self, steps: int) -> bool:
        """Looks when it is time. A checkpoint holds the look at its own step, so what it was taken up with is not looked at twice."""
        if steps != self._seen:
            self._seen = self._learner.done = steps
            with _at_rest(self._learner.base):
                self.watch.before(self._learner)
        return self.watch.alarm is not None

    def roll_back(self) -> None:
        """After an alarm: the policy that the watch kept."""
        if self.watch.alarm is not None:
            self.watch.roll_back(self._learner)

    def save(self, folder: Path) -> None:
        from safetensors.torch import save_file

        tensors, facts = self.watch.state()
        save_file({name: t.contiguous().cpu() for name, t in tensors.items()}, folder / TENSORS)
        facts |= {"seen": self._seen, "at_once": self._learner.at_once.size, "samples": self._samples.text}
        (folder / FACTS).write_text(json.dumps(facts), encoding="utf-8")

    def load(self, folder: Path) -> None:
        from safetensors.torch import load_file

        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        self.watch.load_state(load_file(folder / TENSORS), facts)
        self._seen, self._learner.at_once.size = facts["seen"], facts["at_once"]
        # A checkpoint from before answers were kept has none.
        self._samples.begin(facts.get("samples", ""))


@contextmanager
def _at_rest(base: SharedBase) -> Iterator[None]:
    """Within the block the model is not training: where layers are made again in the backward pass, one that trains has no cache."""
    model = base.causal_lm
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
