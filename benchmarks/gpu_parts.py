"""One variant of one part of `benchmarks/gpu.py`, in this process."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import gpu_work as work
import torch
from gpu import LIMIT, PEER_SIDES, ROOT

GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda", 0) if GPU else torch.device("cpu")


def measure(part: str, variant: dict, arguments) -> dict:
    return {"ceilings": ceilings, "memory": memory, "speed": speed, "recipe": recipe, "peer": peer, "bits": bits}[part](
        arguments, **variant
    )


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
    ppo = work.trainer(base, rows=learnt, micro=micro, prompt=prompt, answer=answer, vocabulary=shape.vocabulary)
    spent = []
    with work.answers_without_end():
        for _ in range(times + 1):
            figures, _ = ppo.update()
            work.wait(DEVICE)
            spent.append((figures["rollout_seconds"], figures["seconds"]))
    update = min(total for _, total in spent[1:])
    # What of the update is not drawing: the roles' reading, and learning.
    drawn = _seconds(lambda: _draw_rows(base, ids[:learnt], answer), times)
    return {
        "rows": rows,
        "prompt": prompt,
        "answer": answer,
        "drawn_per_second": rows * answer / drawing,
        "read_bytes_per_second": work.decode_bytes(shape, bits, rows, prompt, answer) / drawing,
        "updates_rows": learnt,
        "update_seconds": update,
        "learning_seconds": update - drawn,
        "learnt_per_second": learnt * (prompt + answer) / (update - drawn),
        "flops_per_second": work.update_flops(shape, learnt, prompt, answer, epochs=2, recompute=recompute) / (update - drawn),
        "peak_bytes": _peak(),
    }  # fmt: skip


def _draw_rows(base, ids, answer: int) -> None:
    from pipeline.generation import Sampling
    from pipeline.rollouts.engine import InProcess

    generator = torch.Generator(device=DEVICE).manual_seed(0)
    with base.acting_as(work.POLICY), work.answers_without_end():
        InProcess().sample(base, ids, Sampling(answer, 1.0), generator=generator, batch_size=len(ids))


def recipe(arguments) -> dict:
    """Every stage and evaluation, from nothing to the report."""
    with tempfile.TemporaryDirectory() as folder:
        config = "configs/smoke.yaml" if arguments.tiny else "configs/quickstart_gpu.yaml"
        overrides = [f"runs_dir={folder}", "gates={}"]
        if arguments.rows:
            files = ("demonstrations", "rankings", "heldout_prompts", "heldout_rankings")
            overrides += [
                f"data.{f}={arguments.rows.resolve() / f}.jsonl"
                for f in files
                if (arguments.rows / f"{f}.jsonl").exists()
            ]
        elif not arguments.tiny:
            overrides += [
                f"data.{f}=data/seed/{f}.jsonl"
                for f in ("demonstrations", "rankings", "heldout_prompts", "heldout_rankings")
            ]
        began = time.monotonic()
        command = [sys.executable, "run_pipeline.py", "run", "--config", config, *overrides]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=LIMIT)
        if done.returncode:
            raise SystemExit(done.stderr[-1500:] or done.stdout[-1500:])
        steps = {}
        cards = {}
        for manifest in sorted(Path(folder).glob("*/*/*/manifest.json")):
            found = json.loads(manifest.read_text(encoding="utf-8"))
            steps[manifest.parent.name if "stages" in str(manifest) else f"evaluate-{manifest.parent.name}"] = {
                "seconds": found["environment"]["seconds"],
                "gpu_bytes": found["environment"].get("peak_gpu_bytes"),
            }
            cards |= {k: v for k, v in found["metrics"].items() if k in _TOLD and "ppo" in str(manifest)}
        return {
            "seconds": time.monotonic() - began,
            "rows": "given" if arguments.rows else "built in",
            "steps": steps,
            "metrics": cards,
        }


_TOLD = ("kl_to_reference", "proxy", "sft_proxy", "eos_rate", "kl_at_start", "score")


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


def bits(arguments, bits: str, seed: int) -> dict:
    """The peer's task on our side, with the base in bfloat16 or in NF4: the score after equal updates."""
    more = [*PEER_SIDES["all layers, bfloat16"], "--quantization", bits]
    with tempfile.TemporaryDirectory() as folder:
        rows = _one_side(arguments, folder, more, seed, python=sys.executable, theirs=False)
    return {"updates": rows}


def _one_side(arguments, folder: str, more: list[str], seed: int, *, python, theirs: bool) -> list[dict]:
    from side_by_side import embedded

    batch, response, updates = (4, 4, 2) if arguments.tiny else (64, 64, 20)
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
    """Seconds of one call, the least of `times` after one that warms up."""
    found = []
    for _ in range(times + 1):
        began = work.wait(DEVICE)
        action()
        found.append(work.wait(DEVICE) - began)
    return min(found[1:])


def _reset_peak() -> None:
    if GPU:
        torch.cuda.reset_peak_memory_stats()


def _now() -> float:
    return float(torch.cuda.memory_allocated()) if GPU else _peak()


def _peak() -> float:
    return (
        float(torch.cuda.max_memory_allocated()) if GPU else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0
    )
