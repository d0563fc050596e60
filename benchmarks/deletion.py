"""How long the deletion of one conversation keeps the store busy, on which everybody waits, and how much its indexes and the wiping are of it.

    python benchmarks/deletion.py --out benchmarks/results/deletion.json

A store of `--messages` turns in conversations of ten, questions of 15 words and answers of 50 with their 80 tokens and log-probabilities, as the
page keeps them; three in ten answers with a thumb. Of conversations drawn by chance one after another is deleted, `--repeats` times in each way:

- `as before`: no index on who refers to a message, and the whole file written anew at once;
- `answered`: what the bin on the page waits for: the rows overwritten, the log emptied;
- `wiped later`: the whole file written anew, when nobody asks for anything.
"""

from __future__ import annotations

import argparse
import json
import random
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from data.feedback import FeedbackStore  # noqa: E402
from data.schema import MIGRATIONS  # noqa: E402

TURNS, WORDS = 10, [f"word{i}" for i in range(2000)]
INDEXES = ("message_of_parent", "comparison_of_left", "comparison_of_right", "edit_of_original")


def fill(store: FeedbackStore, messages: int, rng: random.Random) -> list[str]:
    """The conversations, in an order of chance."""
    model = store.add_model(run="r", stage="ppo", weights_sha256="w", template_sha256="t")
    talks = []
    while len(talks) * TURNS < messages:
        with store.together():
            for _ in range(100):
                talks.append(store.start_conversation(rater=f"p{len(talks) % 50}"))
                parent = None
                for _ in range(TURNS // 2):
                    said = " ".join(rng.choices(WORDS, k=15))
                    asked = store.add_message(talks[-1], parent=parent, author="human", content=said)
                    parent = store.add_message(
                        talks[-1], parent=asked, author="model", content=" ".join(rng.choices(WORDS, k=50)), model=model, finish="stop",
                        token_ids=[rng.randrange(50_000) for _ in range(80)], logprobs=[rng.uniform(-5, 0) for _ in range(80)],
                    )  # fmt: skip
                    if rng.random() < 0.3:
                        store.rate(parent, rater=f"p{len(talks) % 50}", value=rng.choice((-1, 1)))
    rng.shuffle(talks)
    return talks


def timed(call: Callable[[], object]) -> float:
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def measure(messages: int, repeats: int) -> dict:
    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "feedback.sqlite"
        store = FeedbackStore.open(path)
        talks = fill(store, messages, rng)
        size = path.stat().st_size

        def at_once(talk: str) -> None:
            store.forget_conversation(talk)
            store.wipe()

        def answered(talk: str) -> None:
            store.forget_conversation(talk)
            if not store.empty_log():
                raise SystemExit("the log could not be emptied, though nobody else reads")

        found = {"answered": [timed(lambda: answered(talks.pop())) for _ in range(repeats)]}
        found["wiped later"] = [timed(store.wipe) for _ in range(repeats)]
        for index in INDEXES:
            store._db.execute(f"DROP INDEX {index}")
        found["as before"] = [timed(lambda: at_once(talks.pop())) for _ in range(repeats)]
        store.close()
    seconds = {
        way: {"median": round(statistics.median(took), 4), "least": round(min(took), 4), "most": round(max(took), 4)}
        for way, took in found.items()
    }
    return {"messages": messages, "megabytes": round(size / 1e6, 1), "repeats": repeats, "sqlite": sqlite3.sqlite_version, "seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if not all(index in "".join(MIGRATIONS) for index in INDEXES):
        raise SystemExit("the store has other indexes by now; name them in INDEXES")
    result = measure(given.messages, given.repeats)
    text = json.dumps(result, indent=1)
    print(text)
    if given.out:
        given.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
