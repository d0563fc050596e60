"""A talk in the terminal without a model: answers that are written down beforehand."""

import io
import os
import signal
from types import SimpleNamespace

from pipeline.chat.session import Session
from pipeline.chat.terminal import talk

CHAT = SimpleNamespace(temperature=0.7, max_new_tokens=20, rater="ann")


class Scripted:
    """Answers each time with the next text, word by word, and notes what it was asked.

    At the word SIGINT the process gets that signal; at CTRL-C the interrupt strikes inside the model.
    """

    checkpoints = ("base", "sft", "ppo")
    context_tokens = 4097

    def __init__(self, *texts, finish="stop"):
        self.texts, self.finish, self.asked = list(texts), finish, []
        self.ended, self.closed = [], 0

    def describe(self, checkpoint):
        return {"run": "r", "stage": checkpoint, "weights_sha256": checkpoint, "template_sha256": "t"}

    def name_of(self, run, stage, sha256):
        return stage

    def stream(self, messages, *, checkpoint, sampling, stop=None):
        self.asked.append((checkpoint, [m.content for m in messages], sampling))
        finish = self.finish
        try:
            for word in filter(None, self.texts.pop(0).split(" ")):
                if stop is not None and stop.is_set():
                    finish = "stopped"
                    break
                if word == "SIGINT":
                    os.kill(os.getpid(), signal.SIGINT)
                    continue
                if word == "CTRL-C":
                    raise KeyboardInterrupt
                yield SimpleNamespace(text=word + " ", token_ids=(1,), logprobs=(-0.1,), finish=None)
            self.ended.append(finish)
            yield SimpleNamespace(text="", token_ids=(), logprobs=(), finish=finish)
        finally:
            self.closed += 1


def run(store, assistant, *lines):
    out = io.StringIO()
    session = Session(assistant, store, CHAT)
    talk(session, iter(lines), out)
    return session, out.getvalue()


def rows(store, sql):
    return store._db.execute(sql).fetchall()
