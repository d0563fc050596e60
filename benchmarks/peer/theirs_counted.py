"""TRL's last PPO trainer on weights that have a shape and no memory, counted: `theirs.py` as it is, with what torch asks of a device looked past.

    python benchmarks/peer/theirs_counted.py --model … --json … --random '{…}'   (the arguments of theirs.py, in its environment)

The last line it prints is a JSON object: `begun` and `counted`, bytes held when training begins and at its fullest moment.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent.parent)]

import theirs  # noqa: E402
import trl.experimental.ppo.ppo_trainer as trainer_module  # noqa: E402
from counting import META, Counted, on_cpu, trained_where_it_is  # noqa: E402
from peft import get_peft_model  # noqa: E402


def main() -> None:
    counted, begun = Counted(), []
    made, init = theirs.models, theirs.PPOTrainer.__init__

    def models(arguments, dtype):
        found = made(SimpleNamespace(**{**vars(arguments), "device": "meta"}), dtype)
        for model in found:
            counted.count_module(model)
            on_cpu(model)
        return found

    def begin(self, *args, **kwargs) -> None:
        init(self, *args, **kwargs)
        begun.append(counted.begin())

    def adapted(*args, **kwargs):
        with META:
            return get_peft_model(*args, **kwargs)

    with (
        mock.patch.object(theirs, "models", models),
        mock.patch.object(theirs.PPOTrainer, "__init__", begin),
        mock.patch.object(trainer_module, "get_peft_model", adapted),
        trained_where_it_is(),
        counted,
    ):
        theirs.main()
    print(json.dumps({"begun": begun[0], "counted": counted.peak}))


if __name__ == "__main__":
    main()
