"""An assistant without a model: says what it is told to, a word at a time, and can be held in the middle."""

import itertools
import threading
import time

from pipeline.batch import Delta


class Scripted:
    """Answers with the next of `texts` (the last one again when they run out), and notes what it was asked.

    At the word HOLD it says so in `held`, and the answer goes on after `release`. A text that is an exception is raised instead of
    joining; the word FAIL makes drawing it fail.
    """

    checkpoints = ("base", "sft", "ppo")
    context_tokens = 4097

    def __init__(self, *texts, finish="stop"):
        self.texts, self.finish, self.asked, self.ended = list(texts), finish, [], []
        self.held, self.release = threading.Event(), threading.Event()
        # The most answers that were drawn at a time.
        self.most = 0

    def describe(self, checkpoint):
        return {"run": "r", "stage": checkpoint, "weights_sha256": checkpoint, "template_sha256": "t"}

    def name_of(self, run, stage, sha256):
        return stage

    def open_batch(self):
        return _Batch(self)


class _Batch:
    def __init__(self, assistant):
        self.assistant, self.numbers, self.words = assistant, itertools.count(), {}

    def join(self, messages, *, checkpoint, sampling):
        of = self.assistant
        of.asked.append((checkpoint, [(m.role, m.content) for m in messages], sampling))
        text = of.texts.pop(0) if len(of.texts) > 1 else of.texts[0]
        if isinstance(text, Exception):
            raise text
        number = next(self.numbers)
        self.words[number] = text.split(" ")
        of.most = max(of.most, len(self.words))
        return number

    def step(self):
        of, heard = self.assistant, []
        for number, words in list(self.words.items()):
            if words and words[0] == "HOLD":
                of.held.set()
                if not of.release.is_set():
                    continue
                words.pop(0)
            word = words.pop(0) if words else None
            if word == "FAIL":
                del self.words[number]
                heard.append((number, RuntimeError("secret")))
            elif word is not None:
                heard.append((number, Delta(word + " ", (1,), (-0.1,))))
            if not words and number in self.words:
                heard.append((number, self._end(number, of.finish)))
        if not heard:
            # All are held: nothing turns in circles at full speed.
            time.sleep(0.005)
        return heard

    def leave(self, number):
        return self._end(number, "stopped")

    def _end(self, number, finish):
        del self.words[number]
        self.assistant.ended.append(finish)
        return Delta("", finish=finish, prompt_tokens=7)
