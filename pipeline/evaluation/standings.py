"""What people prefer: their blind votes between checkpoints as win rates, and as places on one scale.

A vote is one person's verdict on two answers to one question. Votes of one person resemble each other more than those of two people (taste,
topics, patience), and so do votes in one conversation. An interval draws whole people where there are enough of them to speak for others:
what lies inside a person, conversations and questions, is then drawn along (Davison & Hinkley 1997, section 3.8). With fewer it draws whole
conversations, and speaks for these people alone.

The sign test asks something narrower, whether the two answer alike at all, and takes one sign a question. Under that hypothesis the two
answers to a question may be exchanged, so each sign is a fair coin by itself whoever votes: no clustering is needed for it.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from data.choices import Choice, Choices, Player, family_of
from pipeline.evaluation.comparisons import bradley_terry, elo
from pipeline.evaluation.statistics import Estimate, cluster_bootstrap, holm, sign_test, wilson

# From so many people on, intervals draw people; with fewer, from so many conversations on, conversations. Below that an interval holds the
# truth far less often than it says (benchmarks/standings_coverage.py), and none is given.
ENOUGH = 10
PEOPLE, CONVERSATIONS = "people", "conversations"
_STAGES = ("base", "sft", "ppo")
# What to call the checkpoint of a run and a stage, without its round.
Called = Callable[[str, str], str]


def _as_stored(run: str, stage: str) -> str:
    return stage


@dataclass(frozen=True)
class Pair:
    """Votes between two checkpoints, seen from `first`.

    Attributes:
        rate: share won, where a tie and "both bad" count half; its ends are NaN with too few people or conversations.
        p: two-sided exact sign test over questions; `p_holm` with Holm's correction for all pairs of the table.
        unit: what the interval draws, people or conversations.
    """

    first: str
    second: str
    won: int
    lost: int
    tied: int
    both_bad: int
    rate: Estimate
    p: float
    p_holm: float
    people: int
    conversations: int
    unit: str

    @property
    def votes(self) -> int:
        return self.won + self.lost + self.tied + self.both_bad


@dataclass(frozen=True)
class Standings:
    """All that people said of these checkpoints.

    Attributes:
        places: (checkpoint, Bradley-Terry strength in points of Elo, mean 0), best first, for each group of three or more.
        unplaced: a line for each group that has no finite places.
        first_side: share of the decisive votes that went to the left side, where the sides were drawn by lot.
        agreement: share of two people's verdicts on the same two answers that are the same; None where nobody judged what another did.
        agreement_of: (agreeing, judged) by rater.
    """

    votes: int
    people: int
    conversations: int
    pairs: tuple[Pair, ...]
    places: tuple[tuple[tuple[str, Estimate], ...], ...]
    unplaced: tuple[str, ...]
    first_side: Estimate | None
    decisive: int
    agreement: Estimate | None
    judged_twice: int
    agreement_of: Mapping[str, tuple[int, int]]
    left_out: Mapping[str, int]


def standings(choices: Choices, called: Called = _as_stored) -> Standings:
    """Counts, win rates and places of every checkpoint that stands in a vote; `called` names the one of a run and a stage."""
    votes, name = choices.votes, names(choices, called)
    order = {player: place for place, player in enumerate(sorted(name, key=_age(choices), reverse=True))}
    met: dict[tuple[Player, Player], list[Choice]] = defaultdict(list)
    for vote in votes:
        met[tuple(sorted((vote.left, vote.right), key=order.__getitem__))].append(vote)
    pairs = [_pair(name[a], name[b], a, met[a, b]) for a, b in sorted(met, key=lambda p: (order[p[0]], order[p[1]]))]
    adjusted = holm([pair.p for pair in pairs]) if pairs else []
    pairs = [Pair(**{**vars(pair), "p_holm": float(p)}) for pair, p in zip(pairs, adjusted, strict=True)]
    places, unplaced = [], []
    for group in _connected(met):
        if len(group) < 3:
            continue
        try:
            places.append(_places([v for v in votes if v.left in group], name))
        except ValueError as error:
            unplaced.append(str(error).removeprefix("bradley_terry: "))
    left, decisive = (sum(v.winner in sides for v in votes) for sides in (("left",), ("left", "right")))
    same, twice, each = _agreement(votes)
    return Standings(
        votes=len(votes),
        people=len({v.rater for v in votes}),
        conversations=len({v.conversation for v in votes}),
        pairs=tuple(pairs),
        places=tuple(places),
        unplaced=tuple(unplaced),
        first_side=wilson(left, decisive) if decisive else None,
        decisive=decisive,
        agreement=wilson(same, twice) if twice else None,
        judged_twice=twice,
        agreement_of=each,
        left_out=dict(choices.left_out),
    )


def between(choices: Choices, one: Player, other: Player, *, called: tuple[str, str]) -> Pair | None:
    """The votes between two checkpoints alone, seen from `one`; None where there is none."""
    votes = [v for v in choices.votes if {v.left, v.right} == {one, other}]
    return _pair(*called, one, votes) if votes else None


def names(choices: Choices, called: Called = _as_stored) -> dict[Player, str]:
    """What to call each checkpoint: `ppo` of the run itself, `ppo-round-2` of a round; with its weights where a stage was made anew.

    Equal weights in several runs are one checkpoint and have the oldest name. The name tells the run where votes of several are there.
    """
    plain = {player: _name(*_oldest(runs), called) for player, runs in choices.known.items()}
    several = len({player.family for player in plain}) > 1
    said = {player: f"{player.family}: {name}" if several else name for player, name in plain.items()}
    shared = {name for name, count in Counter(said.values()).items() if count > 1}
    return {
        player: f"{name} ({player.weights_sha256[:8]})" if name in shared else name for player, name in said.items()
    }


def _oldest(runs: Sequence[tuple[str, str]]) -> tuple[str, str]:
    return min(runs, key=lambda known: family_of(known[0])[1])


def _name(run: str, stage: str, called: Called) -> str:
    number, name = family_of(run)[1], called(run, stage)
    return f"{name}-round-{number}" if number and stage != "base" else name


def _age(choices: Choices) -> Callable[[Player], tuple]:
    met = {player: place for place, player in enumerate(choices.known)}

    def age(player: Player) -> tuple:
        run, stage = _oldest(choices.known[player])
        trained = _STAGES.index(stage) if stage in _STAGES else len(_STAGES)
        return player.family, trained, family_of(run)[1], met[player]

    return age


def _outcome(vote: Choice, first: Player) -> float:
    """1 where `first` won, 0 where it lost, 1/2 where neither was preferred."""
    if vote.winner not in ("left", "right"):
        return 0.5
    return float((vote.left if vote.winner == "left" else vote.right) == first)


def _clusters(votes: Sequence[Choice]) -> tuple[list[str], str]:
    if len({v.rater for v in votes}) >= ENOUGH:
        return [v.rater for v in votes], PEOPLE
    return [v.conversation for v in votes], CONVERSATIONS


def _pair(one: str, other: str, first: Player, votes: Sequence[Choice]) -> Pair:
    outcomes = [_outcome(v, first) for v in votes]
    clusters, unit = _clusters(votes)
    by_question: dict[str, float] = defaultdict(float)
    for vote, outcome in zip(votes, outcomes, strict=True):
        by_question[vote.question] += outcome - 0.5
    p = sign_test(list(by_question.values()))
    return Pair(
        one,
        other,
        won=outcomes.count(1.0),
        lost=outcomes.count(0.0),
        tied=sum(v.winner == "tie" for v in votes),
        both_bad=sum(v.winner == "both_bad" for v in votes),
        rate=_rate(outcomes, clusters),
        p=p,
        p_holm=p,
        people=len({v.rater for v in votes}),
        conversations=len({v.conversation for v in votes}),
        unit=unit,
    )


def _rate(outcomes: Sequence[float], clusters: Sequence[str]) -> Estimate:
    count = len(set(clusters))
    if count < ENOUGH:
        return Estimate(float(np.mean(outcomes)), math.nan, math.nan)
    found = cluster_bootstrap(outcomes, clusters)
    if found.low == found.high:
        # All alike: resampling sees no spread where ten wins in a row still leave room for a loss. As independent trials, one a cluster.
        return wilson(found.value * count, count)
    return found


def _places(votes: Sequence[Choice], name: Mapping[Player, str]) -> tuple[tuple[str, Estimate], ...]:
    clusters, _ = _clusters(votes)
    found = bradley_terry([(name[v.left], name[v.right], _outcome(v, v.left)) for v in votes], clusters)
    few = len(set(clusters)) < ENOUGH
    placed = [
        (player, Estimate(elo(value), *(math.nan if few else elo(end) for end in ends)))
        for player, (value, *ends) in found.items()
    ]
    return tuple(sorted(placed, key=lambda place: -place[1].value))


def _connected(met: Mapping[tuple[Player, Player], Sequence[Choice]]) -> list[set[Player]]:
    groups: list[set[Player]] = []
    for pair in met:
        joined = set(pair).union(*(g for g in groups if g & set(pair)))
        groups = [g for g in groups if not g & joined] + [joined]
    return groups


def _agreement(votes: Sequence[Choice]) -> tuple[int, int, dict[str, tuple[int, int]]]:
    """Of every two people who judged the same two answers: how many said the same, of how many, and so for each person."""
    judged: dict[object, dict[str, object]] = defaultdict(dict)
    for vote in votes:
        chosen = {"left": vote.left, "right": vote.right}.get(vote.winner)
        # Somebody who met the same words twice is heard once.
        judged[vote.answers].setdefault(vote.rater, chosen)
    same, twice = Counter(), Counter()
    for verdicts in judged.values():
        for one, other in combinations(verdicts, 2):
            for rater in (one, other, None):
                twice[rater] += 1
                same[rater] += verdicts[one] == verdicts[other]
    each = {rater: (same[rater], twice[rater]) for rater in twice if rater is not None}
    return same[None], twice[None], each
