"""Answers drawn side by side, each as whichever checkpoint it was asked of."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

from data.records import Message
from pipeline.decoder import Decoder, Step
from pipeline.sampling import Sampling


@dataclass(frozen=True)
class Delta:
    """What came since the last one. The last has `finish`: stop, length or stopped (by the person), and what was read."""

    text: str
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    finish: str | None = None
    prompt_tokens: int = 0


@dataclass
class _Answer:
    """What one row has said: its tokens, and the text of them that was told."""

    number: int
    prompt_tokens: int
    said: list[int] = field(default_factory=list)
    shown: str = ""


@dataclass(eq=False)
class _Crew:
    """The answers of one checkpoint, by their rows in one decoder."""

    checkpoint: str
    decoder: Decoder
    answers: dict[int, _Answer] = field(default_factory=dict)


class Batch:
    """The answers that one thread draws. Those of one checkpoint share every reading of the weights.

    Checkpoints take turns token by token: the base is the same, and another adapter is two fields of each adapted layer.
    """

    def __init__(self, assistant):
        """`assistant` is a `pipeline.assistant.Assistant`."""
        self._assistant, self._base = assistant, assistant.base
        self._crews: list[_Crew] = []
        self._places: dict[int, tuple[_Crew, int]] = {}
        self._numbers = itertools.count()

    def join(self, messages: Sequence[Message], *, checkpoint: str, sampling: Sampling) -> int:
        """Reads a conversation, and returns the number under which its answer is drawn from now on.

        Oldest turns are left out when the conversation outgrows the model's context.

        Raises:
            UserError: the last message does not fit.
        """
        ids = self._assistant.prompt(messages, sampling.max_new_tokens)
        crew = self._crew(checkpoint)
        with self._base.acting_as(self._assistant.role(checkpoint)):
            (row,) = crew.decoder.join([ids], sampling)
        if crew not in self._crews:
            self._crews.append(crew)
        answer = _Answer(next(self._numbers), len(ids))
        crew.answers[row] = answer
        self._places[answer.number] = (crew, row)
        return answer.number

    def step(self) -> list[tuple[int, Delta | Exception]]:
        """One token more for every answer. What fails while drawing takes all answers of its checkpoint with it, and no other."""
        heard: list[tuple[int, Delta | Exception]] = []
        for crew in list(self._crews):
            try:
                with self._base.acting_as(self._assistant.role(crew.checkpoint)):
                    steps = crew.decoder.step()
            except Exception as error:
                heard += [(answer.number, error) for answer in crew.answers.values()]
                for row in list(crew.answers):
                    self._remove(crew, row)
                continue
            for step in steps:
                answer = crew.answers[step.row]
                heard += [(answer.number, delta) for delta in self._deltas(answer, step)]
                if step.last:
                    self._remove(crew, step.row)
        return heard

    def leave(self, number: int) -> Delta:
        """Ends an answer before its time."""
        crew, row = self._places[number]
        crew.decoder.leave([row])
        prompt_tokens = crew.answers[row].prompt_tokens
        self._remove(crew, row)
        return Delta("", finish="stopped", prompt_tokens=prompt_tokens)

    def _crew(self, checkpoint: str) -> _Crew:
        for crew in self._crews:
            if crew.checkpoint == checkpoint and crew.decoder.can_be_joined:
                return crew
        # The first of its checkpoint, or of a model whose rows cannot be joined: each of those is drawn by itself.
        tokenizer = self._base.tokenizer
        decoder = Decoder(self._base.causal_lm, eos_id=tokenizer.eos_token_id, pad_id=tokenizer.pad_token_id)
        return _Crew(checkpoint, decoder)

    def _remove(self, crew: _Crew, row: int) -> None:
        del self._places[crew.answers.pop(row).number]
        if not crew.answers:
            self._crews = [other for other in self._crews if other is not crew]

    def _deltas(self, answer: _Answer, step: Step) -> list[Delta]:
        tokenizer = self._base.tokenizer
        ended = step.token == tokenizer.eos_token_id
        if not ended:
            answer.said.append(step.token)
        text = tokenizer.decode(answer.said, skip_special_tokens=True)
        # A character may span tokens; it is shown when it is whole.
        new = "" if text.endswith("\ufffd") and not step.last else text[len(answer.shown) :]
        answer.shown += new
        deltas = [Delta(new, (step.token,), (step.logprob,))]
        if step.last:
            deltas.append(Delta("", finish="stop" if ended else "length", prompt_tokens=answer.prompt_tokens))
        return deltas
