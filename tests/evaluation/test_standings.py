"""Standings against hand counts, closed forms and scipy."""

import itertools
import json
import math

import pytest
from scipy import stats

from data.choices import Player, family_of, read_choices
from data.errors import UserError
from data.feedback import FeedbackStore
from pipeline.evaluation import standings as s
from pipeline.evaluation.standings_file import FILE, keep, read


class People:
    """A store in which people choose between checkpoints; each call is one question in a conversation of its own."""

    def __init__(self, path):
        self.store, self.count = FeedbackStore.open(path), itertools.count()

    def model(self, run, stage, weights=None, template="t"):
        weights = f"{stage} of {run}" if weights is None else weights
        return self.store.add_model(run=run, stage=stage, weights_sha256=weights, template_sha256=template)

    def vote(self, one, other, *verdicts, rater="ann", owner=None, texts=None):
        """Both answer a question; each verdict is of one rater: 1, 0, tie, both_bad. The sides change from call to call."""
        number = next(self.count)
        talk = self.store.start_conversation(rater=owner or rater)
        asked = self.store.add_message(talk, parent=None, author="human", content="q" if texts else f"q{number}")
        ids = [
            self.store.add_message(talk, parent=asked, author="model", content=text, model=model, finish="stop")
            for model, text in zip((one, other), texts or (f"a{number}", f"b{number}"), strict=True)
        ]
        turned = number % 2
        for name, verdict in verdicts if isinstance(verdicts[0], tuple) else [(rater, v) for v in verdicts]:
            winner = verdict if isinstance(verdict, str) else ("left", "right")[(verdict == 0) ^ turned]
            self.store.compare(*(ids[::-1] if turned else ids), rater=name, winner=winner, blind=True, shown_ms=1)
        return ids

    def counted(self, **options):
        return s.standings(read_choices(self.store, **options))


@pytest.fixture
def people(tmp_path):
    people = People(tmp_path / "votes.sqlite")
    yield people
    people.store.close()


@pytest.fixture
def three(people):
    return [people.model("r", stage, "" if stage == "base" else None) for stage in ("base", "sft", "ppo")]


def test_places_along_a_chain_are_the_log_odds_of_each_link(people, three):
    """In a chain nothing binds one link to another, so each difference is the logit of its win rate; a tie is half a win for either."""
    base, sft, ppo = three
    for verdict in (1, 1, 1, 1, 1, 0, "tie", "both_bad"):
        people.vote(ppo, sft, verdict)
    for verdict in (1, 0, 1, "tie"):
        people.vote(sft, base, verdict)
    found = people.counted()
    (group,) = found.places
    at = dict(group)
    assert [name for name, _ in group] == ["ppo", "sft", "base"]
    # 6 to 2, and 2.5 to 1.5.
    assert at["ppo"].value - at["sft"].value == pytest.approx(400 * math.log10(6 / 2))
    assert at["sft"].value - at["base"].value == pytest.approx(400 * math.log10(2.5 / 1.5))
    assert sum(place.value for place in at.values()) == pytest.approx(0)
    rates = {(p.first, p.second): p.rate.value for p in found.pairs}
    assert rates == {("ppo", "sft"): 6 / 8, ("sft", "base"): 2.5 / 4}


def test_two_checkpoints_have_a_win_rate_and_no_places(people, three):
    people.vote(three[2], three[1], 1)
    found = people.counted()
    assert found.places == () == found.unplaced and len(found.pairs) == 1


def test_who_never_lost_has_no_place_and_a_line_says_so(people, three):
    base, sft, ppo = three
    for _ in range(10):
        people.vote(ppo, sft, 1)
        people.vote(ppo, base, 1)
    for verdict in (1, 0):
        people.vote(sft, base, verdict)
    found = people.counted()
    (line,) = found.unplaced
    assert found.places == () and line.startswith("between ppo and the others one side never lost")
    pair = found.pairs[0]
    # Resampling ten wins gives ten wins; as ten trials they leave room for a loss.
    expected = stats.binomtest(10, 10).proportion_ci(method="wilson")
    assert pair.rate == pytest.approx((1.0, expected.low, expected.high)) and pair.rate.low < 0.75


def test_groups_that_nobody_compared_with_each_other_have_places_of_their_own(people, three):
    others = [people.model("r-round-001", "ppo", f"w{i}") for i in range(2)]
    for a, b in itertools.permutations(three, 2):
        people.vote(a, b, 1)
    people.vote(*others, 1)
    assert [len(group) for group in people.counted().places] == [3]


def test_p_values_are_of_questions_and_are_corrected_for_all_pairs(people, three):
    base, sft, ppo = three
    for number in range(8):
        # Three people see the same two answers: one question, one sign, whatever two of them outvote.
        people.vote(ppo, sft, ("ann", 1), ("bob", 1), ("eve", int(number == 0)))
    for verdict in (1, 1, 1, 0):
        people.vote(ppo, base, verdict)
    first, second = people.counted().pairs
    assert (first.votes, first.p) == (24, pytest.approx(stats.binomtest(8, 8).pvalue))
    assert second.p == pytest.approx(stats.binomtest(3, 4).pvalue)
    # Holm: the smallest times two, the other as it is, and never below the smaller one.
    assert (first.p_holm, second.p_holm) == pytest.approx((2 * first.p, max(2 * first.p, second.p)))


# Φ(∓√(10/9) · 2.2622), Student's t for nine degrees of freedom.
TAILS_OF_TEN = [0.00856, 0.99144]


def test_from_ten_people_on_the_interval_draws_people(people, three):
    _, sft, ppo = three
    for person in range(10):
        for _ in range(8):
            people.vote(ppo, sft, int(person % 2), rater=f"p{person}")
    (pair,) = people.counted().pairs
    # Everybody always says the same, so a drawn crowd is ten coins: quantiles of Binomial(10, ½) / 10, at the tails for ten.
    ends = stats.binom.ppf(TAILS_OF_TEN, 10, 0.5) / 10
    assert (pair.unit, pair.people) == ("people", 10) and pair.rate == pytest.approx((0.5, *ends))


def test_ten_people_of_one_mind_are_ten_trials_however_often_they_say_it(people, three):
    _, sft, ppo = three
    for person in range(10):
        for _ in range(3):
            people.vote(ppo, sft, 1, rater=f"p{person}")
    (pair,) = people.counted().pairs
    expected = stats.binomtest(10, 10).proportion_ci(method="wilson")
    assert pair.rate == pytest.approx((1.0, expected.low, expected.high))


def test_every_vote_is_counted_and_the_base_of_a_round_is_the_base(people):
    base, ppo = people.model("r-round-002", "base", ""), people.model("r-round-002", "ppo")
    for verdict in (1, 0, "tie", "both_bad", "both_bad"):
        people.vote(ppo, base, verdict)
    (pair,) = people.counted().pairs
    assert (pair.won, pair.lost, pair.tied, pair.both_bad, pair.votes) == (1, 1, 1, 2, 5)
    assert (pair.first, pair.second) == ("ppo-round-2", "base")


def test_with_fewer_people_it_draws_conversations_and_with_few_of_these_there_is_none(people, three):
    _, sft, ppo = three
    for number in range(9):
        people.vote(ppo, sft, number % 2, rater=f"p{number}")
    (pair,) = people.counted().pairs
    assert pair.rate.value == pytest.approx(4 / 9) and math.isnan(pair.rate.low)
    people.vote(ppo, sft, 1, rater="p0")
    (pair,) = people.counted().pairs
    assert (pair.people, pair.conversations, pair.unit) == (9, 10, "conversations")
    assert pair.rate == pytest.approx((0.5, *(stats.binom.ppf(TAILS_OF_TEN, 10, 0.5) / 10)))


def test_agreement_is_over_every_two_people_who_judged_the_same(people, three):
    _, sft, ppo = three
    people.vote(ppo, sft, ("ann", 1), ("bob", 1), ("eve", "tie"))
    assert (people.counted().judged_twice, people.counted().agreement.value) == (3, pytest.approx(1 / 3))
    # The same words in two talks are the same two answers; said twice by one person they are one judgement.
    for rater, verdict in (("ann", 1), ("bob", 0), ("ann", 0)):
        people.vote(ppo, sft, verdict, rater=rater, texts=("yes", "no"))
    found = people.counted()
    assert found.judged_twice == 4 and found.agreement.value == pytest.approx(1 / 4)
    assert found.agreement_of == {"ann": (1, 3), "bob": (1, 3), "eve": (0, 2)}


def test_two_people_judge_the_same_only_where_all_that_stood_there_was_the_same(people, three):
    """Who answered, both answers, the question, what was said before it and the system prompt; not in whose talk, nor on which side."""
    base, sft, ppo = three

    def asked(rater, *, system="s", before=("q", "a"), question="r", texts=("yes", "no"), models=(ppo, sft), turned=False):
        talk, at = people.store.start_conversation(rater=rater, system_prompt=system), None
        for author, content in zip(("human", "model", "human"), (*before, question), strict=True):
            at = people.store.add_message(talk, parent=at, author=author, content=content, finish=None if author == "human" else "stop")
        ids = [
            people.store.add_message(talk, parent=at, author="model", content=text, model=model, finish="stop")
            for model, text in zip(models, texts, strict=True)
        ]
        people.store.compare(*(ids[::-1] if turned else ids), rater=rater, winner="left", blind=True, shown_ms=1)
        return read_choices(people.store).votes[-1].answers

    first = asked("ann")
    assert asked("bob", turned=True) == first
    others = (
        {"system": "t"}, {"before": ("p", "a")}, {"before": ("q", "b")}, {"question": "p"}, {"texts": ("yes", "maybe")},
        {"texts": ("no", "yes")}, {"models": (ppo, base)},
    )  # fmt: skip
    assert len({first, *(asked("eve", **other) for other in others)}) == 8


def test_the_left_side_is_counted_among_votes_for_a_side(people, three):
    _, sft, ppo = three
    for _ in range(6):
        # The sides change from call to call and the winner is always ppo: three times left.
        people.vote(ppo, sft, 1)
    people.vote(ppo, sft, "tie")
    found = people.counted()
    expected = stats.binomtest(3, 6).proportion_ci(method="wilson")
    assert found.decisive == 6 and found.first_side == pytest.approx((0.5, expected.low, expected.high))


def test_only_the_first_choice_of_a_person_on_two_answers_is_blind(people, three):
    """The names are told after it; `withdrawn` does not make them forgotten."""
    _, sft, ppo = three
    ids = people.vote(ppo, sft, 1, rater="ann")
    people.store.compare(*ids[::-1], rater="ann", winner="left", blind=True, shown_ms=1)
    (pair,) = people.counted().pairs
    assert (pair.won, pair.lost) == (1, 0)
    people.store.withdraw_comparison(1, rater="ann")
    found = people.counted()
    assert found.votes == 0
    assert found.left_out == {"taken back": 1, "made anew, after the names were told": 1}


def test_what_was_not_drawn_here_or_answers_another_question_is_counted_apart(people, three):
    _, sft, ppo = three
    foreign = people.model("open-webui", "x", "", "")
    people.vote(foreign, people.model("open-webui", "y", "", ""), 1)
    people.vote(ppo, foreign, 1)
    people.vote(foreign, ppo, 1)
    # The sides change from call to call: once it was the left one that was drawn here, and once the right one.
    one, other = people.vote(ppo, sft, "skip")[0], people.vote(ppo, sft, "skip")[1]
    people.store.compare(one, other, rater="bob", winner="left", blind=True, shown_ms=1)
    people.vote(people.model("other", "sft"), people.model("other", "ppo"), 1)
    found = people.counted(family="r")
    assert found.votes == 0 and found.left_out == {
        "between answers that were not drawn here": 3,
        "skipped": 2,
        "between answers to different questions": 1,
        "between checkpoints of another run": 1,
    }
    assert found.pairs == () and found.first_side is None


@pytest.mark.parametrize("who", ["bob", "eve"])
def test_who_judged_and_whose_conversation_it_is_must_both_allow_it(people, three, who):
    people.vote(three[2], three[1], 1, rater="bob", owner="eve")
    assert people.counted().votes == 1
    people.store.set_consent(who, "local")
    assert people.counted().votes == 0


def test_a_checkpoint_is_its_weights_whatever_run_it_stands_in(people):
    """Rounds take SFT over, so theirs is the run's own; the base has no weights; a stage made anew is another checkpoint."""
    rounds = {n: "r" if n == 0 else f"r-round-00{n}" for n in range(3)}
    sft = [people.model(rounds[n], "sft", "same") for n in (2, 0)]
    base = [people.model(rounds[n], "base", "") for n in (0, 1)]
    ppo = [people.model(rounds[n], "ppo", f"p{n}") for n in range(3)]
    anew = people.model("r", "ppo", "0123456789")
    for model in (sft[0], sft[1], *base, ppo[1], ppo[2], anew):
        people.vote(ppo[0], model, 1)
    people.vote(sft[0], sft[1], 1)
    found = people.counted()
    assert [(p.first, p.second, p.votes) for p in found.pairs] == [
        ("ppo-round-2", "ppo (p0)", 1),
        ("ppo-round-1", "ppo (p0)", 1),
        ("ppo (01234567)", "ppo (p0)", 1),
        ("ppo (p0)", "sft", 2),
        ("ppo (p0)", "base", 2),
    ]
    assert found.left_out == {"between two answers of one checkpoint": 1}
    people.vote(people.model("q", "sft"), people.model("q", "ppo"), 1)
    assert {p.second for p in people.counted().pairs} == {"r: ppo (p0)", "r: sft", "r: base", "q: sft"}
    assert {p.second for p in people.counted(family="q").pairs} == {"sft"}


@pytest.mark.parametrize(
    ("run", "found"),
    [
        ("r", ("r", 0)),
        ("r-round-012", ("r", 12)),
        ("r-round-012-round-003", ("r-round-012", 3)),
        ("r-round-x", ("r-round-x", 0)),
        ("r-round-abc", ("r-round-abc", 0)),
        ("-round-1", ("-round-1", 0)),
        ("007", ("007", 0)),
    ],
)
def test_a_run_is_of_the_family_that_its_name_says(run, found):
    assert family_of(run) == found


def test_one_pair_alone_is_seen_from_the_side_asked_for(people, three):
    _, sft, ppo = three
    for verdict in (1, 1, 0):
        people.vote(ppo, sft, verdict)
    choices, (one, other) = read_choices(people.store), (Player("r", "sft of r"), Player("r", "ppo of r"))
    found = s.between(choices, one, other, called=("old", "new"))
    assert (found.first, found.won, found.lost) == ("old", 1, 2)
    assert s.between(choices, one, Player("r", ""), called=("a", "b")) is None


def test_what_was_counted_is_kept_in_the_run_without_names_and_read_back(people, three, tmp_path):
    assert read(tmp_path) is None
    for a, b in itertools.permutations(three, 2):
        people.vote(a, b, ("ann-secret", 1), ("bob", 1))
    found = people.counted()
    assert keep(tmp_path, found)
    again, counted = read(tmp_path)
    assert again.pairs[0].votes == found.pairs[0].votes == 4 and len(counted) == 19
    # Two conversations: no ends, which JSON has no number for.
    assert math.isnan(again.pairs[0].rate.high) and again.places[0][0][1].value == found.places[0][0][1].value
    assert (again.first_side, again.agreement, again.left_out) == (found.first_side, found.agreement, found.left_out)
    raw = (tmp_path / FILE).read_text(encoding="utf-8")
    assert "ann-secret" not in raw and "NaN" not in raw
    # Once nothing stands any more the old figures go too, and then there is nothing to be told.
    people.store.forget("ann-secret")
    people.store.forget("bob")
    assert keep(tmp_path, people.counted()) and not (tmp_path / FILE).exists() and not keep(tmp_path, people.counted())
    (tmp_path / FILE).write_text(json.dumps({"votes": 3}), encoding="utf-8")
    with pytest.raises(UserError, match=r"standings.json: damaged\. `feedback standings --run"):
        read(tmp_path)
