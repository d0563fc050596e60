"""How long the records of a config are in tokens, and which of them the settings and the model have room for."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import median

from data.numbers import many
from data.overlap import prompt_of
from data.records import Demonstration, Message, Prompt, Ranking, Thumb
from pipeline import judge_questions
from pipeline.context import no_room_to_draw, no_room_to_read
from pipeline.template import PromptTooLong, prompt_ids, prompt_lengths, text_lengths

ONE_QUESTION = (
    "data.thumbs: the {thumbs} thumbs that KTO would learn from are of one question; it needs answers to another one to estimate its KL term on. "
    "Give thumbs on more questions, or use learner: ppo."
)


def thumbs_are_used(config) -> bool:
    """Else they lie there for another run: a round's, which holds every vote, may have a single thumb, too long or on the test side."""
    return config.learner == "kto" or config.reward.thumbs_weight > 0


class Lengths:
    """What fits into the tokens that the config allows. Nothing is cut: what does not fit is left out and named."""

    def __init__(self, config, tokenizer):
        self.config, self.tokenizer = config, tokenizer
        self.problems: list[str] = []
        self.notes: list[str] = []
        self._known: dict[tuple[Message, ...], int] = {}
        # The longest that is kept of each kind, in tokens.
        self._longest: dict[str, int] = defaultdict(int)

    def demonstrations(self, records: list[Demonstration]) -> tuple[list, list[str]]:
        """A demonstration is never cut: without its end the model would learn not to stop."""
        answers = text_lengths(self.tokenizer, [d.response for d in records])
        # One token more: the end of the answer.
        lengths = [p + a + 1 for p, a in zip(self._prompts([d.prompt for d in records]), answers, strict=True)]
        return self._sides(records, lengths, self.config.sft.max_tokens, "sft.max_tokens", "demonstration")

    def prompts(self, records: list[Prompt]) -> tuple[list, list[str]]:
        lengths = self._prompts([p.messages for p in records])
        return self._sides(records, lengths, self._most, "data.max_prompt_tokens", "prompt")

    def rankings(self, records: list[Ranking], *, learnt: bool) -> tuple[list, list[str]]:
        """Left out: those whose question alone does not fit, since cutting it would change what the answers were ranked for.

        The oldest turns of a conversation give way, as in the chat. Rankings whose answers are too long stay: how many of them
        the reward model takes is its own setting, and only when it takes none is that a problem.

        Args:
            learnt: whether they teach the reward model. Of those that only measure, `measured` says which fit into the context.
        """
        full = self._prompts([r.prompt for r in records])
        lengths = [n if n <= self._most else self._shortened(r) for n, r in zip(full, records, strict=True)]
        kept, long = self._sides(records, lengths, self._most, "data.max_prompt_tokens", "ranking")
        fits = {r.id: n for r, n in zip(records, lengths, strict=True)}
        self._readable(kept, fits, learnt=learnt)
        return kept, long

    def thumbs(self, records: list[Thumb]) -> tuple[list, list[str]]:
        """Those whose question and answer do not fit together are left out: a shortened one is not what was judged."""
        if not records:
            return [], []
        answers = text_lengths(self.tokenizer, [t.response for t in records])
        pairs = zip(self._prompts([t.prompt for t in records]), answers, records, strict=True)
        lengths = [
            p + a + int(t.finished) if p <= self._most else self.config.reward.max_tokens + 1 for p, a, t in pairs
        ]
        used = thumbs_are_used(self.config)
        if not used:
            self.notes.append(
                f"data.thumbs: {many(len(records), 'thumb is', 'thumbs are')} used by nothing: reward.thumbs_weight is 0, and learner is "
                f"{self.config.learner}."
            )
        return self._sides(records, lengths, self.config.reward.max_tokens, "reward.max_tokens", "thumb", needed=used)

    def held(self, given: Mapping[str, list]) -> None:
        """Held-out records are the yardstick: none may silently be missing."""
        for name, records in (
            ("heldout_prompts", given["heldout_prompts"]),
            ("heldout_rankings", given["heldout_rankings"]),
        ):
            lengths = self._prompts([prompt_of(r) for r in records])
            if name == "heldout_prompts":
                self._keep("held-out prompt", lengths, self._most)
            long = [
                r.id
                for r, n in zip(records, lengths, strict=True)
                if n > self._most and (isinstance(r, Prompt) or self._shortened(r) > self._most)
            ]
            path = getattr(self.config.data, name)
            self.problems += [
                f"{path}: prompt {i} is longer than data.max_prompt_tokens ({self._most})." for i in long[:20]
            ]
            if len(long) > 20:
                self.problems.append(
                    f"{path}: {many(len(long) - 20, 'more prompt is', 'more prompts are')} longer than that. Raise it or drop them."
                )

    def judged(self, questions: list[Prompt]) -> None:
        """What the detectors draw answers to: the first few that fit, and nobody may learn from them, so they may be longer than
        all that anybody does."""
        fitting = [n for n in self._prompts([q.messages for q in questions]) if n <= self._most]
        if judge_questions.are_asked(self.config):
            self._keep("question for the judge", fitting[: self.config.detectors.judge_prompts], self._most)

    def within(self, context: int | None) -> None:
        """Whether all that is kept, and what is drawn after it, fit into the model's context: told before anything is trained."""
        config, longest = self.config, self._longest
        texts = [
            ("sft.max_tokens", "demonstration", longest["demonstration"]),
            ("reward.max_tokens", "prompt with its answer", max(longest["ranking that is no tie"], longest["thumb"])),
        ]
        drawn = [("evaluation", config.evaluation.max_new_tokens, longest["held-out prompt"])]
        if config.learner == "ppo":
            drawn.append(("ppo", config.ppo.max_new_tokens, max(longest["prompt"], longest["question for the judge"])))
        else:
            drawn.append(("kto", config.kto.max_new_tokens, longest["question for the judge"]))
        for key, noun, tokens in texts:
            self.problems += no_room_to_read(context, key, noun, tokens)
        for section, tokens, prompt in drawn:
            self.problems += no_room_to_draw(context, section, tokens, prompt)

    def measured(self, records: list, context: int | None, name: str | None, *, refuse: bool = False) -> list:
        """The records that only measure and fit into the model's context, whatever training lets in; a line for those that do not."""
        if context is None or not records:
            return records
        lengths = self._whole(records)
        long = [r.id for r, n in zip(records, lengths, strict=True) if n > context]
        if long:
            said = f"{name}: {len(long)} of {len(records)} exceed the model's context of {context} tokens (first: {long[0]}, longest {max(lengths)})"
            if refuse or len(long) == len(records):
                self.problems.append(f"{said}. Drop or shorten them.")
            else:
                self.notes.append(f"{said} and are left out.")
        return [r for r, n in zip(records, lengths, strict=True) if n <= context]

    def _whole(self, records: list[Demonstration] | list[Ranking]) -> list[int]:
        """Tokens of each prompt with its longest answer, as the evaluation reads them."""
        said = [r.responses if isinstance(r, Ranking) else (r.response,) for r in records]
        ends = [r.finished if isinstance(r, Ranking) else (True,) for r in records]
        answers = iter(text_lengths(self.tokenizer, [text for texts in said for text in texts]))
        longest = [max(next(answers) + int(end) for end in row) for row in ends]
        prompts = [
            self._shortened(r) if isinstance(r, Ranking) and n > self._most else n
            for r, n in zip(records, self._prompts([r.prompt for r in records]), strict=True)
        ]
        return [p + a for p, a in zip(prompts, longest, strict=True)]

    @property
    def _most(self) -> int:
        return self.config.data.max_prompt_tokens

    def _prompts(self, prompts: Sequence[tuple[Message, ...]]) -> list[int]:
        # PPO asks the rankings' questions when it has none of its own; each is counted once.
        new = [p for p in dict.fromkeys(prompts) if p not in self._known]
        lengths = prompt_lengths(self.tokenizer, new, system_prompt=self.config.model.system_prompt)
        self._known |= zip(new, lengths, strict=True)
        return [self._known[p] for p in prompts]

    def _shortened(self, ranking: Ranking) -> int:
        """Tokens after the oldest turns gave way; more than the limit where the last turn alone is too long."""
        system = self.config.model.system_prompt
        try:
            return len(prompt_ids(self.tokenizer, ranking.prompt, system_prompt=system, max_tokens=self._most))
        except PromptTooLong:
            return self._most + 1

    def _readable(self, rankings: list[Ranking], prompt_tokens: Mapping[str, int], *, learnt: bool) -> None:
        longest = iter(text_lengths(self.tokenizer, [text for r in rankings for text in r.responses]))
        needs = []
        for ranking in rankings:
            ends = [next(longest) + int(finished) for finished in ranking.finished]
            if ranking.pairs():
                needs.append(prompt_tokens[ranking.id] + max(ends))
        limit = self.config.reward.max_tokens
        self._tell(needs, limit, "reward.max_tokens", "ranking that is no tie")
        if learnt:
            self._keep("ranking that is no tie", needs, limit)

    def _sides(
        self, records: list, lengths: list[int], limit: int, key: str, noun: str, *, needed: bool = True
    ) -> tuple[list, list[str]]:
        self._tell(lengths, limit, key, noun, needed=needed)
        if needed:
            self._keep(noun, lengths, limit)
        kept = [r for r, n in zip(records, lengths, strict=True) if n <= limit]
        return kept, [r.id for r, n in zip(records, lengths, strict=True) if n > limit]

    def _keep(self, noun: str, lengths: list[int], limit: int) -> None:
        self._longest[noun] = max([self._longest[noun], *(n for n in lengths if n <= limit)])

    def _tell(self, lengths: list[int], limit: int, key: str, noun: str, *, needed: bool = True) -> None:
        long = sum(n > limit for n in lengths)
        if not long:
            return
        spread = f"shortest {min(lengths)}, middle {median(lengths):.0f}, longest {max(lengths)}"
        if long == len(lengths) and needed:
            self.problems.append(f"{key}: every {noun} is longer than {limit} tokens ({long}: {spread}). Raise it.")
        else:
            self.notes.append(
                f"{key} {limit}: {long} of {len(lengths)}, each a {noun}, are longer and left out ({spread} tokens)."
            )
