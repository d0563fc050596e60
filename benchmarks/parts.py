"""What each thrifty part of PPO saves, one at a time: the part as it is, and the plain way that it replaces.

    python benchmarks/parts.py --repeats 5

16 answers of at most 32 tokens on the embedded model, float32, adapters on the last ten layers. CPU-seconds of one thread, medians; a
part and its plain way take turns. Results: `benchmarks/results/parts.json`.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from pathlib import Path
from statistics import median
from unittest import mock

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
sys.path.insert(0, str(HERE / "peer"))
RESULTS = HERE / "results" / "parts.json"
ROWS, TOKENS, LAST_LAYERS = 16, 32, 10
# The token that ends a scripted answer.
ENDS = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    found = []
    for name, kept, plain in parts():
        taken: dict[str, list[float]] = {"kept": [], "plain": []}
        for repeat in range(arguments.repeats + 1):
            for way, work in (("kept", kept), ("plain", plain)):
                started = time.process_time()
                work()
                # The first round warms up.
                if repeat:
                    taken[way].append(time.process_time() - started)
        found.append({"part": name, **{way: median(seconds) for way, seconds in taken.items()}})
        print(found[-1], flush=True)
    RESULTS.parent.mkdir(exist_ok=True)
    command = f"python benchmarks/parts.py --repeats {arguments.repeats}"
    RESULTS.write_text(json.dumps({"command": command, "parts": found}, indent=1) + "\n", encoding="utf-8")


def parts():
    """(what is saved, the way it is done, the plain way) for each part."""
    import task
    import torch

    from pipeline import generation
    from pipeline.adapters import POLICY, REFERENCE, Batch, SharedBase
    from pipeline.config import LoraConfig, ModelConfig
    from pipeline.generation import Sampling, sample
    from pipeline.models import load
    from pipeline.ppo.logprobs import token_logprobs

    plainly = generation.draw
    model, tokenizer = load(ModelConfig(dtype="float32"))
    base = SharedBase(model, tokenizer, LoraConfig(last_layers=LAST_LAYERS))
    for role in (POLICY, REFERENCE):
        base.add(role, trainable=role == POLICY)
    prompts = [tokenizer(t, add_special_tokens=False)["input_ids"] for t in task.prompts()][:ROWS]
    # Lengths as after some training: most answers end early.
    rng = random.Random(0)
    lengths = [min(TOKENS, 4 + int(rng.expovariate(1 / 10))) for _ in prompts]
    ids = [p + [rng.randrange(100, 20000) for _ in range(n)] for p, n in zip(prompts, lengths, strict=True)]
    batch = Batch.of(ids, tokenizer.pad_token_id)
    with torch.no_grad():
        trunk = base.trunk(batch)
        states = base.states(trunk, batch.mask, POLICY)
    answers = torch.zeros_like(batch.mask)
    for i, (p, n) in enumerate(zip(prompts, lengths, strict=True)):
        answers[i, len(p) - 1 : len(p) - 1 + n] = True
    targets = torch.roll(batch.ids, -1, 1)

    def roles_over_trunk() -> None:
        with torch.no_grad():
            below = base.trunk(batch)
            for role in (POLICY, REFERENCE):
                base.states(below, batch.mask, role)

    def roles_each_whole() -> None:
        with torch.no_grad():
            for role in (POLICY, REFERENCE):
                base.states(base.trunk(batch), batch.mask, role)

    def logprobs_of_answers() -> None:
        token_logprobs(states[answers], base.lm_head, targets[answers], temperature=1.0)

    def logprobs_everywhere() -> None:
        logits = (states @ base.lm_head.weight.T).float()
        logits.log_softmax(-1).gather(-1, targets[..., None])

    def learn(groups: list[list[int]]) -> None:
        for rows in groups:
            width = int(batch.mask[rows].sum(1).max())
            out = base.states(trunk[rows, :width], batch.mask[rows, :width], POLICY)
            out[answers[rows, :width]].sum().backward()

    by_length = sorted(range(ROWS), key=lambda i: len(ids[i]))
    as_drawn = list(range(ROWS))
    groups = {
        name: [order[i : i + 4] for i in range(0, ROWS, 4)]
        for name, order in (("sorted", by_length), ("drawn", as_drawn))
    }

    def generate(merged: bool) -> None:
        if merged:
            base.peft_model.merge_adapter([POLICY])
        try:
            with base.acting_as(POLICY), torch.no_grad():
                sample(
                    base.causal_lm,
                    prompts,
                    Sampling(TOKENS, seed=0),
                    eos_id=-1,
                    pad_id=tokenizer.pad_token_id,
                    batch_size=ROWS,
                )
        finally:
            if merged:
                base.peft_model.unmerge_adapter()

    class Scripted:
        """Stands in for the draw: rows end where `lengths` says, when they may leave, and nobody ends when they may not."""

        def __init__(self, leave: bool):
            self.leave, self.count, self.rows = leave, 0, sorted(range(ROWS), key=lambda i: len(prompts[i]))

        def __call__(self, logits, sampling, generator):
            drawn, logprobs = plainly(logits, sampling, generator)
            self.count += 1
            if self.leave:
                ends = torch.tensor([lengths[i] == self.count for i in self.rows])
                drawn = torch.where(ends, ENDS, drawn.clamp(min=ENDS + 1))
                self.rows = [i for i, e in zip(self.rows, ends.tolist(), strict=True) if not e]
            return drawn, logprobs

    def decode(leave: bool) -> None:
        """All answers drawn by the loop of rollouts, prompts and history included."""
        with mock.patch.object(generation, "draw", Scripted(leave)), base.acting_as(POLICY), torch.no_grad():
            found = sample(
                base.causal_lm, prompts, Sampling(TOKENS, seed=0), eos_id=ENDS if leave else -1,
                pad_id=tokenizer.pad_token_id, batch_size=ROWS,
            )  # fmt: skip
        assert [len(f.ids) for f in found] == (lengths if leave else [TOKENS] * ROWS)

    yield "one trunk for two roles (not a whole pass for each)", roles_over_trunk, roles_each_whole
    yield (
        "log-probabilities at answer tokens only, in chunks (not at every position)",
        logprobs_of_answers,
        logprobs_everywhere,
    )
    yield "micro-batches of like length (not as drawn)", lambda: learn(groups["sorted"]), lambda: learn(groups["drawn"])
    yield "finished answers leave the batch (not padded to the end)", lambda: decode(True), lambda: decode(False)
    yield (
        "not used: adapter merged while generating (plain: not merged)",
        lambda: generate(True),
        lambda: generate(False),
    )


if __name__ == "__main__":
    main()
