"""All that is wrong with the data of a config, at once, before a model is loaded."""

import json
from pathlib import Path

import pytest

from data.errors import UserError
from data.records import Message, Prompt
from data.splits import is_test
from pipeline.config import load_config
from pipeline.preflight import check
from pipeline.template import prompt_ids, response_ids

QUESTIONS = [f"Question {i}?" for i in range(60)]


def write(path, rows):
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")


@pytest.fixture
def make_config(tmp_path):
    """A config whose three files are fine, but for what a test changes in them or on the command line."""

    def make(*overrides, **files):
        rows = {
            "d": [{"messages": turns(q, "Answer.")} for q in QUESTIONS],
            "r": [{"prompt": q, "responses": ["Good.", "Bad."], "ranks": [0, 1]} for q in QUESTIONS],
            "h": [{"prompt": f"Held {i}?"} for i in range(5)],
            **files,
        }
        for name, content in rows.items():
            write(tmp_path / f"{name}.jsonl", content)
        named = f"demonstrations: {tmp_path}/d.jsonl, rankings: {tmp_path}/r.jsonl, heldout_prompts: {tmp_path}/h.jsonl"
        text = f"model: {{name: tiny-random}}\ndata: {{{named}, max_prompt_tokens: 100}}\nsft: {{max_tokens: 200}}\n"
        (tmp_path / "c.yaml").write_text(text)
        return load_config(tmp_path / "c.yaml", overrides)

    return make


def turns(question, answer):
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def problems(config, tokenizer) -> tuple[str, ...]:
    return problems_of(config, tokenizer, None)


def problems_of(config, tokenizer, context) -> tuple[str, ...]:
    with pytest.raises(UserError) as caught:
        check(config, tokenizer, context)
    return caught.value.problems


def test_counts_are_those_of_the_split(make_config, tokenizer):
    test = sum(is_test([Message("user", q)], 0.1) for q in QUESTIONS)
    counts = check(make_config(), tokenizer).counts()
    assert 0 < test < 20
    for name in ("demonstrations", "rankings", "prompts"):
        assert (counts[name], counts[f"{name}_test"], counts[f"{name}_too_long"]) == (60 - test, test, 0)
    assert counts["heldout_prompts"] == 5 and counts["ranking_pairs"] == 60 - test


def test_prompts_of_their_own_are_split_by_the_same_rule(make_config, tokenizer, tmp_path):
    write(tmp_path / "p.jsonl", [{"prompt": q.upper()} for q in QUESTIONS])
    checked = check(make_config(f"data.prompts={tmp_path}/p.jsonl"), tokenizer)
    assert len(checked.test["prompts"]) == len(checked.test["rankings"]) > 0
    assert len(checked.train["prompts"]) + len(checked.test["prompts"]) == 60
    # Upper case is no other question: all of a side's three sets ask the same.
    sides = {tuple(n.rpartition(" ")[2] for n in names) for names in checked.shared}
    assert sides == {("train", "train"), ("test", "test")} and len(checked.shared) == 6


def test_what_outgrows_the_models_context_is_told_before_anything_is_trained(make_config, tokenizer):
    """Each at the longest that the rows come to, all at once; one token less, and it fits."""
    asked = [(Message("user", r["prompt"]),) for r in ({"prompt": q} for q in QUESTIONS)]
    longest = max(len(prompt_ids(tokenizer, q)) for q in asked)
    held = max(len(prompt_ids(tokenizer, (Message("user", f"Held {i}?"),))) for i in range(5))
    demonstration = longest + len(response_ids(tokenizer, "Answer."))
    ranked = longest + len(response_ids(tokenizer, "Good."))
    fitting = {"ppo": 1024 - longest, "kto": 1024 - longest, "evaluation": 1024 - held}

    def drawn(more, *overrides):
        return make_config(*(f"{name}.max_new_tokens={n + more}" for name, n in fitting.items()), *overrides)

    check(drawn(0), tokenizer, 1024)
    check(drawn(1), tokenizer, None)
    assert problems_of(drawn(1), tokenizer, 1024) == (
        f"evaluation.max_new_tokens: {1025 - held} tokens after a prompt of {held} exceed the model's context of 1024. "
        "Lower it, or data.max_prompt_tokens.",
        f"ppo.max_new_tokens: {1025 - longest} tokens after a prompt of {longest} exceed the model's context of 1024. "
        "Lower it, or data.max_prompt_tokens.",
    )
    by_kto = [line.split(":")[0] for line in problems_of(drawn(1, "learner=kto"), tokenizer, 1024)]
    assert by_kto == ["evaluation.max_new_tokens", "kto.max_new_tokens"]
    # Without the detectors KTO draws nothing.
    (alone,) = problems_of(drawn(1, "learner=kto", "detectors.enabled=false"), tokenizer, 1024)
    assert alone.startswith("evaluation.")
    short = make_config("ppo.max_new_tokens=1", "evaluation.max_new_tokens=1")
    check(short, tokenizer, demonstration)
    line = problems_of(short, tokenizer, demonstration - 1)[-1]
    assert line.startswith(f"sft.max_tokens: a demonstration of {demonstration} tokens exceeds the model's context of {demonstration - 1}.")
    lines = problems_of(short, tokenizer, ranked - 1)
    assert lines[-1].startswith(f"reward.max_tokens: a prompt with its answer of {ranked} tokens exceeds")


def test_a_question_that_the_detectors_ask_is_held_against_the_context_too(make_config, tokenizer, tmp_path):
    """It may be longer than all that PPO asks: with prompts of its own, nobody else draws an answer to a test ranking's question."""
    aside = [q for q in QUESTIONS if is_test([Message("user", q)], 0.3)]
    long = next(q for q in (f"Quest{'i' * n}on?" for n in range(20, 60)) if is_test([Message("user", q)], 0.3))
    asked = [long if q == aside[0] else q for q in QUESTIONS]
    write(tmp_path / "p.jsonl", [{"prompt": q} for q in QUESTIONS if q not in aside])
    tokens = len(prompt_ids(tokenizer, [Message("user", long)]))
    ranked = [{"prompt": q, "responses": ["Good.", "Bad."], "ranks": [0, 1]} for q in asked]
    judged = (f"data.prompts={tmp_path}/p.jsonl", "reward.test_share=0.3", "data.test_share=0.3", "evaluation.max_new_tokens=1")

    def said(learner, *overrides, drawn=1025 - tokens):
        config = make_config(*judged, f"learner={learner}", f"{learner}.max_new_tokens={drawn}", *overrides, r=ranked)
        try:
            check(config, tokenizer, 1024)
        except UserError as error:
            return list(error.problems)
        return []

    for learner in ("ppo", "kto"):
        assert said(learner, drawn=1024 - tokens) == []
        (line,) = said(learner)
        assert line.startswith(f"{learner}.max_new_tokens: {1025 - tokens} tokens after a prompt of {tokens} exceed the model's context of 1024.")
        assert said(learner, "detectors.enabled=false") == []
    assert said("ppo", "detectors.judge_every=0") == [] and len(said("kto", "detectors.judge_every=0")) == 1
    # Only the first few are asked.
    assert len(aside) > 2
    ranked.sort(key=lambda row: row["prompt"] == long)
    assert said("ppo", "detectors.judge_prompts=2") == []


def test_what_only_measures_is_left_out_or_refused_where_no_model_reads_it_whole(make_config, tokenizer):
    """No setting of training bounds a test row: beyond the context its likelihood would be that of nonsense."""
    tested = [i for i, q in enumerate(QUESTIONS) if is_test([Message("user", q)], 0.1)]
    shown = [{"id": f"d{i}", "messages": turns(q, "Answer.")} for i, q in enumerate(QUESTIONS)]
    ranked = [{"id": f"r{i}", "prompt": q, "responses": ["Good.", "Bad."], "ranks": [0, 1]} for i, q in enumerate(QUESTIONS)]
    shown[tested[0]]["messages"] = turns(QUESTIONS[tested[0]], "y" * 400)
    ranked[tested[1]]["responses"] = ["Good.", "n" * 400]
    config = make_config("ppo.max_new_tokens=1", "evaluation.max_new_tokens=1", d=shown, r=ranked)
    whole, checked = check(config, tokenizer, None), check(config, tokenizer, 300)
    for name, first, row in (("demonstrations", f"d{tested[0]}", shown[tested[0]]), ("rankings", f"r{tested[1]}", ranked[tested[1]])):
        assert {r.id for r in whole.test[name]} - {r.id for r in checked.test[name]} == {first}
        prompt = len(prompt_ids(tokenizer, (Message("user", row.get("prompt") or row["messages"][0]["content"]),)))
        assert (
            f"{name} test: 1 of {len(tested)} exceed the model's context of 300 tokens (first: {first}, longest {prompt + 401}) and are left out."
            in checked.notes
        )
        assert check(config, tokenizer, prompt + 401).test[name] == whole.test[name]
    # Also where a reward model may learn from rows as long as that: of these it does not.
    roomy = make_config("ppo.max_new_tokens=1", "evaluation.max_new_tokens=1", "reward.max_tokens=1000", d=shown, r=ranked)
    assert check(roomy, tokenizer, 300).test["rankings"] == checked.test["rankings"]
    held = [{"id": "h", "prompt": "Held out?", "responses": ["a" * 400, "b"], "ranks": [0, 1]}]
    config = make_config("ppo.max_new_tokens=1", "evaluation.max_new_tokens=1")
    file = Path(config.data.rankings).with_name("k.jsonl")
    write(file, held)
    named = make_config("ppo.max_new_tokens=1", "evaluation.max_new_tokens=1", f"data.heldout_rankings={file}")
    (line,) = problems_of(named, tokenizer, 300)
    assert "k.jsonl: 1 of 1 exceed the model's context of 300 tokens (first: h" in line and line.endswith("Drop or shorten them.")


COPIED = "It was on a grey morning in the north that the first of the boats came back"


def test_words_copied_from_a_held_out_text_are_refused_unless_a_share_of_them_may_stay(make_config, tokenizer):
    held = [{"id": "h1", "prompt": f"Go on: {COPIED}."}, {"id": "h2", "prompt": "Free?"}]
    shown = [{"messages": turns(q, "Answer.")} for q in QUESTIONS]
    # On the training side, in an answer, in other letters.
    row = next(i for i, q in enumerate(QUESTIONS) if not is_test([Message("user", q)], 0.1))
    shown[row] = {"messages": turns(QUESTIONS[row], f"So… {COPIED.upper()}!".replace(" ", "\u00a0"))}
    (line,) = problems(make_config("data.max_prompt_tokens=160", "sft.max_tokens=400", d=shown, h=held), tokenizer)
    assert line.startswith(
        "data.heldout_prompts: 1 of 2 share 13 words in a row with the demonstrations (first: h1, “it was on a grey"
    )
    config = make_config("data.max_prompt_tokens=160", "sft.max_tokens=400", "data.max_overlap=0.5", d=shown, h=held)
    checked = check(config, tokenizer)
    assert checked.overlaps["heldout_prompts", "demonstrations"].found.keys() == {"h1"}
    assert any(note.startswith("heldout_prompts: 1 share 13 words in a row") for note in checked.notes)


def test_a_copy_within_the_split_or_of_a_yardstick_is_counted_and_said(make_config, tokenizer, tmp_path):
    sides = {
        side: [i for i, q in enumerate(QUESTIONS) if is_test([Message("user", q)], 0.1) == side]
        for side in (True, False)
    }
    rankings = [
        {"id": f"r{i}", "prompt": q, "responses": ["Good.", "Bad."], "ranks": [0, 1]} for i, q in enumerate(QUESTIONS)
    ]
    for i in (sides[True][0], sides[False][0]):
        rankings[i]["responses"] = [COPIED, "Bad."]
    (tmp_path / "own.txt").write_text(f"A text.\n\n{COPIED}, they say.")
    config = make_config(f"data.general_text={tmp_path}/own.txt", "data.facts=null", r=rankings)
    checked = check(config, tokenizer)
    assert checked.overlaps["rankings test", "rankings"].found.keys() == {f"r{sides[True][0]}"}
    assert checked.overlaps["general_text", "rankings"].found.keys() == {"text-2"}
    assert sum("13 words in a row with the rankings (train)" in note for note in checked.notes) == 2
    assert check(make_config("data.general_text=null", "data.facts=null"), tokenizer).yardsticks == {}


def test_an_invisible_character_does_not_hide_a_held_out_question(make_config, tokenizer):
    for hidden in ("question\u200b 7?", "Question 7", "Ｑuestion\u00ad 7?"):
        found = problems(make_config(h=[{"id": "h1", "prompt": hidden}, {"prompt": "Free?"}]), tokenizer)
        assert [p.split(" (first")[0] for p in found] == [
            f"data.heldout_prompts: 1 of 2 also occur in the {name}"
            for name in ("demonstrations", "rankings", "prompts")
        ]


def test_a_held_out_question_in_any_training_set_is_refused_with_its_count(make_config, tokenizer):
    config = make_config(
        h=[{"id": "h1", "prompt": "  question 7?"}, {"prompt": "Free?"}, {"id": "h3", "prompt": "QUESTION 8?"}]
    )
    assert not is_test([Message("user", "question 7?")], 0.1) and not is_test([Message("user", "question 8?")], 0.1)
    found = problems(config, tokenizer)
    assert [p.split(" also occur in the ") for p in found] == [
        ["data.heldout_prompts: 2 of 3", f"{name} (first: h1). Remove them from one side."]
        for name in ("demonstrations", "rankings", "prompts")
    ]


def test_a_held_out_question_may_be_one_of_a_test_set(make_config, tokenizer):
    (q, *_) = [q for q in QUESTIONS if is_test([Message("user", q)], 0.1)]
    checked = check(make_config(h=[{"prompt": q}]), tokenizer)
    assert checked.shared[("demonstrations test", "heldout_prompts")] == 1


def test_every_row_too_long_says_how_long_they_are(make_config, tokenizer):
    found = problems(make_config("sft.max_tokens=8", "reward.max_tokens=8"), tokenizer)
    # A token of the tiny model is a byte: by hand, "Question 10?" is 12, "Answer." 7, its end 1; the template is the rest.
    first, second = found[:2]
    train = [q for q in QUESTIONS if not is_test([Message("user", q)], 0.1)]
    assert first.startswith(f"sft.max_tokens: every demonstration is longer than 8 tokens ({len(train)}: shortest ")
    assert second.startswith("reward.max_tokens: every ranking that is no tie is longer than 8 tokens")


def test_some_rows_too_long_are_named_and_counted(make_config, tokenizer):
    rows = [{"id": q, "messages": turns(q, "Answer." if i else "A" * 300)} for i, q in enumerate(QUESTIONS)]
    assert not is_test([Message("user", QUESTIONS[0])], 0.1)
    checked = check(make_config(d=rows), tokenizer)
    assert checked.too_long["demonstrations"] == [QUESTIONS[0]]
    assert checked.notes[0].startswith("sft.max_tokens 200: 1 of ")


def test_a_ranking_whose_question_alone_is_too_long_is_left_out_before_training(make_config, tokenizer):
    long = {"id": "long", "prompt": "x" * 300, "responses": ["a", "b"], "ranks": [0, 1]}
    history = [
        {"role": "user", "content": "y" * 300},
        {"role": "assistant", "content": "a"},
        {"role": "user", "content": "z"},
    ]
    deep = {"id": "deep", "prompt": history, "responses": ["a", "b"], "ranks": [0, 1]}
    rows = [{"prompt": q, "responses": ["Good.", "Bad."], "ranks": [0, 1]} for q in QUESTIONS]
    checked = check(make_config(r=[*rows, long, deep]), tokenizer)
    assert checked.too_long["rankings"] == ["long"]
    assert "deep" in {r.id for r in [*checked.train["rankings"], *checked.test["rankings"]]}


def test_held_out_prompts_are_never_left_out(make_config, tokenizer):
    found = problems(make_config(h=[{"id": f"h{i}", "prompt": "x" * 300} for i in range(25)]), tokenizer)
    assert len(found) == 21 and "prompt h0 is longer than data.max_prompt_tokens (100)" in found[0]
    assert "5 more prompts" in found[20]


def test_thumbs_where_rankings_are_wanted_are_told_their_use(make_config, tokenizer):
    rows = [{"prompt": q, "completion": "a", "label": True} for q in QUESTIONS]
    (found,) = problems(make_config("data.rankings_format=thumbs", r=rows), tokenizer)
    assert "gives thumbs where rankings are wanted" in found and "'thumbs_ranked' ranks them" in found
    (found,) = problems(make_config(r=rows), tokenizer)
    assert "rows 1 to 60 (all)" in found and "that is the format thumbs" in found


def test_what_a_format_leaves_out_is_told(make_config, tokenizer):
    rows = [{"prompt": q, "completion": c, "label": c == "a"} for q in QUESTIONS for c in "ab"]
    rows += [{"prompt": "lonely", "completion": "a", "label": True}]
    checked = check(make_config("data.rankings_format=thumbs_ranked", r=rows), tokenizer)
    assert checked.left_out == {"rankings": {"answers to a prompt that has thumbs of one kind only": 1}}
    assert len(checked.given["rankings"]) == 60 and isinstance(checked.train["prompts"][0], Prompt)


def test_a_demonstration_fits_exactly_with_the_end_of_its_answer(make_config, tokenizer):
    """The longest as the stage that trains on it encodes it: one token less than that is one too few."""
    longest = max(
        len(prompt_ids(tokenizer, [Message("user", q)])) + len(response_ids(tokenizer, "Answer.")) for q in QUESTIONS
    )
    assert check(make_config(f"sft.max_tokens={longest}"), tokenizer).too_long["demonstrations"] == []
    assert len(check(make_config(f"sft.max_tokens={longest - 1}"), tokenizer).too_long["demonstrations"]) > 0


def test_thumbs_are_split_measured_and_held_against_the_held_out_questions(make_config, tokenizer, tmp_path):
    rows = [{"id": f"t{i}", "prompt": q, "completion": "Fine.", "label": i % 2 > 0} for i, q in enumerate(QUESTIONS)]
    write(tmp_path / "t.jsonl", rows)
    config = make_config(f"data.thumbs={tmp_path}/t.jsonl")
    counts = check(config, tokenizer).counts()
    test = sum(is_test([Message("user", q)], 0.1) for q in QUESTIONS)
    assert (counts["thumbs"], counts["thumbs_test"]) == (60 - test, test)
    # A byte is a token here: the last answer alone is longer than reward.max_tokens, the question before it than max_prompt_tokens.
    long = [
        {"prompt": "q" * 120, "completion": "Fine.", "label": True},
        {"prompt": "q?", "completion": "x" * 200, "label": True},
    ]
    write(tmp_path / "t.jsonl", rows[:5] + long)
    checked = check(config, tokenizer)
    assert len(checked.too_long["thumbs"]) == 2 and len(checked.train["thumbs"]) + len(checked.test["thumbs"]) == 5
    write(tmp_path / "t.jsonl", [*rows[:5], {"id": "bad", "prompt": "held 3?", "completion": "Fine.", "label": True}])
    assert not is_test([Message("user", "held 3?")], 0.1)
    (found,) = problems(config, tokenizer)
    assert found.startswith("data.heldout_prompts: 1 of 5 also occur in the thumbs (first: ")


@pytest.mark.parametrize("up", [True, False])
def test_thumbs_of_one_kind_are_told_to_kto_before_anything_is_trained(make_config, tokenizer, tmp_path, up):
    thumbs = [{"prompt": q, "completion": "Yes.", "label": up} for q in QUESTIONS]
    write(tmp_path / "t.jsonl", thumbs)
    test = sum(is_test([Message("user", q)], 0.1) for q in QUESTIONS)
    (found,) = problems(make_config(f"data.thumbs={tmp_path}/t.jsonl", "learner=kto"), tokenizer)
    own = 60 - test
    assert found.startswith(f"data.thumbs: of 60 thumbs KTO would learn from {own}, {own if up else 0} of them up; it needs both kinds.")
    # The reward model takes them as they are, and one of the other kind is enough for KTO.
    check(make_config(f"data.thumbs={tmp_path}/t.jsonl"), tokenizer)
    other = next(i for i, q in enumerate(QUESTIONS) if not is_test([Message("user", q)], 0.1))
    write(tmp_path / "t.jsonl", [t | {"label": not up} if i == other else t for i, t in enumerate(thumbs)])
    check(make_config(f"data.thumbs={tmp_path}/t.jsonl", "learner=kto"), tokenizer)


def test_thumbs_of_one_question_are_told_to_kto_before_anything_is_trained(make_config, tokenizer, tmp_path):
    write(tmp_path / "t.jsonl", [{"prompt": QUESTIONS[0], "completion": f"Yes {i}.", "label": i % 2 > 0} for i in range(6)])
    (found,) = problems(make_config(f"data.thumbs={tmp_path}/t.jsonl", "learner=kto"), tokenizer)
    assert found.startswith("data.thumbs: the 6 thumbs that KTO would learn from are of one question")


def test_a_single_thumb_that_nothing_uses_stops_nothing(make_config, tokenizer, tmp_path):
    """As in a round, which holds every vote: whether that one thumb falls on the test side, or is too long, is chance."""
    aside = next(q for q in QUESTIONS if is_test([Message("user", q)], 0.1))
    for question, answer, wrong in ((aside, "Yes.", "nothing is left to use"), (QUESTIONS[0], "Yes " * 500, "every thumb is longer")):
        write(tmp_path / "t.jsonl", [{"prompt": question, "completion": answer, "label": True}])
        checked = check(make_config(f"data.thumbs={tmp_path}/t.jsonl"), tokenizer)
        (said,) = (note for note in checked.notes if note.startswith("data.thumbs"))
        assert said == "data.thumbs: 1 thumb is used by nothing: reward.thumbs_weight is 0, and learner is ppo."
        found = problems(make_config(f"data.thumbs={tmp_path}/t.jsonl", "reward.thumbs_weight=1.0"), tokenizer)
        assert any(wrong in line for line in found)
