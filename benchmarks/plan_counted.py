"""The memory plan held against tensors that were counted, at the full size of every shipped GPU config, without a card.

    python benchmarks/plan_counted.py

The code that trains runs on weights that have a shape and no memory (`benchmarks/counting.py`): two PPO updates and two steps of SFT and of
the reward model on rows of full length, as in `plan_check.py`, each of a config as it is shipped. Answers are not drawn token by token: after
the first token the cache is made as long as it will be, and the last two tokens are drawn. What is counted is what the program holds; what a
card keeps for itself, and blocks that its allocator cannot use again, are not in it, nor in the plan's figure beside it.

The same for models of other families (`families.py`), all with one recipe, since a plan is asked about any model.

Then, as `benchmarks/gpu.py` measures it on a card, one base with four roles beside a model for each role, and the task of its part `peer8b` on
our side and, with `--peer-python` (benchmarks/side_by_side.py says how to make that environment), in TRL's last PPO trainer.

Kept in `benchmarks/results/plan_counted.json`; `benchmarks/gpu_report.py` writes the tables of docs/gpu.md from it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path[:0] = [str(ROOT), str(HERE)]
from families import FAMILIES, RECIPE  # noqa: E402
from gpu import PEER_8B  # noqa: E402

RESULTS = HERE / "results" / "plan_counted.json"
CONFIGS = ("single_gpu_8b", "single_gpu_1b", "qwen3_0.6b_ultrafeedback", "hh_rlhf", "tldr", "quickstart_gpu")
STAGES = ("sft", "reward", "ppo")
SEPARATE = [(model, bits) for model in ("135m", "8b") for bits in ("none", "4bit")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", help="configs or families by name, 'roles' or 'peer'")
    parser.add_argument("--peer-python", help="the Python of an environment that holds TRL 1.12.0")
    parser.add_argument("--again", action="store_true", help="count anew what is in the results already")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    kept = {"command": "python benchmarks/plan_counted.py", "plans": [], "families": [], "roles": [], "peer": []}
    if arguments.out.exists():
        kept |= json.loads(arguments.out.read_text(encoding="utf-8"))

    def among(list_name: str, name: str, key: dict, count) -> None:
        rows = kept[list_name]
        found = next((row for row in rows if key.items() <= row.items()), None)
        if (not arguments.only or name in arguments.only) and (found is None or arguments.again):
            rows[:] = [row for row in rows if row is not found] + [{**key, **count(**key)}]
            print(rows[-1], flush=True)
        arguments.out.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")

    for name in CONFIGS:
        for stage in STAGES:
            among("plans", name, {"config": name, "stage": stage}, counted_stage)
    for name in FAMILIES:
        for stage in STAGES:
            among("families", name, {"family": name, "stage": stage}, counted_family)
    for model, bits in SEPARATE:
        among("roles", "roles", {"model": model, "bits": bits}, counted_roles)
    for side in PEER_8B:
        if arguments.peer_python or not side.startswith("TRL"):
            among("peer", "peer", {"side": side}, partial(counted_peer, python=arguments.peer_python))
    kept["plans"].sort(key=lambda row: (CONFIGS.index(row["config"]), STAGES.index(row["stage"])))
    # The plan is code that may have changed since something was counted.
    for row in kept["plans"]:
        row.update(planned_stage(load(row["config"]), row["stage"]))
    for row in kept["families"]:
        with recipe_for(row["family"]) as config:
            row.update(planned_stage(config, row["stage"]))
    arguments.out.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def counted_stage(config: str, stage: str) -> dict:
    """The peaks of one stage of a shipped config in bytes, by moment."""
    return counted(load(config), stage)


def counted_family(family: str, stage: str) -> dict:
    """The same of `RECIPE` with a model of that family."""
    with recipe_for(family) as config:
        return counted(config, stage)


@contextmanager
def recipe_for(family: str):
    """`RECIPE` with a base of that family, of which there is nothing but its config.json."""
    from pipeline.config import load_config

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(FAMILIES[family]), encoding="utf-8")
        yield load_config(ROOT / "configs" / f"{RECIPE}.yaml", [f"model.name={folder}"])


def counted(config, stage: str) -> dict:
    import plan_check
    from counting import Counted

    with Counted() as count, without_numbers(count):
        base = base_of(config)
        count.count_module(base.causal_lm)
        loaded = count.begin()
        work = {"sft": demonstrations, "reward": plan_check.step, "ppo": partial(plan_check.update, uneven=True)}
        work[stage](base, config)
    return {"weights": loaded, "counted": count.peak, "counted_moments": count.peaks}


def demonstrations(base, config) -> None:
    """Two steps of SFT. On a card TRL's kernels change a tile of logits in place and read what is learnt alone: here they change nothing."""
    import plan_check
    import transformers
    import trl.kernels.chunked_logprob as tiles
    import trl.trainer.utils as heads
    from counting import trained_where_it_is

    step = transformers.Trainer.training_step
    with (
        trained_where_it_is(),
        mock.patch.object(tiles, "_forward_tile", lambda *_, **__: None),
        mock.patch.object(tiles, "_backward_tile", lambda *_, **__: None),
        mock.patch.object(heads, "_use_triton", lambda _: True),
        # The loss that is reported is a number.
        mock.patch.object(transformers.Trainer, "training_step", lambda *args, **kwargs: step(*args, **kwargs).detach().cpu()),
    ):
        plan_check.demonstrations(base, config)


def planned_stage(config, stage: str) -> dict:
    """What the plan says of it, without what a card keeps for itself."""
    from pipeline.planning.plan import make_plan

    said = next(s for s in make_plan(config, on_gpu=True, bfloat16=True).stages if s.name == stage)
    held = sum(said.parts.values())
    return {
        "planned_weights": said.parts["weights"],
        "planned": said.peak,
        "planned_moments": {moment: held + taken for moment, taken in said.moments.items()},
    }


def load(name: str):
    from pipeline.config import load_config

    return load_config(ROOT / "configs" / f"{name}.yaml")


def counted_roles(model: str, bits: str) -> dict:
    return {"one": roles(model, bits, False), "separate": roles(model, bits, True)}


def roles(model: str, bits: str, separate: bool) -> int:
    """Peak bytes over two PPO updates of 8 answers, as `gpu.py` has it in its part `memory`."""
    import gpu_work as work
    from counting import META, Counted

    shape = work.SHAPES[model]
    with Counted() as counted, without_numbers(counted):

        def make_base():
            base = work.random_base(shape, bits, META, recompute=model == "8b")
            counted.count_module(base.causal_lm)
            return hollow(base)

        base = work.with_roles(make_base, separate=separate)
        counted.begin()
        ppo = work.trainer(base, rows=8, micro=4, prompt=128, answer=128, vocabulary=shape.vocabulary)
        with work.answers_without_end():
            for _ in range(2):
                ppo.update()
    return counted.peak


def counted_peer(side: str, python: str | None) -> dict:
    """Peak bytes of the task of `gpu.py`'s part `peer8b`: two updates of 8 answers of 128 tokens at Llama 3.1 8B's shape, all layers adapted."""
    import gpu_work
    from counting import META, Counted
    from gpu_work import SHAPES
    from side_by_side import embedded

    with tempfile.TemporaryDirectory() as folder:
        options = ["--model", embedded(), "--json", f"{folder}/out.json", "--random", json.dumps(asdict(SHAPES["8b"])), "--batch", "8"]
        options += ["--minibatch", "4", "--response", "128", "--updates", "2", "--threads", "1", *PEER_8B[side]]
        if side.startswith("TRL"):
            command = [python, HERE / "peer" / "theirs_counted.py", *options]
            done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, cwd=folder)
            if done.returncode:
                sys.exit(done.stderr[-3000:])
            return {"counted": json.loads(done.stdout.strip().splitlines()[-1])["counted"]}
        from peer import ours

        with Counted() as counted, without_numbers(counted):

            def base(shape, bits, device):
                made = gpu_work.random_base(SHAPES["8b"], bits, META, recompute=False)
                counted.count_module(made.causal_lm)
                counted.begin()
                return hollow(made)

            with mock.patch.object(ours, "random_base", base), mock.patch.object(sys, "argv", ["ours.py", *options]):
                ours.main()
        return {"counted": counted.peak}


def base_of(config):
    """The base of a config, in its number format, with weights that have no memory."""
    import torch
    from counting import META
    from gpu_work import in_four_bits
    from transformers import AutoConfig, AutoModelForCausalLM

    from pipeline.adapters import SharedBase
    from pipeline.planning.shapes import shape_of

    default = torch.get_default_dtype()
    # What `model.dtype: auto` is on a card.
    torch.set_default_dtype(torch.float32 if config.model.dtype == "float32" else torch.bfloat16)
    try:
        with META:
            model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**described(config.model.name, shape_of(config.model.name))))
    finally:
        torch.set_default_dtype(default)
    if config.model.quantization == "4bit":
        in_four_bits(model, META)
    model.config.pad_token_id = 0
    model.requires_grad_(False).eval()
    tokenizer = SimpleNamespace(eos_token_id=-1, pad_token_id=0, decode=lambda ids, **_: " ".join(map(str, ids)))
    return hollow(SharedBase(model, tokenizer, config.lora, recompute=config.model.gradient_checkpointing))


def described(name: str, shape) -> dict:
    """What `transformers` needs to build a model of that family and shape."""
    from peer.task import llama

    if (file := Path(name) / "config.json").exists():
        return json.loads(file.read_text(encoding="utf-8"))
    if "pythia" in name:
        return {
            "model_type": "gpt_neox", "hidden_size": shape.hidden, "intermediate_size": shape.inner, "num_hidden_layers": shape.layers,
            "num_attention_heads": shape.heads, "vocab_size": shape.vocabulary, "tie_word_embeddings": shape.tied,
        }  # fmt: skip
    return {"model_type": "qwen3" if "Qwen3" in name else "llama", **llama(asdict(shape))}


def hollow(base):
    """That base as one whose new adapters have no memory either; what is made for it is real, as for its model."""
    from counting import CPU, META, on_cpu

    on_cpu(base.causal_lm)
    base.device = CPU
    add = base.add

    def add_without_memory(*args, **kwargs) -> None:
        with META:
            add(*args, **kwargs)

    base.add = add_without_memory
    return base


@contextmanager
def without_numbers(counted):
    """Heads without memory, and answers of which the first token and the last two are drawn."""
    import bitsandbytes
    import gpu_work
    from bitsandbytes.optim.optimizer import Optimizer8bit
    from counting import META

    import pipeline.roles
    import reward.model
    from pipeline.rollouts import engine

    raw_scores, made = pipeline.roles.raw_scores, Optimizer8bit.__init__

    def unpaged(self, params, defaults, optim_bits=32, is_paged=False) -> None:
        made(self, params, defaults, optim_bits, False)

    def measure(*args, **kwargs):
        with counted.moment("measuring the scale"):
            return raw_scores(*args, **kwargs)

    class Head(reward.model.ScalarHead):
        def __init__(self, *args, **kwargs):
            with META:
                super().__init__(*args, **kwargs)
            counted.count_module(self)

        def to(self, *args, **kwargs):
            return self

    def draw(model, prompts, sampling, *, eos_id, pad_id, batch_size=64, generator=None, on_batch=None):
        with counted.moment("drawing"):
            return [
                answer
                for start in range(0, len(prompts), batch_size)
                for answer in drawn_at_its_ends(counted, model, prompts[start : start + batch_size], sampling, pad_id)
            ]

    with (
        # The same moments, not in memory that only a driver can page.
        mock.patch.object(Optimizer8bit, "__init__", unpaged),
        mock.patch.object(bitsandbytes.functional, "is_on_gpu", lambda _: True),
        mock.patch.object(reward.model, "ScalarHead", Head),
        mock.patch.object(gpu_work, "ScalarHead", Head),
        mock.patch.object(engine, "sample", draw),
        mock.patch.object(pipeline.roles, "raw_scores", measure),
    ):
        yield


def drawn_at_its_ends(counted, model, prompts, sampling, pad_id: int) -> list:
    """Answers of full length, by the decoder of every rollout: its first token, and its last two over a cache that is as long by then."""
    import torch

    from pipeline.decoder import Decoder
    from pipeline.generation import Sample

    most = sampling.max_new_tokens
    decoder = Decoder(model, eos_id=-1, pad_id=pad_id)
    with counted.moment("reading the prompts"):
        decoder.join(prompts, sampling, None)
    last = decoder.step()
    if most > 3:
        columns = max(map(len, prompts)) + most - 3
        for layer in decoder._cache.layers:
            wide = columns
            if layer.is_sliding:
                wide, layer.cumulative_length = min(columns, layer.sliding_window - 1), columns
            layer.keys, layer.values = (x.new_empty(*x.shape[:2], wide, x.shape[3]) for x in (layer.keys, layer.values))
        decoder._mask = torch.cat([decoder._mask, decoder._mask.new_ones(len(prompts), most - 3)], dim=1)
        decoder._positions = decoder._positions + (most - 3)
        decoder._groups[0].drawn = most - 2
    while decoder.rows:
        last = decoder.step()
    return [Sample((step.token,) * most, (-1.0,) * most, False) for step in sorted(last, key=lambda s: s.row)]


if __name__ == "__main__":
    main()
