"""The memory plan held against memory that was really taken, on the embedded model and the CPU.

    python benchmarks/plan_check.py

Every point runs in a process of its own: what is resident after the libraries are imported is its start, and the peak from then on, while
two PPO updates or two steps of the reward model run on rows of full length, less that start, is what was taken. Each point is measured
twice: with the C library told to give every block of 64 KiB and more back to the system at once, which is what the plan is about, and
as it is, when it keeps freed blocks whose places later ones do not fit (the price of the first way is time). Kept in
`benchmarks/results/plan_check.json` as it falls; `benchmarks/gpu_report.py` writes the table of docs/gpu.md from it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
RESULTS = HERE / "results" / "plan_check.json"
PROMPT = 32
GIVEN_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536"}
# (stage, weights, adapted layers, rows at once, rows a pass, tokens an answer)
POINTS = [
    ("ppo", "float32", 10, 8, 8, 32),
    ("ppo", "float32", None, 8, 8, 32),
    ("ppo", "bfloat16", 10, 8, 8, 32),
    ("ppo", "bfloat16", None, 8, 8, 32),
    ("ppo", "bfloat16", 10, 32, 16, 48),
    ("ppo", "bfloat16", None, 16, 4, 64),
    ("reward", "float32", None, 4, 4, 48),
    ("reward", "bfloat16", None, 4, 2, 64),
]
KEYS = ("stage", "dtype", "last_layers", "rows", "pass", "answer")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--again", action="store_true", help="measure points anew that are in the results already")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--point", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.point:
        print("POINT " + json.dumps(measure(json.loads(arguments.point), arguments.threads)))
        return
    kept = json.loads(RESULTS.read_text(encoding="utf-8"))["points"] if RESULTS.exists() else []
    kept = [] if arguments.again else kept
    for values in POINTS:
        point = dict(zip(KEYS, values, strict=True))
        found = next((row for row in kept if all(row[key] == point[key] for key in KEYS)), None)
        if found is None:
            found = {**point, **run(point, arguments.threads, GIVEN_BACK)}
            found["as_it_is"] = run(point, arguments.threads, {})["measured"]
            kept.append(found)
        # The plan is code that may have changed since: only what was measured is kept from an earlier call.
        found["planned"] = planned(point)
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(
            json.dumps({"command": "python benchmarks/plan_check.py", "points": kept}, indent=1) + "\n",
            encoding="utf-8",
        )
        error = found["planned"] / found["measured"] - 1
        print(
            f"{point} measured {found['measured'] / 1e9:.2f} GB, planned {found['planned'] / 1e9:.2f} GB, {error:+.0%}",
            flush=True,
        )


def run(point: dict, threads: int, environment: dict[str, str]) -> dict[str, float]:
    command = [sys.executable, __file__, "--threads", str(threads), "--point", json.dumps(point)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **environment})
    line = next((x for x in done.stdout.split("\n") if x.startswith("POINT ")), None)
    if line is None:
        sys.exit(f"{point} failed:\n{done.stderr}")
    return json.loads(line.removeprefix("POINT "))


def settings(point: dict):
    from pipeline.config import Config

    data = {"demonstrations": "-", "rankings": "-", "heldout_prompts": "-", "max_prompt_tokens": PROMPT}
    return Config.model_validate(
        {
            "model": {"dtype": point["dtype"], "device": "cpu"},
            "lora": {"last_layers": point["last_layers"]},
            "data": data,
            "reward": {
                "lists_per_step": point["rows"], "micro_lists": point["pass"], "max_tokens": PROMPT + point["answer"],
            },
            "ppo": {
                "updates": 2, "episodes": point["rows"], "minibatch": point["rows"], "micro_batch": point["pass"], "epochs": 1,
                "max_new_tokens": point["answer"],
            },
        }
    )  # fmt: skip


def planned(point: dict) -> float:
    """Bytes that the plan says, for the stage of the point."""
    from pipeline.planning.plan import make_plan

    made = make_plan(settings(point), on_gpu=False, bfloat16=False)
    return next(stage.peak for stage in made.stages if stage.name == point["stage"])


def measure(point: dict, threads: int) -> dict[str, float]:
    import peft  # noqa: F401  what is imported now is not counted
    import torch
    import transformers.models.llama.modeling_llama  # noqa: F401

    from pipeline.memory import release
    from pipeline.ppo import trainer  # noqa: F401
    from pipeline.roles import open_base

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    config = settings(point)
    release()
    start = resident("VmRSS")
    base = open_base(config)
    release()
    loaded = resident("VmRSS") - start
    # From here on a new peak: reading the weights from the disk has one of its own, which is not the stage's.
    Path("/proc/self/clear_refs").write_text("5")
    {"ppo": update, "reward": step}[point["stage"]](base, config)
    return {"measured": resident("VmHWM") - start, "loaded": loaded}


def update(base, config, *, uneven: bool = False) -> None:
    """Two PPO updates on prompts and answers of full length; `uneven`: one prompt is a token shorter, so that padding has to be masked."""
    import torch

    from data.records import Message, Prompt
    from pipeline.adapters import POLICY, REFERENCE, REWARD, VALUE
    from pipeline.ppo.rollout import PromptIds
    from pipeline.ppo.trainer import PPO
    from pipeline.rollouts import engine
    from reward.model import ScalarHead, score

    for role in (POLICY, REFERENCE, REWARD, VALUE):
        base.add(role, trainable=role in (POLICY, VALUE))
    plain = engine.sample
    engine.sample = lambda *a, eos_id, **k: plain(*a, eos_id=-1, **k)
    most = min(20000, len(base.lm_head.weight))
    ids = torch.randint(
        100, most, (config.ppo.episodes, config.data.max_prompt_tokens), generator=torch.Generator().manual_seed(0)
    ).tolist()
    ids[0] = ids[0][uneven:]
    prompts = [PromptIds(Prompt(f"p{i}", (Message("user", str(i)),)), tuple(row)) for i, row in enumerate(ids)]
    head, reward_head = (ScalarHead(base.hidden_size).to(base.device) for _ in range(2))
    reward_head.requires_grad_(False)

    @torch.no_grad()
    def scorer(answers, encode):
        return score(encode, reward_head, [a.ids for a in answers])

    ppo = PPO(base, head, prompts, config.ppo, scorer, seed=0)
    for _ in range(2):
        ppo.update()


def step(base, config) -> None:
    """Two steps on rankings of four answers, to which one to another question is added, and the reading that the scale is measured on."""
    import torch

    from pipeline.adapters import REWARD
    from pipeline.memory import READ_AT_ONCE
    from pipeline.roles import raw_scores
    from reward.model import ScalarHead
    from reward.train import EncodedRanking, train

    base.add(REWARD, trainable=True)
    generator = torch.Generator().manual_seed(0)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(100, min(20000, len(base.lm_head.weight)), (count,), generator=generator).tolist())

    prompt = config.data.max_prompt_tokens
    answer = config.reward.max_tokens - prompt
    pairs = ((0, 1), (0, 2), (1, 3))
    rankings = [
        EncodedRanking(ids(prompt), tuple(ids(answer) for _ in range(4)), pairs, 0)
        for _ in range(2 * config.reward.lists_per_step)
    ]
    head = ScalarHead(base.hidden_size).to(base.device)
    train(
        lambda lists: base.encode_lists(lists, REWARD), head, base.parameters(REWARD), rankings, config.reward, seed=0
    )
    whole = [ids(config.reward.max_tokens) for _ in range(READ_AT_ONCE)]
    raw_scores(lambda sequences: base.encode(sequences, REWARD), head, whole)


def demonstrations(base, config) -> None:
    """Two steps of SFT on answers of full length."""
    import tempfile
    from types import SimpleNamespace

    import torch

    from pipeline.adapters import POLICY
    from pipeline.config import ModelConfig
    from pipeline.models import load_tokenizer
    from pipeline.stages import sft

    base.add(POLICY, trainable=True)
    # The trainer wants a tokenizer for its padding, of which there is none.
    base.tokenizer = load_tokenizer(ModelConfig(name="tiny-random"))
    prompt, whole = config.data.max_prompt_tokens, config.sft.max_tokens
    most, generator = min(20000, len(base.lm_head.weight)), torch.Generator().manual_seed(0)
    examples = [
        {
            "input_ids": torch.randint(100, most, (whole,), generator=generator).tolist(),
            "completion_mask": [0] * prompt + [1] * (whole - prompt),
        }
        for _ in range(2 * config.sft.batch_size)
    ]
    bar = SimpleNamespace(advance=lambda *a, **k: None, done=0)
    with tempfile.TemporaryDirectory() as folder:
        context = SimpleNamespace(
            config=config, checkpoints=Path(folder) / "c", out=Path(folder), log=lambda line: None
        )
        sft._train(context, base, examples, config.sft.micro_batch_size, bar)


def resident(field: str) -> float:
    """Bytes of `VmRSS` (now) or `VmHWM` (the peak) of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return float(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {field}")


if __name__ == "__main__":
    main()
