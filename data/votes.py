"""From votes to training data: the table of docs/feedback.md as code. Pure, and the same for the same votes in any order.

Votes on different prompts are never paired: that would teach which prompts people like.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from data.records import Demonstration, Message, Prompt, Ranking, Thumb
from data.said import Answer, Ballot, Said, raters_of

# A prompt with many answers would else count for more than the others.
PAIRS_A_PROMPT = 4
# Behind the id of a prompt that somebody asked in the chat: those are trained on, and never shown to others.
ASKED = "-asked"


@dataclass(frozen=True)
class Lesson:
    """What a round learns from votes.

    Every judgement given is used or counted: sum(given) = used + sum(left_out).

    Attributes:
        thumbs: one for each answer on which a thumb stands.
        unpaired: those of them whose prompt has thumbs of one kind only.
        again: prompts whose answers were all found bad, and nobody wrote a better one.
        given: judgements by rater.
        used: judgements that are part of a record.
        left_out: judgements that are not, by reason.
        taken_back: votes that their raters took back or replaced; none of the judgements.
        disagreement: prompts' answers and pairs that two or more raters judged, and on how many of them they differed.
        notes: what else did not become a record, by reason, in records.
        raters: whose words or votes may be in the records.
    """

    rankings: tuple[Ranking, ...]
    demonstrations: tuple[Demonstration, ...]
    thumbs: tuple[Thumb, ...]
    unpaired: tuple[Thumb, ...]
    again: tuple[Prompt, ...]
    given: Counter
    used: int
    left_out: Counter
    taken_back: Counter
    disagreement: Counter
    notes: Counter
    raters: frozenset[str]

    @property
    def pairs(self) -> int:
        return sum(len(r.pairs()) for r in self.rankings)

    @property
    def sha256(self) -> str:
        """Identity of the training set: the same for the same votes, whenever and in whatever order they were given."""
        sets = (self.rankings, self.demonstrations, self.thumbs, self.unpaired, self.again)
        return hashlib.sha256(json.dumps([[r.id for r in records] for records in sets]).encode()).hexdigest()


@dataclass
class _Found:
    """What has been made of the ballots so far."""

    rankings: list[Ranking] = field(default_factory=list)
    demonstrations: list[Demonstration] = field(default_factory=list)
    thumbs: list[Thumb] = field(default_factory=list)
    unpaired: list[Thumb] = field(default_factory=list)
    again: list[Prompt] = field(default_factory=list)
    used: int = 0
    left_out: Counter = field(default_factory=Counter)
    disagreement: Counter = field(default_factory=Counter)
    notes: Counter = field(default_factory=Counter)


def learn(said: Said, *, rater_share: float = 1.0) -> Lesson:
    """The records that votes become.

    Args:
        rater_share: the share of the judgements used that may come from one rater, 0 to 1; with fewer than 1/share raters, an
            equal share each. Which of a rater's judgements stay is drawn by their hash.
    """
    found = _Found(left_out=Counter(said.left_out))
    ballots = _capped(_once(said.ballots, found.left_out), rater_share, found.left_out)
    by_prompt: dict[tuple[Message, ...], list[Ballot]] = defaultdict(list)
    for ballot in ballots:
        by_prompt[ballot.prompt].append(ballot)
    for prompt in by_prompt:
        _OnePrompt(prompt, by_prompt[prompt], found).learn()
    sets = {
        name: tuple(sorted(getattr(found, name), key=lambda r: r.id))
        for name in ("rankings", "demonstrations", "thumbs", "unpaired", "again")
    }
    return Lesson(
        **sets,
        given=said.given,
        used=found.used,
        left_out=+found.left_out,
        taken_back=+said.taken_back,
        disagreement=+found.disagreement,
        notes=+found.notes,
        raters=said.raters,
    )


def _once(ballots: Sequence[Ballot], left_out: Counter) -> list[Ballot]:
    """Each rater's ballots on the same words once; those of a rater who says both of the same words, not at all."""
    about: dict[tuple, list[Ballot]] = defaultdict(list)
    for b in ballots:
        words = b.first if b.kind in ("up", "down") else frozenset((b.first, b.second))
        about[b.rater, b.prompt, words].append(b)
    kept = []
    for same in about.values():
        if len({(b.kind == "down", b.kind != "tie" and b.first) for b in same}) > 1:
            left_out["rater who says both of the same answers"] += len(same)
            continue
        left_out["said again by the same rater"] += len(same) - 1
        # An edit says more than the choice that agrees with it; among thumbs the last may be the retry.
        kept.append(max(same, key=lambda b: (b.kind == "edit", b.place)))
    return kept


def _capped(ballots: Sequence[Ballot], share: float, left_out: Counter) -> list[Ballot]:
    counts = raters_of(ballots)
    if not counts:
        return []
    share = max(share, 1 / len(counts))
    most = max(counts.values())
    # Half a millionth: a share such as 1/3 is not exact in binary.
    while most > share * sum(min(n, most) for n in counts.values()) + 5e-7:
        most -= 1
    by_rater: dict[str, list[Ballot]] = defaultdict(list)
    for ballot in ballots:
        by_rater[ballot.rater].append(ballot)
    left_out["above the share of one rater"] += sum(max(0, n - most) for n in counts.values())
    return [b for own in by_rater.values() for b in sorted(own, key=_draw)[:most]]


def _draw(ballot: Ballot) -> str:
    answers = [[a.text, a.finished] for a in (ballot.first, ballot.second) if a is not None]
    return _digest(ballot.rater, ballot.kind, _turns(ballot.prompt), answers)


class _OnePrompt:
    """The ballots on answers to one prompt."""

    def __init__(self, prompt: tuple[Message, ...], ballots: Sequence[Ballot], found: _Found):
        self.prompt, self.found = prompt, found
        self.thumbs = [b for b in ballots if b.kind in ("up", "down")]
        self.choices = [b for b in ballots if b.kind not in ("up", "down")]

    def learn(self) -> None:
        standing = self._thumbs_standing()
        pairs = self._pairs_standing()
        self._drop_contradictions(standing, pairs)
        ups = sorted((a for a, own in standing.items() if own[0].kind == "up"), key=_order)
        downs = sorted((a for a, own in standing.items() if own[0].kind == "down"), key=_order)
        for own in [*standing.values(), *pairs.values()]:
            self.found.used += len(own)
        self._rank_thumbs(ups, downs)
        self._rank_pairs(pairs)
        self._demonstrate(ups, downs, standing, pairs)
        thumbs = [self._thumb(a, up, standing[a]) for up, answers in ((True, ups), (False, downs)) for a in answers]
        self.found.thumbs += thumbs
        if not (ups and downs):
            self.found.unpaired += thumbs
        if downs and not ups and not any(b.kind == "edit" for own in pairs.values() for b in own):
            self.found.again.append(Prompt(_id("p", self.prompt, []), self.prompt))

    def _thumb(self, answer: Answer, up: bool, own: Sequence[Ballot]) -> Thumb:
        raters = {b.rater for b in own}
        # A digest: training files tell one person's thumbs apart, and name nobody.
        rater = _digest("rater", *raters)[:12] if len(raters) == 1 else None
        name = _id("t", self.prompt, [answer], up)
        return Thumb(name, self.prompt, answer.text, up, finished=answer.finished, rater=rater)

    def _thumbs_standing(self) -> dict[Answer, list[Ballot]]:
        """The ballots of the majority, by answer."""
        by_answer: dict[Answer, list[Ballot]] = defaultdict(list)
        for b in self.thumbs:
            by_answer[b.first].append(b)
        found = {}
        for answer, own in by_answer.items():
            found[answer] = self._majority([[b for b in own if b.kind == kind] for kind in ("up", "down")], "answers")
        return {a: own for a, own in found.items() if own}

    def _pairs_standing(self) -> dict[tuple[Answer, Answer | None], list[Ballot]]:
        """The ballots of the majority, by (better, worse), or by two that tie."""
        by_pair: dict[frozenset, list[Ballot]] = defaultdict(list)
        for b in self.choices:
            by_pair[frozenset((b.first, b.second))].append(b)
        kept = {}
        for own in by_pair.values():
            winners = sorted({b.first for b in own if b.kind != "tie"}, key=_order)
            sides = [[b for b in own if b.kind != "tie" and b.first == w] for w in winners]
            own = self._majority([*sides, [b for b in own if b.kind == "tie"]], "pairs")
            if own:
                kept[own[0].first, own[0].second] = own
        return kept

    def _majority(self, sides: Sequence[list[Ballot]], what: str) -> list[Ballot]:
        sides = sorted((side for side in sides if side), key=len, reverse=True)
        total = sum(map(len, sides))
        self.found.disagreement[f"{what} judged by several"] += total > 1
        self.found.disagreement[f"{what} judged differently"] += len(sides) > 1
        if len(sides) > 1 and len(sides[0]) == len(sides[1]):
            self.found.left_out["raters disagree evenly"] += total
            return []
        self.found.left_out["outvoted by other raters"] += total - len(sides[0])
        return sides[0]

    def _drop_contradictions(self, standing: dict, pairs: dict) -> None:
        """Where the answer with a thumb down was chosen over the one with a thumb up, neither can be believed."""
        for (better, worse), own in list(pairs.items()):
            up, down = standing.get(worse), standing.get(better)
            if own[0].kind == "tie" or not (up and down and up[0].kind == "up" and down[0].kind == "down"):
                continue
            self.found.left_out["thumbs and choice contradict each other"] += len(own) + len(up) + len(down)
            del pairs[better, worse], standing[better], standing[worse]

    def _rank_thumbs(self, ups: Sequence[Answer], downs: Sequence[Answer]) -> None:
        up, down = list(ups), list(downs)
        while len(up) * len(down) > PAIRS_A_PROMPT:
            (up if len(up) > len(down) else down).pop()
        self.found.notes[f"pairs above {PAIRS_A_PROMPT} a prompt"] += len(ups) * len(downs) - len(up) * len(down)
        self.by_thumbs = {(a, b) for a in up for b in down}
        if self.by_thumbs:
            self._rank([*up, *down], [0] * len(up) + [1] * len(down))

    def _rank_pairs(self, pairs: dict[tuple[Answer, Answer | None], list[Ballot]]) -> None:
        for (better, worse), own in pairs.items():
            if worse is None:
                self.found.notes["edits of answers that cannot be ranked"] += 1
            elif own[0].kind == "tie":
                # Whichever of the two was shown first: beside thumbs that tell them apart it is a tie all the same.
                self.found.notes["ties, which are no pair"] += 1
                self._rank(sorted((better, worse), key=_order), [0, 0])
            elif (better, worse) in self.by_thumbs:
                self.found.notes["pairs that thumbs and a choice both give, kept once"] += 1
            else:
                self._rank([better, worse], [0, 1])

    def _rank(self, answers: Sequence[Answer], ranks: Sequence[int]) -> None:
        texts, finished = tuple(a.text for a in answers), tuple(a.finished for a in answers)
        name = _id("r", self.prompt, answers, list(ranks))
        self.found.rankings.append(Ranking(name, self.prompt, texts, tuple(ranks), finished))

    def _demonstrate(self, ups, downs, standing, pairs) -> None:
        shown = [b.first for own in pairs.values() for b in own if b.kind == "edit" and b.first not in downs]
        for answer in ups:
            if downs and not any(self._after_a_bad_one(b) for b in standing[answer]):
                continue
            if answer.finished:
                shown.append(answer)
            else:
                # Without its end the model would learn not to stop.
                self.found.notes["good answers that were cut off, no demonstrations"] += 1
        for answer in dict.fromkeys(shown):
            self.found.demonstrations.append(Demonstration(_id("d", self.prompt, [answer]), self.prompt, answer.text))

    def _after_a_bad_one(self, up: Ballot) -> bool:
        """Whether the rater had asked again after an answer that the same rater found bad."""
        return any(
            b.kind == "down" and b.rater == up.rater and b.parent == up.parent and b.place < up.place
            for b in self.thumbs
        )


def _order(answer: Answer) -> tuple[str, bool]:
    # By hash and not by text: when some must give way, not always those late in the alphabet.
    return _digest(answer.text), answer.finished


def _turns(messages: Iterable[Message]) -> list[list[str]]:
    return [[m.role, m.content] for m in messages]


def _id(kind: str, prompt: tuple[Message, ...], answers: Sequence[Answer], *more) -> str:
    """Made of the words alone: votes given anew give the same ids."""
    return f"vote-{kind}-{_digest(kind, _turns(prompt), [[a.text, a.finished] for a in answers], *more)[:16]}"


def _digest(*parts) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
