"""People at a real server: a process of its own, asked and voted on over HTTP by the routes of its page."""

from __future__ import annotations

import http.client
import json
import os
import random
import secrets
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, Queue
from urllib.parse import urlsplit

from simulated.raters import Lazy, Rater, choose, thumb

from reward.rubric import gold_score

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Crowd:
    """Who votes, and how.

    Attributes:
        kind: "pairs", two answers side by side and a choice, or "thumbs", one answer and a thumb.
        people: how many read; they take turns.
        lazy: whether every second vote is one lazy person's.
    """

    kind: str
    seed: int
    people: int = 16
    lazy: bool = False

    def who(self, vote: int) -> tuple[str, Rater | Lazy]:
        if self.lazy and vote % 2:
            return "lazy", Lazy()
        number = (vote // 2 if self.lazy else vote) % self.people
        return f"reader-{number}", Rater()


@contextmanager
def served(run: Path, overrides: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Address and token of `run_pipeline.py serve`, which answers as the assistant in service."""
    token = secrets.token_urlsafe(24)
    command = [sys.executable, "run_pipeline.py", "serve", "--run", str(run), "--port", "0", *overrides]
    server = subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, "THUMBLOOP_TOKEN": token}, stdout=subprocess.PIPE, text=True
    )
    try:
        line = next((line for line in server.stdout if line.startswith("Chat:")), None)
        if line is None:
            raise RuntimeError(f"the server ended with status {server.wait()}")
        yield line.split()[1].partition("#")[0], token
    finally:
        server.terminate()
        server.wait(timeout=60)


def votes_in(database: Path) -> int:
    """Choices and thumbs in a store."""
    if not database.exists():
        return 0
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as store:
        return sum(store.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in ("comparison", "rating"))


def copy_votes(source: Path, target: Path) -> None:
    """The store as it is now, whole."""
    partial = target.with_name(target.name + ".partial")
    partial.unlink(missing_ok=True)
    with sqlite3.connect(source) as old, sqlite3.connect(partial) as new:
        old.backup(new)
    new.close()
    partial.replace(target)


def collect(
    url: str, token: str, crowd: Crowd, questions: Sequence[str], first: int, last: int, model: str, say: Callable
) -> None:
    """Votes number `first` to `last` − 1, as many at once as there are people."""
    waiting: Queue[int] = Queue()
    for number in range(first, last):
        waiting.put(number)
    names = {crowd.who(number)[0] for number in range(first, last)}
    people = {name: _Person(url, token) for name in sorted(names)}
    failed: list[BaseException] = []
    started, done = time.monotonic(), [0]

    def work() -> None:
        while not failed:
            try:
                number = waiting.get_nowait()
            except Empty:
                return
            try:
                _vote(people, crowd, questions, number, model)
            except BaseException as error:
                failed.append(error)
                return
            done[0] += 1
            if done[0] % 50 == 0:
                say(f"  {done[0]} of {last - first} votes, {time.monotonic() - started:.0f} s")

    threads = [threading.Thread(target=work, daemon=True) for _ in range(crowd.people)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]


def _vote(people: dict, crowd: Crowd, questions: Sequence[str], number: int, model: str) -> None:
    rng = random.Random(f"{crowd.seed}-{crowd.kind}-{number}")
    name, rater = crowd.who(number)
    question = questions[number % len(questions)]
    person = people[name]
    pairs = crowd.kind == "pairs"
    turn = person.ask(question, model, compare="auto" if pairs else "never")
    points = {side: gold_score(question, text, finish == "stop") for side, (text, finish) in turn["said"].items()}
    if not pairs:
        person.post("/v1/feedback", {"id": turn["answers"]["only"], "value": thumb(rater, points["only"], rng)})
        return
    if turn["duel"] is None:
        raise RuntimeError("one answer where two were to come; serve with chat.comparison_share=1")
    same = turn["said"]["left"][0] == turn["said"]["right"][0]
    winner = "tie" if same else choose(rater, points["left"], points["right"], rng)
    person.post(f"/api/duels/{turn['duel']['id']}", {"winner": winner})


class _Person:
    """A browser session: one cookie, and with it a pseudonym of its own."""

    def __init__(self, url: str, token: str):
        self.host = urlsplit(url).netloc
        self.cookie = ""
        reply = self._send("/api/login", {"token": token})
        self.cookie = reply.getheader("set-cookie").partition(";")[0]
        reply.read()
        # Whoever comes with a token is asked, and before the answer no round learns from them.
        self._send("/api/consent", {"level": "train"}).read()

    def ask(self, question: str, model: str, *, compare: str) -> dict:
        """The turn's ids, and under `said` each side's text and how it ended."""
        reply = self._send("/api/turn", {"model": model, "text": question, "compare": compare})
        turn, said, ends = {}, {}, {}
        for line in reply:
            if not line.startswith(b"data: "):
                continue
            event = json.loads(line[6:])
            if event["type"] == "start":
                turn = event
                said = dict.fromkeys(event["answers"], "")
            elif event["type"] == "text":
                said[event["side"]] += event["text"]
            elif event["type"] == "done":
                ends[event["side"]] = event["finish"]
            elif event["type"] == "failed":
                raise RuntimeError(f"an answer failed: {event['message']}")
        return {**turn, "said": {side: (text, ends[side]) for side, text in said.items()}}

    def post(self, path: str, body: dict) -> dict:
        return json.loads(self._send(path, body).read())

    def _send(self, path: str, body: dict) -> http.client.HTTPResponse:
        while True:
            connection = http.client.HTTPConnection(self.host, timeout=600)
            headers = {"content-type": "application/json", "cookie": self.cookie}
            connection.request("POST", path, json.dumps(body), headers)
            reply = connection.getresponse()
            if reply.status == 200:
                return reply
            text = reply.read().decode()
            connection.close()
            if reply.status != 429:
                raise RuntimeError(f"{path}: status {reply.status}: {text:.300}")
            time.sleep(float(reply.getheader("retry-after", "1")))
