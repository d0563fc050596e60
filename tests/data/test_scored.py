"""Scores become ranks, rows of one prompt become one ranking, thumbs stay what they are, summaries keep their authors' prompt."""

import json
import re

import pytest

from data.errors import UserError
from data.loading import load, load_counted
from data.records import Message, Thumb


def file_of(tmp_path, *rows, name="rows.jsonl"):
    path = tmp_path / name
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return path


def refused(path, name) -> tuple[str, ...]:
    with pytest.raises(UserError) as caught:
        load(path, name)
    return caught.value.problems


def row(prompt, response, score, **more):
    return {"prompt": prompt, "response": response, "score": score, **more}


def test_the_highest_score_is_rank_0_and_equal_scores_are_a_tie(tmp_path):
    responses = [{"text": t, "score": s} for t, s in (("a", -2), ("b", 9.5), ("c", 9.5), ("d", 0))]
    (ranking,) = load(file_of(tmp_path, {"prompt": "q", "responses": responses}), "scored")
    assert ranking.ranks == (2, 0, 0, 1)
    # Six pairs, one of them tied.
    assert len(ranking.pairs()) == 5


def test_rows_of_one_prompt_are_one_ranking_wherever_they_stand(tmp_path):
    rows = [row("p", "a", 1), row("q", "x", 5), row("p", "b", 3), row("q", "y", 5), row("p", "c", 2)]
    first, second = load(file_of(tmp_path, *rows), "scored_rows")
    assert (first.prompt[0].content, first.responses, first.ranks) == ("p", ("a", "b", "c"), (2, 0, 1))
    assert (second.id, second.responses, second.ranks) == ("rows-2", ("x", "y"), (0, 0))


def test_one_prompt_under_two_system_turns_is_two_prompts(tmp_path):
    terse = [{"role": "system", "content": "Be terse."}, {"role": "user", "content": "q"}]
    rows = [row("q", "a", 1), row(terse, "b", 2), row("q", "c", 3), row(terse, "d", 4)]
    assert [r.responses for r in load(file_of(tmp_path, *rows), "scored_rows")] == [("a", "c"), ("b", "d")]


def test_two_scored_answers_under_one_id_are_named(tmp_path):
    path = file_of(tmp_path, row("p", "a", 1, id="x"), row("p", "b", 2, id="x"), row("p", "c", 3, id="y"))
    assert refused(path, "scored_rows") == (f"{path} row 2: id 'x' is that of row 1 too; give each row its own, or none. Mend or drop the row.",)


def test_an_answer_with_nothing_to_compare_and_one_scored_twice_are_named(tmp_path):
    path = file_of(tmp_path, row("p", "a", 1), row("q", "x", 5), row("q", "x", 4))
    assert refused(path, "scored_rows") == (
        f"{path} row 1: 1 response to rank; at least 2 are needed. Mend or drop the row.",
        f"{path} row 2: responses 1 and 2 are the same text but ranked apart; of this prompt are also the rows 3. "
        "Mend or drop the row.",
    )


def test_scores_in_a_csv_file_are_numbers_and_labels_are_true_or_false(tmp_path):
    (tmp_path / "s.csv").write_text("prompt,response,score\nq,a,10\nq,b,9\nq,c,-1e1\n")
    (ranking,) = load(tmp_path / "s.csv", "scored_rows")
    # As text, "10" would come before "9".
    assert ranking.ranks == (0, 1, 2)
    (tmp_path / "t.csv").write_text("prompt,completion,label\nq,a,True\nr,b,false\n")
    assert [t.up for t in load(tmp_path / "t.csv", "thumbs")] == [True, False]
    (tmp_path / "u.csv").write_text("prompt,completion,label\nq,a,yes\nr,b,true\n")
    assert "row 1: label is text, expected true" in refused(tmp_path / "u.csv", "thumbs")[0]
    (tmp_path / "v.csv").write_text("prompt,response,score\nq,a,ten\nq,b,9\n")
    assert "row 1: score is text ('ten'), expected a finite number" in refused(tmp_path / "v.csv", "scored_rows")[0]


@pytest.mark.parametrize(
    ("name", "bad", "said"),
    [
        ("scored_rows", row("q", "a", "7"), r"score is text \('7'\), expected a finite number"),
        ("scored_rows", row("q", "a", float("nan")), "score is a number .*expected a finite number"),
        ("scored_rows", row("q", "a", True), "score is true or false"),
        ("scored_rows", {"prompt": "q", "response": "a", "scor": 3}, "unknown field 'scor'; did you mean 'score'"),
        ("scored", {"prompt": "q", "responses": "a"}, "responses is text, expected a list of objects"),
        ("scored", {"prompt": "q", "responses": [{"text": "a"}]}, "response 1: no field 'score'; found 'text'"),
        ("scored", {"prompt": "q", "responses": ["a", "b"]}, "response 1 is text, expected an object"),
        ("scored", {"prompt": "q", "responses": [{"text": "a", "score": 1}]}, "at least 2"),
        ("scored", row("q", "a", 1), "no field 'responses'.*did you mean|unknown field 'response'; did you mean"),
        ("thumbs", {"prompt": "q", "completion": "a", "label": 1}, "label is a number, expected true .thumb up."),
        ("thumbs", {"prompt": "q", "completion": "a"}, "no field 'label'.*that is the format prompt_completion"),
        ("thumbs", {"messages": [{"role": "user", "content": "q"}], "label": True}, "nothing to learn from"),
        ("summaries", {"info": {"post": "p"}, "summaries": [{"text": "a"}], "choice": 1}, "choice is 1, .* 0 to 0"),
        ("summaries", {"info": {}, "summaries": [{"text": "a"}], "choice": 0}, "neither 'post' nor 'article'"),
        ("summaries", {"info": {"post": "p"}, "summaries": ["a"], "choice": 0}, "summary 1 has no 'text'"),
    ],
)
def test_a_row_that_cannot_be_used_says_why(tmp_path, name, bad, said):
    (problem,) = refused(file_of(tmp_path, bad), name)
    assert re.search(said, problem), problem


def test_thumbs_are_read_from_messages_too(tmp_path):
    turns = [
        {"role": r, "content": c} for r, c in (("user", "q"), ("assistant", "a"), ("user", "r"), ("assistant", "b"))
    ]
    (thumb,) = load(file_of(tmp_path, {"messages": turns, "label": False}), "thumbs")
    prompt = (Message("user", "q"), Message("assistant", "a"), Message("user", "r"))
    assert thumb == Thumb("rows-1", prompt, "b", up=False)
    path = file_of(tmp_path, {"messages": turns[:3], "label": False})
    assert "ends with a user turn; it must end with the answer that was judged" in refused(path, "thumbs")[0]


def test_a_news_article_has_no_title_and_the_others_of_many_summaries_tie(tmp_path):
    info = {"id": "x", "post": None, "title": None, "article": "Rain fell."}
    made = {"info": info, "summaries": [{"text": t} for t in (" Sun.", " Rain.", " Snow.")], "choice": 1, "worker": "w"}
    (ranking,) = load(file_of(tmp_path, made), "summaries")
    assert ranking.prompt == (Message("user", "Article:\n\nRain fell.\n\nTL;DR:"),)
    assert ranking.responses == ("Sun.", "Rain.", "Snow.") and ranking.ranks == (1, 0, 1)


def test_thumbs_of_both_kinds_are_a_ranking_and_the_others_are_counted(tmp_path):
    rows = [
        ("p", "a", True),
        ("q", "x", True),
        ("p", "b", False),
        ("p", "c", True),
        ("q", "y", True),
        ("r", "z", False),
    ]
    path = file_of(tmp_path, *({"prompt": p, "completion": c, "label": up} for p, c, up in rows))
    loaded = load_counted(path, "thumbs_ranked")
    (ranking,) = loaded.records
    assert (ranking.responses, ranking.ranks) == (("a", "b", "c"), (0, 1, 0))
    assert loaded.left_out == {"answers to a prompt that has thumbs of one kind only": 3}
