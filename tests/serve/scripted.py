"""An assistant without a model: says what it is told to, a word at a time, and can be held in the middle."""

import threading

from pipeline.assistant import Delta


class Scripted:
    """Answers with the next of `texts` (the last one again when they run out), and notes what it was asked.

    At the word HOLD it says so in `held` and waits for `release`, or for being stopped.
    """

    checkpoints = ("base", "sft", "ppo")
    context_tokens = 4097

    def __init__(self, *texts, finish="stop"):
        self.texts, self.finish, self.asked, self.ended = list(texts), finish, [], []
        self.held, self.release = threading.Event(), threading.Event()

    def describe(self, checkpoint):
        return {"run": "r", "stage": checkpoint, "weights_sha256": checkpoint, "template_sha256": "t"}

    def stream(self, messages, *, checkpoint, sampling, stop=None):
        self.asked.append((checkpoint, [(m.role, m.content) for m in messages], sampling))
        text = self.texts.pop(0) if len(self.texts) > 1 else self.texts[0]
        if isinstance(text, Exception):
            raise text
        finish = self.finish
        for word in text.split(" "):
            if word == "HOLD":
                self.held.set()
                # Polled: whoever leaves sets `stop`, whoever goes on sets `release`.
                while not (self.release.wait(0.005) or stop.is_set()):
                    pass
                continue
            if stop.is_set():
                finish = "stopped"
                break
            yield Delta(word + " ", (1,), (-0.1,))
        self.ended.append(finish)
        yield Delta("", finish=finish, prompt_tokens=7)
