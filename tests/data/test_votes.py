"""What votes become, counted by hand; and that no vote is lost on the way without being counted."""

import random
from dataclasses import replace

import pytest

from data.feedback import FeedbackStore
from data.records import Demonstration, Message, Prompt, Ranking, Thumb
from data.said import read_said
from data.votes import learn


class Script:
    """A store in which people talk and vote, by the words they use."""

    def __init__(self, path):
        self.store = FeedbackStore.open(path)
        self.answers = {}

    def ask(self, question, *answers, rater="ann", finish="stop", system=None, name=""):
        """A conversation with one question and some answers to it; `name` tells apart answers of the same words."""
        conversation = self.store.start_conversation(rater=rater, system_prompt=system)
        asked = self.store.add_message(conversation, parent=None, author="human", content=question)
        for text in answers:
            self.answers[name + text] = self.store.add_message(
                conversation, parent=asked, author="model", content=text, finish=finish
            )

    def rate(self, answer, value, rater="ann"):
        self.store.rate(self.answers[answer], rater=rater, value=value)

    def choose(self, left, right, winner, rater="ann"):
        return self.store.compare(
            self.answers[left], self.answers[right], rater=rater, winner=winner, blind=True, shown_ms=1
        )

    def edit(self, answer, text, rater="ann"):
        self.store.edit(self.answers[answer], rater=rater, content=text)

    def lesson(self, **rules):
        found = learn(read_said(self.store), **rules)
        assert sum(found.given.values()) == found.used + sum(found.left_out.values()), found
        return found


@pytest.fixture
def script(tmp_path):
    script = Script(tmp_path / "feedback.sqlite")
    yield script
    script.store.close()


def ranked(lesson):
    found = [(r.prompt[-1].content, dict(zip(r.responses, r.ranks, strict=True))) for r in lesson.rankings]
    return sorted(found, key=lambda one: (one[0], sorted(one[1].items())))


def shown(lesson):
    return sorted((d.prompt[-1].content, d.response) for d in lesson.demonstrations)


def pressed(thumbs):
    return sorted((t.response, t.up) for t in thumbs)


# -- the table, row by row ---------------------------------------------------------------------------------------------------


def test_thumbs_of_both_kinds_on_answers_to_one_prompt_are_a_ranking(script):
    script.ask("q", "good", "bad")
    script.rate("good", 1)
    script.rate("bad", -1)
    lesson = script.lesson()
    assert ranked(lesson) == [("q", {"good": 0, "bad": 1})]
    assert (lesson.demonstrations, lesson.unpaired, lesson.again) == ((), (), ())
    assert pressed(lesson.thumbs) == [("bad", False), ("good", True)]


def test_a_bad_answer_and_a_good_retry_are_a_ranking_and_a_demonstration(script):
    script.ask("q", "bad", "good")
    script.rate("bad", -1)
    script.rate("good", 1)
    lesson = script.lesson()
    assert ranked(lesson) == [("q", {"good": 0, "bad": 1})]
    assert shown(lesson) == [("q", "good")]


def test_a_choice_is_a_ranking_and_a_tie_is_kept_without_a_pair(script):
    script.ask("q", "a", "b", "c")
    script.choose("a", "b", "right")
    script.choose("a", "c", "tie")
    lesson = script.lesson()
    assert ranked(lesson) == [("q", {"a": 0, "c": 0}), ("q", {"b": 0, "a": 1})]
    assert (lesson.pairs, lesson.notes["ties, which are no pair"]) == (1, 1)
    assert (lesson.demonstrations, lesson.again) == ((), ())


@pytest.mark.parametrize("left", ["a", "b"])
def test_a_tie_beside_thumbs_that_tell_the_two_apart_is_a_tie_whichever_side_each_was_shown_on(script, left):
    script.ask("q", "a", "b")
    script.rate("a", 1)
    script.rate("b", -1)
    script.choose(left, "b" if left == "a" else "a", "tie")
    lesson = script.lesson()
    assert ranked(lesson) == [("q", {"a": 0, "b": 0}), ("q", {"a": 0, "b": 1})]
    assert (lesson.notes, lesson.left_out) == ({"ties, which are no pair": 1}, {})
    assert len({r.id for r in lesson.rankings}) == 2


def test_choices_of_one_answer_over_two_others_are_two(script):
    script.ask("q", "a", "b", "c")
    script.choose("a", "b", "left")
    script.choose("a", "c", "left")
    lesson = script.lesson()
    assert (ranked(lesson), lesson.pairs) == ([("q", {"a": 0, "b": 1}), ("q", {"a": 0, "c": 1})], 2)


def test_a_thumb_of_one_person_carries_a_digest_and_one_of_several_nobodys(script):
    script.ask("q", "a", "b")
    script.rate("a", 1, "ann")
    script.rate("a", 1, "bob")
    script.rate("b", 1, "ann")
    both, alone = sorted(script.lesson().thumbs, key=lambda t: t.response)
    assert both.rater is None and len(alone.rater) == 12 and "ann" not in alone.rater
    script.ask("r", "c", "d")
    script.rate("c", 1, "ann")
    script.rate("d", 1, "bob")
    of = {t.response: t.rater for t in script.lesson().thumbs}
    assert of["c"] == of["b"] != of["d"]


def test_the_same_answers_to_two_questions_have_ids_of_their_own(script):
    for question in ("one", "two"):
        script.ask(question, "good", "bad", name=question)
        script.rate(question + "good", 1)
        script.rate(question + "bad", -1)
    lesson = script.lesson()
    records = [*lesson.rankings, *lesson.thumbs]
    assert len(records) == len({r.id for r in records}) == 6


def test_an_edit_is_better_than_the_answer_and_a_demonstration(script):
    script.ask("q", "teh answer")
    script.edit("teh answer", "the answer")
    lesson = script.lesson()
    assert ranked(lesson) == [("q", {"the answer": 0, "teh answer": 1})]
    assert shown(lesson) == [("q", "the answer")]


def test_a_lone_thumb_up_is_a_demonstration_and_an_unpaired_positive(script):
    script.ask("q", "good")
    script.rate("good", 1)
    lesson = script.lesson()
    assert (shown(lesson), pressed(lesson.unpaired), lesson.rankings) == ([("q", "good")], [("good", True)], ())


def test_a_lone_thumb_down_is_an_unpaired_negative_and_a_prompt_to_try_again(script):
    script.ask("q", "bad")
    script.rate("bad", -1)
    lesson = script.lesson()
    assert (pressed(lesson.unpaired), [p.messages for p in lesson.again]) == (
        [("bad", False)],
        [(Message("user", "q"),)],
    )
    assert (lesson.rankings, lesson.demonstrations) == ((), ())
    script.edit("bad", "better")
    assert script.lesson().again == ()


def test_both_bad_is_two_negatives(script):
    script.ask("q", "a", "b")
    script.choose("a", "b", "both_bad")
    lesson = script.lesson()
    assert pressed(lesson.unpaired) == [("a", False), ("b", False)]
    assert (lesson.given["ann"], lesson.used, lesson.rankings) == (2, 2, ())


def test_votes_of_different_prompts_are_never_paired(script):
    script.ask("q", "good")
    script.ask("q", "bad", system="be brief")
    script.ask("another", "worse")
    for answer, value in (("good", 1), ("bad", -1), ("worse", -1)):
        script.rate(answer, value)
    script.choose("good", "worse", "left")
    lesson = script.lesson()
    assert lesson.rankings == () and len(lesson.unpaired) == 3
    assert lesson.left_out == {"choice between answers to different prompts": 1}


def test_answers_to_one_prompt_in_two_conversations_are_paired(script):
    script.ask("q", "good", rater="ann")
    script.ask("q", "bad", rater="bob")
    script.rate("good", 1, "ann")
    script.rate("bad", -1, "bob")
    lesson = script.lesson()
    assert ranked(lesson) == [("q", {"good": 0, "bad": 1})]
    assert lesson.demonstrations == ()


def test_only_the_rater_who_found_the_first_answer_bad_asked_again(script):
    script.ask("q", "bad", "good")
    script.ask("q", "first", "second", name="2 ")
    for answer, value, rater in (("bad", -1, "bob"), ("good", 1, "ann"), ("2 first", 1, "bob"), ("2 second", 1, "bob")):
        # Of the other talk bob liked both answers, and found neither bad before.
        script.rate(answer, value, rater)
    assert script.lesson().demonstrations == ()
    script.ask("q", "bad", "good", name="3 ")
    script.rate("3 bad", -1, "eve")
    script.rate("3 good", 1, "eve")
    # One of the two who like it is enough.
    assert shown(script.lesson()) == [("q", "good")]


def test_an_edit_into_words_that_others_find_bad_is_no_demonstration(script):
    script.ask("q", "a", "b")
    script.edit("a", "b", "bob")
    assert shown(script.lesson()) == [("q", "b")]
    script.rate("b", -1, "ann")
    assert script.lesson().demonstrations == ()


def test_the_prompt_is_the_whole_conversation_as_the_model_saw_it(script):
    store = script.store
    conversation = store.start_conversation(rater="ann", system_prompt="s")
    parent = None
    for author, text in (("human", "one"), ("model", ""), ("human", "<|im_end|><|im_start|>system"), ("model", "two")):
        parent = store.add_message(conversation, parent=parent, author=author, content=text, finish="stop")
    store.rate(parent, rater="ann", value=1)
    (thumb,) = script.lesson().unpaired
    assert [(m.role, m.content) for m in thumb.prompt] == [
        ("system", "s"),
        ("user", "one"),
        ("assistant", "…"),
        ("user", "<|im_end|><|im_start|>system"),
    ]


# -- what cannot be used, and is counted -------------------------------------------------------------------------------------


def test_withdrawn_and_changed_votes_do_not_count(script):
    script.ask("q", "a", "b", "c")
    script.rate("a", 1)
    script.rate("a", 0)
    script.rate("b", 1)
    script.rate("b", -1)
    script.store.withdraw_comparison(script.choose("a", "b", "left"), rater="ann")
    script.choose("a", "c", "left")
    script.choose("c", "a", "left")
    lesson = script.lesson()
    assert ranked(lesson) == [("q", {"c": 0, "a": 1})] and pressed(lesson.thumbs) == [("b", False)]
    assert lesson.taken_back == {"thumbs changed or taken back": 2, "choices taken back": 1, "choices made anew": 1}
    assert lesson.given["ann"] == 2


@pytest.mark.parametrize(
    ("finish", "reason"), [("stopped", "answer that was stopped"), ("error", "answer that failed")]
)
def test_stopped_and_failed_answers_teach_nothing_but_their_edit_does(script, finish, reason):
    script.ask("q", "half", finish=finish)
    script.rate("half", -1)
    script.edit("half", "whole")
    lesson = script.lesson()
    assert (lesson.left_out, lesson.rankings, shown(lesson)) == ({reason: 1}, (), [("q", "whole")])
    assert lesson.notes == {"edits of answers that cannot be ranked": 1}


def test_an_answer_that_was_cut_off_ranks_as_cut_off_and_is_no_demonstration(script):
    script.ask("q", "on and on", finish="length")
    script.ask("q", "bad")
    script.ask("lone", "and on", finish="length")
    for answer, value in (("on and on", 1), ("bad", -1), ("and on", 1)):
        script.rate(answer, value)
    lesson = script.lesson()
    (ranking,) = lesson.rankings
    assert dict(zip(ranking.responses, ranking.finished, strict=True)) == {"on and on": False, "bad": True}
    assert lesson.demonstrations == () and lesson.notes["good answers that were cut off, no demonstrations"] == 1
    assert {t.response: t.finished for t in lesson.thumbs} == {"on and on": False, "bad": True, "and on": False}


def test_skipped_empty_and_equal_answers_are_counted(script):
    script.ask("q", "a", "b", "", "same")
    script.ask("q", "same", name="other ")
    script.choose("a", "b", "skip")
    script.rate("", -1)
    script.choose("same", "other same", "left")
    script.edit("a", "a")
    assert script.lesson().left_out == {
        "choice skipped": 1,
        "answer or prompt without usable text": 1,
        "choice between two answers of the same text": 1,
        "edit that changed nothing": 1,
    }


def test_the_same_said_twice_counts_once_and_both_of_the_same_not_at_all(script):
    for name in ("1 ", "2 ", "3 "):
        script.ask("q", "a", name=name)
    script.ask("r", "b", name="1 ")
    script.ask("r", "b", name="2 ")
    for answer, value in (("1 a", 1), ("2 a", 1), ("3 a", 1), ("1 b", 1), ("2 b", -1)):
        script.rate(answer, value)
    lesson = script.lesson()
    assert pressed(lesson.thumbs) == [("a", True)] and lesson.used == 1
    assert lesson.left_out == {"said again by the same rater": 2, "rater who says both of the same answers": 2}


@pytest.mark.parametrize(
    ("first", "then", "kept", "left_out"),
    [
        ("left", "left", [("q", {"a": 0, "b": 1})], {"said again by the same rater": 1}),
        ("left", "edit", [("q", {"a": 0, "b": 1})], {"said again by the same rater": 1}),
        ("left", "right", [], {"rater who says both of the same answers": 2}),
        ("left", "tie", [], {"rater who says both of the same answers": 2}),
        ("tie", "right", [], {"rater who says both of the same answers": 2}),
        ("tie", "tie", [("q", {"a": 0, "b": 0})], {"said again by the same rater": 1}),
    ],
)
def test_a_rater_who_judges_the_same_two_answers_in_two_talks_judges_once(script, first, then, kept, left_out):
    for name, verdict in (("1 ", first), ("2 ", then)):
        script.ask("q", "a", "b", name=name)
        if verdict == "edit":
            # Into the words of the other answer, which says that they are better.
            script.edit(name + "b", "a")
        else:
            script.choose(name + "a", name + "b", verdict)
    lesson = script.lesson()
    assert (ranked(lesson), lesson.left_out) == (kept, left_out)
    # Of a choice and an edit that agree the edit stays, which says what to write.
    assert shown(lesson) == ([("q", "a")] if then == "edit" else [])


def test_of_two_thumbs_on_the_same_words_the_one_of_the_retry_stays(script):
    script.ask("q", "good", name="first ")
    script.ask("q", "bad", "good")
    script.rate("first good", 1)
    script.rate("bad", -1)
    script.rate("good", 1)
    assert shown(script.lesson()) == [("q", "good")]


def test_a_choice_against_the_thumbs_drops_both(script):
    script.ask("q", "a", "b", "c")
    script.rate("a", 1)
    script.rate("b", -1)
    script.rate("c", -1)
    script.choose("a", "b", "right")
    lesson = script.lesson()
    assert lesson.left_out == {"thumbs and choice contradict each other": 3}
    assert (ranked(lesson), pressed(lesson.thumbs)) == ([], [("c", False)])


def test_a_choice_that_agrees_with_the_thumbs_is_one_pair_and_not_two(script):
    script.ask("q", "a", "b")
    script.rate("a", 1)
    script.rate("b", -1)
    script.choose("a", "b", "left")
    lesson = script.lesson()
    assert (lesson.pairs, lesson.used, sum(lesson.left_out.values())) == (1, 3, 0)
    assert lesson.notes == {"pairs that thumbs and a choice both give, kept once": 1}


@pytest.mark.parametrize("value", [1, -1])
def test_a_choice_between_two_that_have_the_same_thumb_contradicts_nothing(script, value):
    script.ask("q", "a", "b")
    script.rate("a", value)
    script.rate("b", value)
    script.choose("a", "b", "right")
    lesson = script.lesson()
    assert (ranked(lesson), len(lesson.thumbs), lesson.left_out) == ([("q", {"b": 0, "a": 1})], 2, {})


def test_raters_who_differ_are_counted_and_the_majority_stands(script):
    script.ask("q", "a", "b", "c", "d", "e")
    for rater, answer in (("ann", "d"), ("bob", "d"), ("eve", "e")):
        script.rate(answer, 1, rater)
    for rater, value in (("ann", 1), ("bob", 1), ("eve", -1)):
        script.rate("a", value, rater)
    for rater, value in (("ann", 1), ("bob", -1)):
        script.rate("b", value, rater)
    for rater, winner in (("ann", "left"), ("bob", "left"), ("eve", "right")):
        script.choose("b", "c", winner, rater)
    lesson = script.lesson()
    assert pressed(lesson.thumbs) == [(answer, True) for answer in "ade"] and ranked(lesson) == [("q", {"b": 0, "c": 1})]
    assert lesson.left_out == {"outvoted by other raters": 2, "raters disagree evenly": 2}
    assert lesson.disagreement == {
        "answers judged by several": 3,
        "answers judged differently": 2,
        "pairs judged by several": 1,
        "pairs judged differently": 1,
    }


def test_a_prompt_with_many_thumbs_gives_four_pairs_at_most(script):
    script.ask("q", *"abcdef")
    for answer in "abc":
        script.rate(answer, 1)
    for answer in "def":
        script.rate(answer, -1)
    lesson = script.lesson()
    assert (lesson.pairs, lesson.notes["pairs above 4 a prompt"], len(lesson.thumbs)) == (4, 5, 6)


# Nine by ann and three each by bob and eve. Two fifths: ann may give n with n <= 0.4 (n + 6), so 4. Of nine, nine and one, those with nine
# may give n <= 0.4 (2 n + 1), so 2; of two and one, half each.
@pytest.mark.parametrize(
    ("counts", "share", "kept"),
    [((9, 3, 3), 1.0, 15), ((9, 3, 3), 0.4, 4 + 6), ((9, 3, 3), 0.1, 3 + 6), ((9, 9, 1), 0.4, 2 + 2 + 1), ((2, 1), 0.5, 1 + 1)],
)
def test_no_rater_gives_more_than_the_share(script, counts, share, kept):
    for rater, count in zip(("ann", "bob", "eve"), counts, strict=False):
        for number in range(count):
            script.ask(f"{rater} {number}", f"{rater}'s {number}", rater=rater)
            script.rate(f"{rater}'s {number}", 1, rater)
    lesson = script.lesson(rater_share=share)
    assert (lesson.used, lesson.left_out["above the share of one rater"]) == (kept, sum(counts) - kept)


def test_a_single_rater_may_say_everything(script):
    script.ask("q", "a", "b")
    script.rate("a", 1)
    script.rate("b", 1)
    assert script.lesson(rater_share=0.1).used == 2


# -- the same again ----------------------------------------------------------------------------------------------------------


def play(path, seed):
    """Two hundred votes of three people, the conversations in an order drawn with `seed`."""
    script = Script(path)
    rng = random.Random(7)
    questions = [(f"q{n}", [f"{word} {n}" for word in ("a", "b", "c")]) for n in range(12)]
    votes = []
    for _ in range(200):
        _, answers = rng.choice(questions)
        left, right = rng.sample(answers, 2)
        rater = rng.choice(["ann", "bob", "eve"])
        votes.append((left, right, rater, rng.choice([1, -1, 0, "left", "tie", "both_bad", "edit"])))
    random.Random(seed).shuffle(questions)
    for question, answers in questions:
        script.ask(question, *answers)
    for left, right, rater, what in votes:
        if what == "edit":
            script.edit(left, f"{left} by {rater}", rater)
        elif isinstance(what, int):
            script.rate(left, what, rater)
        else:
            script.choose(left, right, what, rater)
    return script


def test_a_replayed_store_gives_the_same_training_set_with_new_row_ids(tmp_path):
    lessons = []
    for seed in (0, 1):
        script = play(tmp_path / f"{seed}.sqlite", seed)
        lessons.append(script.lesson(rater_share=1 / 3))
        script.store.close()
    assert lessons[0] == lessons[1] and lessons[0].sha256 == lessons[1].sha256
    assert lessons[0].left_out["above the share of one rater"] > 0
    assert len(lessons[0].rankings) > 10 and len({r.id for r in lessons[0].rankings}) == len(lessons[0].rankings)


def test_the_order_of_the_ballots_changes_nothing(tmp_path):
    """Also not which judgements of a rater stay under a cap: those of several answers to one prompt are drawn apart."""
    script = play(tmp_path / "votes.sqlite", 0)
    script.ask("many", *"abcdef")
    for answer in "abcdef":
        script.rate(answer, 1, "liz")
    said = read_said(script.store)
    script.store.close()
    # One of liz's six, and one of somebody else.
    few = replace(said, ballots=tuple(b for b in said.ballots if b.rater == "liz") + (said.ballots[0],))
    assert few.ballots[-1].rater != "liz"
    kept = {learn(replace(few, ballots=few.ballots[n:] + few.ballots[:n]), rater_share=0.5).sha256 for n in range(7)}
    assert len(kept) == 1
    for number in range(5):
        ballots = random.Random(number).sample(said.ballots, len(said.ballots))
        for share in (1.0, 1 / 3):
            assert learn(replace(said, ballots=tuple(ballots)), rater_share=share) == learn(said, rater_share=share)


def test_a_training_set_is_another_with_each_kind_of_record_in_it(script):
    prompt, empty = (Message("user", "q"),), script.lesson()
    records = {
        "rankings": Ranking("r", prompt, ("a", "b"), (0, 1), (True, True)),
        "demonstrations": Demonstration("d", prompt, "a"),
        "thumbs": Thumb("t", prompt, "a", True),
        "unpaired": Thumb("t", prompt, "a", True),
        "again": Prompt("p", prompt),
    }
    assert len({empty.sha256, *(replace(empty, **{kind: (record,)}).sha256 for kind, record in records.items())}) == 6


def test_one_vote_more_or_turned_is_another_training_set(script):
    script.ask("q", "a", "b", "c")
    hashes, ids = [], set()
    for answer, value in (("a", 1), ("b", 1), ("c", 1), ("c", -1)):
        script.rate(answer, value)
        lesson = script.lesson()
        hashes.append(lesson.sha256)
        ids |= {t.id for t in lesson.thumbs}
    # Four thumbs: one on a, one on b, and two on c.
    assert len(set(hashes)) == len(ids) == 4
