"""Many votes a minute from several processes on one store, which are killed meanwhile: are all there that were acknowledged?

    python benchmarks/vote_load.py --out benchmarks/results/vote_load.json

Each writer is due a vote every `writers / rate` seconds, every one synced to disk before it counts; who is late, for a kill or the others,
votes without a break until it has caught up. A vote is `data.feedback.FeedbackStore.rate`, as the server calls it. Every `--kill-every`
seconds one writer after another is killed wherever it is, and another begins in its place.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from data.feedback import FeedbackStore  # noqa: E402

FORK = multiprocessing.get_context("fork")


def write(path: Path, answer: str, index: int, told, slowest, start: float, pause: float) -> None:
    """Votes when each is due; each is counted after it was acknowledged."""
    store = FeedbackStore.open(path)
    while True:
        due = start + told[index] * pause
        time.sleep(max(0.0, due - time.monotonic()))
        began = time.monotonic()
        store.rate(answer, rater=f"r{index}", value=1, comment=str(told[index]))
        slowest[index] = max(slowest[index], time.monotonic() - began)
        told[index] += 1


def begin(*arguments):
    writer = FORK.Process(target=write, args=arguments)
    writer.start()
    return writer


def missing(path: Path, told) -> tuple[int, int]:
    """How many acknowledged votes are not there, and how many are there twice since nobody was told the first time."""
    store = FeedbackStore.open(path)
    lost = twice = 0
    for index, count in enumerate(told):
        kept = [int(c) for (c,) in store.rows("SELECT comment FROM rating WHERE rater = ?", (f"r{index}",))]
        lost += len(set(range(count)) - set(kept))
        twice += len(kept) - len(set(kept))
    whole = store.rows("PRAGMA integrity_check") == [("ok",)]
    store.close()
    if not whole:
        raise SystemExit("the database is damaged")
    return lost, twice


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--writers", type=int, default=8)
    arguments.add_argument("--a-minute", type=int, default=10_000, help="votes, of all writers together")
    arguments.add_argument("--seconds", type=float, default=60.0)
    arguments.add_argument("--kill-every", type=float, default=0.5, help="seconds; 0 never kills")
    arguments.add_argument("--folder", type=Path, help="where the store is made; default: a temporary directory")
    arguments.add_argument("--out", type=Path)
    arguments = arguments.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        path = Path(folder) / "feedback.sqlite"
        store = FeedbackStore.open(path)
        conversation = store.start_conversation(rater="r0")
        question = store.add_message(conversation, parent=None, author="human", content="q")
        answer = store.add_message(conversation, parent=question, author="model", content="a", finish="stop")
        # No connection is open when processes are made: SQLite forbids to carry one over.
        store.close()
        told, slowest = FORK.RawArray("q", arguments.writers), FORK.RawArray("d", arguments.writers)
        start, kills = time.monotonic(), 0
        more = (told, slowest, start, arguments.writers * 60 / arguments.a_minute)
        writers = [begin(path, answer, index, *more) for index in range(arguments.writers)]
        gave_up = 0
        while (passed := time.monotonic() - start) < arguments.seconds:
            time.sleep(min(arguments.kill_every or 0.5, arguments.seconds - passed))
            for index, writer in enumerate(writers):
                if not writer.is_alive():
                    gave_up += 1
                    writers[index] = begin(path, answer, index, *more)
            if arguments.kill_every:
                index = kills % arguments.writers
                os.kill(writers[index].pid, signal.SIGKILL)
                writers[index].join()
                writers[index] = begin(path, answer, index, *more)
                kills += 1
        seconds = time.monotonic() - start
        for writer in writers:
            os.kill(writer.pid, signal.SIGKILL)
            writer.join()
        lost, twice = missing(path, told)
    found = {
        "writers": arguments.writers,
        "votes_due": round(arguments.a_minute * seconds / 60),
        "votes_acknowledged": sum(told),
        "seconds": round(seconds, 1),
        "votes_a_minute": round(sum(told) * 60 / seconds),
        "fewest_of_one_writer": min(told),
        "most_of_one_writer": max(told),
        "slowest_vote_seconds": round(max(slowest), 3),
        "kills": kills + arguments.writers,
        "refused": gave_up,
        "acknowledged_and_lost": lost,
        "kept_twice": twice,
    }
    print(json.dumps(found, indent=1))
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
