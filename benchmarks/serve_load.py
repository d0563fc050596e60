"""Many chats at once on a served run: how long until everybody has an answer, and until each sees the first word.

    python benchmarks/serve_load.py --run quickstart --chats 32 --rows 1 8 16 --out benchmarks/results/serve_load.json

For each number of rows the server is started as a user would, with one thread, asked once to warm up, and then asked by all chats in the
same moment, each of a person of its own, with the held-out questions of the built-in data and a seed each. Beside the clock's time stands the
processor time of the server: on a machine that does other things too, that one is the fairer.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx2

ROOT = Path(__file__).resolve().parent.parent
TICKS = os.sysconf("SC_CLK_TCK")


class Server:
    """`run_pipeline.py serve` on a free port, with a feedback database of its own."""

    def __init__(self, arguments, rows: int, folder: Path):
        command = [sys.executable, "run_pipeline.py", "serve", "--run", arguments.run, "--port", "0"]
        command += [f"chat.batch_rows={rows}", f"chat.feedback_db={folder / f'{rows}.sqlite'}", "chat.queue_limit=256"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        for line in self.process.stdout:
            if found := re.match(r"OpenAI: (\S+)v1", line):
                self.url = found[1]
                return
        raise SystemExit("the server did not start; run `python run_pipeline.py serve` by hand to see why")

    def cpu_seconds(self) -> float:
        """User and system time of the process so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def megabytes(self) -> int:
        """The most memory that it held."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) // 1024

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(120)


def questions(count: int) -> list[str]:
    rows = (ROOT / "data/seed/heldout_prompts.jsonl").read_text(encoding="utf-8").splitlines()
    asked = [json.loads(row)["prompt"] for row in rows]
    return [asked[n % len(asked)] for n in range(count)]


async def talk(client: httpx2.AsyncClient, number: int, question: str, arguments) -> dict:
    """One chat; seconds from asking to the first word and to the end."""
    body = {
        "model": arguments.checkpoint,
        "messages": [{"role": "user", "content": question}],
        "max_tokens": arguments.tokens,
        "temperature": 0.7,
        "seed": number,
        "user": f"person{number}",
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    started, first, tokens, text = time.monotonic(), None, 0, ""
    async with client.stream("POST", "/v1/chat/completions", json=body) as answer:
        answer.raise_for_status()
        async for line in answer.aiter_lines():
            if not line.startswith("data: {"):
                continue
            event = json.loads(line[6:])
            if event.get("usage"):
                tokens = event["usage"]["completion_tokens"]
            for choice in event["choices"]:
                piece = choice["delta"].get("content", "")
                if piece and first is None:
                    first = time.monotonic() - started
                text += piece
    return {"first": first, "whole": time.monotonic() - started, "tokens": tokens, "text": text}


async def crowd(server: Server, arguments) -> dict:
    limits = httpx2.Limits(max_connections=None)
    async with httpx2.AsyncClient(base_url=server.url, timeout=None, limits=limits, trust_env=False) as client:
        await talk(client, 10_000, "Hello", arguments)
        cpu, started = server.cpu_seconds(), time.monotonic()
        asked = questions(arguments.chats)
        said = await asyncio.gather(*(talk(client, n, q, arguments) for n, q in enumerate(asked)))
        seconds, cpu = time.monotonic() - started, server.cpu_seconds() - cpu
    first = sorted(s["first"] for s in said if s["first"] is not None)
    tokens = sum(s["tokens"] for s in said)
    return {
        "seconds": round(seconds, 2),
        "server_cpu_seconds": round(cpu, 2),
        "first_word_median": round(statistics.median(first), 2),
        "first_word_last": round(first[-1], 2),
        "tokens": tokens,
        "tokens_a_second": round(tokens / seconds, 1),
        "tokens_a_cpu_second": round(tokens / cpu, 1),
        "peak_mb": server.megabytes(),
        "answers": len(said),
    }


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--run", default="quickstart")
    arguments.add_argument("--checkpoint", default="base", help="whose answers; the base's are the longest")
    arguments.add_argument("--chats", type=int, default=32)
    arguments.add_argument("--tokens", type=int, default=64, help="tokens an answer at most")
    arguments.add_argument("--rows", type=int, nargs="+", default=[1, 8, 16])
    arguments.add_argument("--out", type=Path)
    arguments = arguments.parse_args()
    asked = {"chats": arguments.chats, "max_tokens": arguments.tokens, "checkpoint": arguments.checkpoint}
    found = {**asked, "rows": {}}
    if arguments.out and arguments.out.exists():
        before = json.loads(arguments.out.read_text())
        # Rows measured before in the same way stay beside the new ones.
        found["rows"] = before["rows"] if {name: before.get(name) for name in asked} == asked else {}
    with tempfile.TemporaryDirectory() as folder:
        for rows in arguments.rows:
            server = Server(arguments, rows, Path(folder))
            try:
                found["rows"][str(rows)] = asyncio.run(crowd(server, arguments))
                print(rows, json.dumps(found["rows"][str(rows)]), flush=True)
                if arguments.out:
                    # After each, so that a stop loses little.
                    arguments.out.write_text(json.dumps(found, indent=1) + "\n")
            finally:
                server.stop()


if __name__ == "__main__":
    main()
