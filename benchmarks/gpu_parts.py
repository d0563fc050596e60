"""One variant of one part of `benchmarks/gpu.py`, in this process."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from statistics import median

import gpu_work as work
import torch
from gpu import PEER_8B, PEER_SIDES, ROOT

GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda", 0) if GPU else torch.device("cpu")
# Seconds that one way to draw may take.
WAY_LIMIT = 75.0


def measure(part: str, variant: dict, arguments) -> dict:
    return {
        "ceilings": ceilings, "checks": checks, "memory": memory, "plan": plan, "recipe": recipe, "speed": speed, "peer": peer,
        "peer8b": peer8b, "bits": bits, "seeds": seeds,
    }[part](arguments, **variant)  # fmt: skip


def ceilings(arguments) -> dict:
    """Dense bfloat16 products of random matrices, and a copy on the device: the best of five rounds of each."""
    side, numbers = (256, 1 << 20) if arguments.tiny else (8192, 1 << 31)
    a, b = (torch.randn(side, side, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
    product = _best(lambda: torch.mm(a, b), 10)
    source = torch.empty(numbers, device=DEVICE, dtype=torch.bfloat16).normal_()
    target = torch.empty_like(source)
    copied = _best(lambda: target.copy_(source), 5)
    return {
        "bf16_flops": 2 * side**3 / product,
        # Read and written.
        "copy_bytes": 2 * source.numel() * 2 / copied,
        "memory_bytes": torch.cuda.get_device_properties(0).total_memory if GPU else None,
    }


def checks(arguments) -> dict:
    """The tests of quantized bases where this machine computes: NF4 and its sizes, gradients, identity, float32 adapters, 8-bit moments."""
    command = [sys.executable, "-m", "pytest", "tests/test_quantized.py", "-p", "no:cacheprovider", "--tb=short"]
    command += ["-k", "half_a_bin"] if arguments.tiny else []
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=arguments.limit - 10)
    lines = done.stdout.strip().splitlines()
    if done.returncode not in (0, 1):
        raise SystemExit((done.stderr or done.stdout)[-1500:])
    return {
        "said": lines[-1] if lines else "",
        "failures": [line for line in lines if line.startswith(("FAILED", "ERROR"))],
        "skipped": [line for line in lines if line.startswith("SKIPPED")],
        "why": "" if done.returncode == 0 else done.stdout[-6000:],
    }


def plan(arguments, stage: str, model: str, bits: str) -> dict:
    """What the planner says of a stage, and what the stage took: all tensors at its fullest moment, and all that was taken from the card."""
    import plan_check

    from pipeline.config import Config
    from pipeline.planning.plan import make_plan

    shape, tiny = work.SHAPES[model], arguments.tiny
    recompute = model == "8b"
    prompt, answer, rows, micro = (8, 4, 4, 2) if tiny else (256, 256, 32, 4) if recompute else (256, 256, 64, 16)
    config = Config.model_validate(
        {
            "model": {
                "name": {"135m": "smollm2-135m-instruct", "8b": "meta-llama/Llama-3.1-8B", "tiny": "tiny-random"}[model],
                # The tiny model is made on the spot, and its config takes no quantization; the base below has it all the same.
                "dtype": "bfloat16", "quantization": "none" if tiny else bits, "gradient_checkpointing": recompute,
            },
            "data": {"demonstrations": "-", "rankings": "-", "heldout_prompts": "-", "max_prompt_tokens": prompt},
            "sft": {"max_tokens": prompt + answer, "batch_size": 2 * micro, "micro_batch_size": micro, "checkpoint_every": 0},
            "reward": {
                "max_tokens": prompt + answer, "lists_per_step": max(1, micro // 2), "micro_lists": max(1, micro // 4),
                "scale_lists": 8,
            },
            "ppo": {
                "updates": 2, "episodes": rows, "minibatch": rows // 2, "micro_batch": micro, "epochs": 1, "max_new_tokens": answer,
            },
        }
    )  # fmt: skip
    said = make_plan(config, on_gpu=GPU, bfloat16=True)
    planned = next(s for s in said.stages if s.name == stage)
    base = work.random_base(shape, bits, DEVICE, recompute=recompute)
    held = _now()
    _reset_peak()
    {"sft": plan_check.demonstrations, "reward": plan_check.step, "ppo": plan_check.update}[stage](base, config)
    return {
        "rows": rows, "pass": micro, "prompt": prompt, "answer": answer, "held_bytes": held, "peak_bytes": _peak(),
        "planned_bytes": planned.peak, "planned_parts": planned.parts, "planned_moments": planned.moments,
        "card_bytes": _card(), "planned_card_bytes": said.on_card(planned),
    }  # fmt: skip


def memory(arguments, model: str, bits: str, way: str) -> dict:
    """Peak over two PPO updates of 8 answers, prompts of 128 tokens and answers of 128."""
    shape = work.SHAPES[model]
    rows, micro, prompt, answer = (2, 2, 8, 4) if arguments.tiny else (8, 4, 128, 128)
    base = work.with_roles(
        lambda: work.random_base(shape, bits, DEVICE, recompute=model == "8b"), separate=way == "separate"
    )
    held = _now()
    _reset_peak()
    ppo = work.trainer(base, rows=rows, micro=micro, prompt=prompt, answer=answer, vocabulary=shape.vocabulary)
    with work.answers_without_end():
        for _ in range(2):
            ppo.update()
    return {"held_bytes": held, "peak_bytes": _peak(), "rows": rows, "prompt": prompt, "answer": answer}


def speed(arguments, model: str, bits: str) -> dict:
    """Drawing 64 answers of 128 tokens after prompts of 128, and PPO updates of 16 such answers, all layers adapted."""
    shape = work.SHAPES[model]
    rows, learnt, micro, prompt, answer, times = (4, 4, 2, 8, 4, 1) if arguments.tiny else (64, 16, 8, 128, 128, 3)
    recompute = model == "8b"
    base = work.with_roles(lambda: work.random_base(shape, bits, DEVICE, recompute=recompute), separate=False)
    from pipeline.generation import Sampling
    from pipeline.rollouts.engine import InProcess

    ids = torch.randint(3, shape.vocabulary, (rows, prompt), generator=torch.Generator().manual_seed(0)).tolist()

    def draw() -> None:
        generator = torch.Generator(device=DEVICE).manual_seed(0)
        with base.acting_as(work.POLICY), work.answers_without_end():
            # With the same eos as in training, which is none.
            InProcess().sample(base, ids, Sampling(answer, 1.0), generator=generator, batch_size=rows)

    drawing = _seconds(draw, times)
    ways, failed = _other_ways(base, ids, answer, times, merged=bits == "none")
    _reset_peak()
    ppo = work.trainer(base, rows=learnt, micro=micro, prompt=prompt, answer=answer, vocabulary=shape.vocabulary)
    spent = []
    with work.answers_without_end():
        for _ in range(times + 1):
            figures, _ = ppo.update()
            work.wait(DEVICE)
            spent.append((figures["rollout_seconds"], figures["seconds"]))
    update = median(total for _, total in spent[1:])
    # What of the update is not drawing: the roles' reading, and learning.
    drawn = _seconds(lambda: _draw_rows(base, ids[:learnt], answer), times)
    peak = _peak()
    # Last: a thread of the library's that hangs must not stand beside anything else that is timed.
    more, failed_too = _other_ways(base, ids, answer, times, continuous=True)
    return {
        "rows": rows,
        "prompt": prompt,
        "answer": answer,
        "drawn_per_second": rows * answer / drawing,
        "ways": {"loop": rows * answer / drawing, **ways, **more},
        "ways_failed": {**failed, **failed_too},
        "read_bytes_per_second": work.decode_bytes(shape, bits, rows, prompt, answer) / drawing,
        "updates_rows": learnt,
        "update_seconds": update,
        "learning_seconds": update - drawn,
        "learnt_per_second": learnt * (prompt + answer) / (update - drawn),
        "flops_per_second": work.update_flops(shape, learnt, prompt, answer, epochs=2, recompute=recompute) / (update - drawn),
        "peak_bytes": peak,
    }  # fmt: skip


def _other_ways(
    base, ids, answer: int, times: int, *, merged: bool = False, continuous: bool = False
) -> tuple[dict[str, float], dict[str, str]]:
    """Tokens a second of other ways to draw the same answers, and the last words of those that failed: a cache of fixed size with CUDA
    graphs, and either loop while the adapter is merged into a bfloat16 base; or the library's continuous batching, its passes as the
    library has them and recorded. Afterwards the weights are those from before: copies, since rounding would not give them back."""
    from pipeline.generation import Sampling
    from pipeline.rollouts.continuous import ContinuousEngine
    from pipeline.rollouts.engine import InProcess
    from pipeline.rollouts.static import StaticEngine

    found, failed = {}, {}
    ends, base.tokenizer.eos_token_id = base.tokenizer.eos_token_id, -1

    def rate(name: str, engine) -> None:
        def draw() -> None:
            generator = torch.Generator(device=DEVICE).manual_seed(0)
            with base.acting_as(work.POLICY):
                drawn = engine.sample(base, ids, Sampling(answer, 1.0), generator=generator, batch_size=len(ids))
            if why := getattr(engine, "refused", None):
                raise RuntimeError(why)
            assert all(len(a.ids) == answer for a in drawn)

        try:
            with work.within(WAY_LIMIT):
                found[name] = len(ids) * answer / _seconds(draw, times)
        except Exception as error:
            failed[name] = f"{type(error).__name__}: {error}"[:500]

    if continuous:
        rate("continuous", ContinuousEngine())
        rate("continuous, recorded", ContinuousEngine(record=True))
    else:
        rate("fixed cache", StaticEngine())
    if merged:
        layers = [m for m in base.causal_lm.modules() if hasattr(m, "lora_A")]
        kept = [layer.get_base_layer().weight.data.clone() for layer in layers]
        for layer in layers:
            layer.merge(adapter_names=[work.POLICY])
        rate("loop, merged", InProcess())
        rate("fixed cache, merged", StaticEngine())
        for layer, weight in zip(layers, kept, strict=True):
            layer.unmerge()
            layer.get_base_layer().weight.data.copy_(weight)
    base.tokenizer.eos_token_id = ends
    return found, failed


def _draw_rows(base, ids, answer: int) -> None:
    from pipeline.generation import Sampling
    from pipeline.rollouts.engine import InProcess

    generator = torch.Generator(device=DEVICE).manual_seed(0)
    with base.acting_as(work.POLICY), work.answers_without_end():
        InProcess().sample(base, ids, Sampling(answer, 1.0), generator=generator, batch_size=len(ids))


def recipe(arguments, seed: int = 0) -> dict:
    """Every stage and evaluation, from nothing to the report."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        process = _begin_recipe(arguments, folder, seed)
        return {"seed": seed, **_ended_recipe(arguments, process, folder, began)}


def seeds(arguments) -> dict:
    """The recipe on two more seeds, both at work at one time: their figures count, not their seconds."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        folders = {1: one} if arguments.tiny else {1: one, 2: other}
        at_work = {seed: _begin_recipe(arguments, folder, seed) for seed, folder in folders.items()}
        return {"runs": [{"seed": s, **_ended_recipe(arguments, p, folders[s], began)} for s, p in at_work.items()]}


def _begin_recipe(arguments, folder: str, seed: int) -> subprocess.Popen:
    config = "configs/smoke.yaml" if arguments.tiny else "configs/quickstart_gpu.yaml"
    # A missed gate must not end what is measured.
    overrides = [f"runs_dir={folder}", "gates={}", f"seed={seed}"]
    files = ("demonstrations", "rankings", "heldout_prompts", "heldout_rankings")
    if arguments.rows:
        there = [f for f in files if (arguments.rows / f"{f}.jsonl").exists()]
        overrides += [f"data.{f}={arguments.rows.resolve() / f}.jsonl" for f in there]
        overrides += [f"data.{f}=null" for f in files[3:] if f not in there]
    elif not arguments.tiny:
        # The rubric judges the built-in rows, and no reward model has to.
        overrides += [f"data.{f}=data/seed/{f}.jsonl" for f in files]
        overrides += ["evaluation.gold=rubric", "reward.test_share=0"]
    command = [sys.executable, "run_pipeline.py", "run", "--config", config, *overrides]
    # Into files: a pipe that nobody reads would stop it once full.
    with (Path(folder) / "out").open("w") as out, (Path(folder) / "err").open("w") as err:
        return subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=err)


def _ended_recipe(arguments, process: subprocess.Popen, folder: str, began: float) -> dict:
    """What the run left.

    Raises:
        SystemExit: it failed, or there was no time for all of it; the message says what was done until then.
    """
    left = arguments.limit - 15 - (time.monotonic() - began)
    try:
        status = process.wait(timeout=max(1.0, left))
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise SystemExit(f"no time for all of it; done: {_left(folder)}") from None
    if status:
        said = (Path(folder) / "err").read_text() or (Path(folder) / "out").read_text()
        raise SystemExit(f"{said[-1200:]}\ndone: {_left(folder)}")
    return {
        "seconds": time.monotonic() - began,
        "rows": "given" if arguments.rows else "built in",
        "steps": _left(folder),
        "metrics": _told(folder),
    }


def _left(folder: str) -> dict:
    """Seconds and the card's peak of every step that was finished."""
    steps = {}
    for manifest in sorted(Path(folder).glob("*/*/*/manifest.json")):
        environment = json.loads(manifest.read_text(encoding="utf-8"))["environment"]
        name = manifest.parent.name if "stages" in manifest.parts else f"evaluate-{manifest.parent.name}"
        steps[name] = {"seconds": environment["seconds"], "gpu_bytes": environment.get("peak_gpu_bytes")}
    return steps


def _told(folder: str) -> dict:
    """The figures of the cards that are worth quoting, with their intervals: {"reward.observed_accuracy": {"value": …}}."""
    found = {}
    for card in sorted(Path(folder).glob("*/evaluation/*/card.json")):
        read = json.loads(card.read_text(encoding="utf-8"))
        for entry in read["entries"]:
            if (name := f"{read['stage']}.{entry['metric']}") in _TOLD:
                found[name] = {key: entry.get(key) for key in ("value", "n", "ci_low", "ci_high")}
    return found


_TOLD = (
    "reward.observed_accuracy", "reward.observed_accuracy_minus_best_floor", "reward.test_model_accuracy", "sft.heldout_nll_change",
    "ppo.gold", "ppo.gold_minus_sft", "ppo.win_rate_vs_sft", "ppo.proxy", "ppo.sft_proxy", "ppo.kl_to_reference", "ppo.kl_at_start",
    "ppo.eos_rate", "ppo.answer_tokens", "ppo.general_perplexity_ratio",
)  # fmt: skip


def peer(arguments, side: str, seed: int) -> dict:
    """benchmarks/peer on this device: 64 answers of 64 tokens an update, the embedded model."""
    theirs = side.startswith("TRL")
    with tempfile.TemporaryDirectory() as folder:
        rows = _one_side(
            arguments,
            folder,
            PEER_SIDES[side],
            seed,
            python=arguments.peer_python if theirs else sys.executable,
            theirs=theirs,
        )
    return {"updates": rows}


def peer8b(arguments, side: str) -> dict:
    """The peer's task with random weights of Llama 3.1 8B's shape, all layers adapted: 8 answers of 128 tokens an update."""
    theirs = side.startswith("TRL")
    shape = json.dumps(asdict(work.SHAPES["tiny" if arguments.tiny else "8b"]))
    with tempfile.TemporaryDirectory() as folder:
        rows = _one_side(
            arguments, folder, [*PEER_8B[side], "--random", shape], 1, python=arguments.peer_python if theirs else sys.executable,
            theirs=theirs, sizes=(4, 4, 2) if arguments.tiny else (8, 128, 5),
        )  # fmt: skip
    return {"updates": rows}


def bits(arguments, bits: str, seed: int) -> dict:
    """The peer's task on our side, with the base in bfloat16 or in NF4: the score after equal updates."""
    more = [*PEER_SIDES["all layers, bfloat16"], "--quantization", bits]
    with tempfile.TemporaryDirectory() as folder:
        rows = _one_side(arguments, folder, more, seed, python=sys.executable, theirs=False)
    return {"updates": rows}


def _one_side(arguments, folder: str, more: list[str], seed: int, *, python, theirs: bool, sizes: tuple[int, int, int] | None = None) -> list[dict]:
    from side_by_side import embedded

    batch, response, updates = sizes or ((4, 4, 2) if arguments.tiny else (64, 64, 20))
    model = _tiny_model(folder) if arguments.tiny else embedded()
    out = Path(folder) / "out.json"
    command = [
        python,
        ROOT / "benchmarks" / "peer" / ("theirs.py" if theirs else "ours.py"),
        "--model",
        model,
        "--json",
        out,
    ]
    command += [
        "--batch",
        batch,
        "--minibatch",
        batch // 2,
        "--response",
        response,
        "--updates",
        updates,
        "--seed",
        seed,
    ]
    command += ["--device", DEVICE.type, "--threads", 1, *more]
    environment = dict(os.environ)
    if theirs and (site := environment.get("PEER_SITE")):
        environment["PYTHONPATH"] = site
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, check=False, cwd=folder, env=environment
    )
    if done.returncode:
        raise SystemExit(done.stderr[-1500:])
    return json.loads(out.read_text(encoding="utf-8"))


def _tiny_model(folder: str) -> str:
    from pipeline.config import ModelConfig
    from pipeline.models import load

    model, tokenizer = load(ModelConfig(name="tiny-random", dtype="float32", device="cpu"))
    target = Path(folder) / "model"
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    return str(target)


# -- clocks and scales -------------------------------------------------------------------------------------------------------


def _best(action, times: int) -> float:
    """Seconds of one call: the best mean of five rounds, after one that warms up."""
    found = []
    for _ in range(6):
        began = work.wait(DEVICE)
        for _ in range(times):
            action()
        found.append((work.wait(DEVICE) - began) / times)
    return min(found[1:])


def _seconds(action, times: int) -> float:
    """Seconds of one call, the median of `times` after one that warms up."""
    found = []
    for _ in range(times + 1):
        began = work.wait(DEVICE)
        action()
        found.append(work.wait(DEVICE) - began)
    return median(found[1:])


def _reset_peak() -> None:
    if GPU:
        torch.cuda.reset_peak_memory_stats()


def _now() -> float:
    return float(torch.cuda.memory_allocated()) if GPU else _peak()


def _card() -> float:
    """Bytes taken from the card by everybody: by this process alone where nobody else uses it."""
    if not GPU:
        return _peak()
    free, there = torch.cuda.mem_get_info()
    return float(there - free)


def _peak() -> float:
    return (
        float(torch.cuda.max_memory_allocated()) if GPU else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0
    )
