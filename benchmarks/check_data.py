"""How long the check of a config's data takes: all rows read, split, compared and counted in tokens.

    python benchmarks/check_data.py --rows 100000

Makes demonstrations, rankings of two answers and held-out prompts in a temporary directory, a third of the rows in each of the first
two and a tenth held out, the rest prompts, then runs `run_pipeline.py data check` on them as a user would, start of Python and all.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WORDS = """the river runs past an old mill where people bake bread early every morning and sell it warm to those who walk to work
while children count boats from a stone bridge before school begins in autumn rain or bright summer light""".split()  # noqa: SIM905


def text(random_state: random.Random, words: int) -> str:
    return " ".join(random_state.choices(WORDS, k=words)).capitalize() + "."


def make(folder: Path, rows: int, answer_words: int) -> Path:
    """Four files with `rows` rows together and a config that names them."""
    chance = random.Random(0)
    ask = lambda kind, number: f"{kind} {number}: {text(chance, 20)}"  # noqa: E731
    answer = lambda: text(chance, chance.randint(answer_words // 2, answer_words * 3 // 2))  # noqa: E731
    third, tenth = rows // 3, rows // 10
    sets = {
        "demonstrations": ({"prompt": ask("Tell", i), "completion": answer()} for i in range(third)),
        "rankings": (
            {"prompt": ask("Rank", i), "responses": [answer(), answer()], "ranks": [0, 1]} for i in range(third)
        ),
        "heldout_prompts": ({"prompt": ask("Held", i)} for i in range(tenth)),
        "prompts": ({"prompt": ask("Ask", i)} for i in range(rows - 2 * third - tenth)),
    }
    lines = ["model: {name: MODEL}", "data:"]
    for name, made in sets.items():
        path = folder / f"{name}.jsonl"
        with path.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in made)
        lines.append(f"  {name}: {path}")
    lines += ["  demonstrations_format: prompt_completion", "  max_prompt_tokens: 256", "sft: {max_tokens: 512}"]
    (folder / "config.yaml").write_text("\n".join([*lines, "reward: {max_tokens: 512}", ""]))
    return folder / "config.yaml"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--rows", type=int, default=100_000, help="of all files together")
    arguments.add_argument("--answer-words", type=int, default=60, help="words an answer, on average")
    arguments.add_argument("--model", default="smollm2-135m-instruct", help="whose tokens are counted")
    chosen = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        config = make(Path(folder), chosen.rows, chosen.answer_words)
        config.write_text(config.read_text().replace("MODEL", chosen.model))
        size = sum(f.stat().st_size for f in Path(folder).iterdir()) / 1e6
        started = time.monotonic()
        command = [sys.executable, str(ROOT / "run_pipeline.py"), "data", "check", "--config", str(config)]
        subprocess.run(command, check=True, cwd=ROOT)
        seconds = time.monotonic() - started
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = used.ru_utime + used.ru_stime
    print(
        f"{chosen.rows:,} rows, {size:.0f} MB, {len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()} cores:"
    )
    print(f"{seconds:.1f} s, {processor:.1f} s of processor, peak {used.ru_maxrss / 1024:.0f} MiB")


if __name__ == "__main__":
    main()
