"""Rows to records. To add a format, write a function from a row and its id to a record, and name it in FORMATS.

Where one row holds several records, the function gives `Several`; where one record is spread over rows, each gives a `ScoredAnswer`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from data import trees
from data.fields import (
    answer_in,
    check_fields,
    demonstration,
    id_in,
    messages_in,
    number_in,
    preference,
    prompt_in,
    score_in,
    sharegpt_turn,
    topic_in,
    transcript,
)
from data.records import (
    Demonstration,
    Message,
    Prompt,
    Ranking,
    Record,
    ScoredAnswer,
    Several,
    Thumb,
    check_text,
    kind_of,
    ranking_by_score,
)


def from_messages(row: dict[str, Any], row_id: str) -> Demonstration:
    """{"messages": [{"role", "content"}, …]}: the last assistant turn is the answer, what comes before it the prompt."""
    check_fields(row, need={"messages"})
    return demonstration(id_in(row, row_id), messages_in(row["messages"], "messages"), topic_in(row))


def from_prompt_completion(row: dict[str, Any], row_id: str) -> Demonstration:
    """{"prompt": text or messages, "completion": text or one assistant message}."""
    check_fields(row, need={"prompt", "completion"})
    return Demonstration(
        id_in(row, row_id), prompt_in(row["prompt"]), answer_in(row["completion"], "completion"), topic_in(row)
    )


def from_alpaca(row: dict[str, Any], row_id: str) -> Demonstration:
    """{"instruction", "input" (may be empty), "output"}."""
    check_fields(row, need={"instruction", "output"}, may={"input"}, extras=True)
    for name in ("instruction", "output"):
        check_text(name, row[name])
    extra = row.get("input")
    if extra is not None and extra != "":
        check_text("input", extra)
    question = f"{row['instruction']}\n\n{extra}" if extra else row["instruction"]
    return Demonstration(id_in(row, row_id), (Message("user", question),), row["output"], topic_in(row))


def from_sharegpt(row: dict[str, Any], row_id: str) -> Demonstration | Ranking:
    """{"conversations": [{"from", "value"}, …]}, with "chosen" and "rejected" messages a preference."""
    check_fields(row, need={"conversations"}, may={"chosen", "rejected"}, extras=True)
    turns = row["conversations"]
    if not isinstance(turns, list):
        raise ValueError(f"conversations is {kind_of(turns)}, expected a list of turns")
    messages = tuple(sharegpt_turn(turn, f"conversations turn {n}") for n, turn in enumerate(turns, start=1))
    if "chosen" in row or "rejected" in row:
        check_fields(row, need={"conversations", "chosen", "rejected"}, extras=True)
        sides = [sharegpt_turn(row[name], name) for name in ("chosen", "rejected")]
        return preference(id_in(row, row_id), (*messages, sides[0]), (*messages, sides[1]), topic_in(row))
    return demonstration(id_in(row, row_id), messages, topic_in(row))


def from_hh(row: dict[str, Any], row_id: str) -> Ranking:
    """{"chosen", "rejected"}: transcripts with "\\n\\nHuman:" and "\\n\\nAssistant:" turns that part at the last answer."""
    check_fields(row, need={"chosen", "rejected"}, extras=True)
    chosen, rejected = (transcript(row[name], name) for name in ("chosen", "rejected"))
    return preference(id_in(row, row_id), chosen, rejected, topic_in(row))


def from_ultrafeedback(row: dict[str, Any], row_id: str) -> Ranking:
    """{"chosen", "rejected"}: lists of messages that share all but the last. Equal "score_chosen", "score_rejected" are a tie."""
    check_fields(row, need={"chosen", "rejected"}, may={"score_chosen", "score_rejected"}, extras=True)
    chosen, rejected = (messages_in(row[name], name) for name in ("chosen", "rejected"))
    return preference(id_in(row, row_id), chosen, rejected, topic_in(row), tie=_tied(row))


def _tied(row: dict[str, Any]) -> bool:
    """Whether the scores of a pair, where it has any, are equal."""
    better, worse = (score_in(row, name) for name in ("score_chosen", "score_rejected"))
    if better is not None and worse is not None and better < worse:
        raise ValueError(f"chosen has the lower score: {better:g}, rejected {worse:g}")
    return better is not None and better == worse


def from_pairs(row: dict[str, Any], row_id: str) -> Ranking:
    """{"prompt": text or messages, "chosen", "rejected": text or one assistant message}. Equal scores are a tie, as above.

    The preference rows with an explicit prompt that TRL's trainers read (its documentation, "Dataset formats"). Where the answers
    hold the question themselves, the formats are `hh` and `ultrafeedback`.
    """
    check_fields(row, need={"prompt", "chosen", "rejected"}, may={"score_chosen", "score_rejected"}, extras=True)
    answers = [answer_in(row[name], name) for name in ("chosen", "rejected")]
    for name, answer in zip(("chosen", "rejected"), answers, strict=True):
        if answer.startswith("\n\nHuman:"):
            raise ValueError(f"{name} is a whole transcript, expected an answer alone; format hh reads transcripts")
    prompt = prompt_in(row["prompt"])
    turns = [(*prompt, Message("assistant", answer)) for answer in answers]
    return preference(id_in(row, row_id), *turns, topic_in(row), tie=_tied(row))


def from_ranked(row: dict[str, Any], row_id: str) -> Ranking:
    """{"prompt": text or messages, "responses": [text], "ranks": [0 = best], "finished": [bool] (default all true)}."""
    check_fields(row, need={"prompt", "responses", "ranks"}, may={"finished"})
    responses, ranks = row["responses"], row["ranks"]
    finished = row.get("finished")
    if not isinstance(responses, list):
        raise ValueError(f"responses is {kind_of(responses)}, expected a list of texts")
    finished = [True] * len(responses) if finished is None else finished
    for name, column, kind in (("ranks", ranks, int), ("finished", finished, bool)):
        if not isinstance(column, list) or any(type(x) is not kind for x in column):
            raise ValueError(
                f"{name} must be a list of {'whole numbers' if kind is int else 'true or false'}, got {column!r:.60}"
            )
    return Ranking(
        id_in(row, row_id), prompt_in(row["prompt"]), tuple(responses), tuple(ranks), tuple(finished), topic_in(row)
    )


def from_scored(row: dict[str, Any], row_id: str) -> Ranking:
    """{"prompt", "responses": [{"text", "score"}, …]}: the highest score is best, equal scores are a tie."""
    check_fields(row, need={"prompt", "responses"}, extras=True)
    responses = row["responses"]
    if not isinstance(responses, list):
        raise ValueError(f"responses is {kind_of(responses)}, expected a list of objects with 'text' and 'score'")
    answers = [_scored(response, f"response {n}") for n, response in enumerate(responses, start=1)]
    return ranking_by_score(id_in(row, row_id), prompt_in(row["prompt"]), answers, topic_in(row))


def _scored(value: Any, where: str) -> tuple[str, float]:
    if not isinstance(value, dict):
        raise ValueError(f"{where} is {kind_of(value)}, expected an object with 'text' and 'score'")
    try:
        check_fields(value, need={"text", "score"}, extras=True)
        check_text("text", value["text"])
        return value["text"], number_in(value, "score")
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def from_scored_rows(row: dict[str, Any], row_id: str) -> ScoredAnswer:
    """{"prompt", "response", "score"}: the rows of one prompt, wherever they stand in the file, are one ranking."""
    check_fields(row, need={"prompt", "response", "score"}, extras=True)
    response = answer_in(row["response"], "response")
    return ScoredAnswer(id_in(row, row_id), prompt_in(row["prompt"]), response, number_in(row, "score"), topic_in(row))


def from_thumbs(row: dict[str, Any], row_id: str) -> Thumb:
    """{"prompt", "completion", "label": true or false}, or {"messages", "label"}, where the last turn is the completion.

    May hold "finished" (default true) and "rater", text that is the same for one person's thumbs.
    """
    if "messages" in row and "completion" not in row:
        check_fields(row, need={"messages", "label"}, extras=True)
        shown = demonstration(id_in(row, row_id), messages_in(row["messages"], "messages"), None)
        if len(shown.prompt) + 1 != len(row["messages"]):
            raise ValueError("messages ends with a user turn; it must end with the answer that was judged")
        prompt, response = shown.prompt, shown.response
    else:
        check_fields(row, need={"prompt", "completion", "label"}, extras=True)
        prompt, response = prompt_in(row["prompt"]), answer_in(row["completion"], "completion")
    finished = True if row.get("finished") is None else row["finished"]
    return Thumb(id_in(row, row_id), prompt, response, row["label"], topic_in(row), finished, row.get("rater"))


def from_thumbs_ranked(row: dict[str, Any], row_id: str) -> ScoredAnswer:
    """Rows of `thumbs`: where a prompt has answers of both kinds, those with a thumb up rank above those with one down."""
    thumb = from_thumbs(row, row_id)
    return ScoredAnswer(thumb.id, thumb.prompt, thumb.response, float(thumb.up), thumb.topic)


def from_summaries(row: dict[str, Any], row_id: str) -> Ranking:
    """{"info": {"post", "title", "subreddit"} or {"article"}, "summaries": [{"text"}, …], "choice": index of the best}.

    Comparisons of summarize-from-feedback, whose prompts its authors wrote as here (Stiennon et al. 2020, appendix B.2). With more
    than two summaries, those not chosen tie.
    """
    check_fields(row, need={"info", "summaries", "choice"}, extras=True)
    summaries, choice = row["summaries"], row["choice"]
    if not isinstance(summaries, list):
        raise ValueError(f"summaries is {kind_of(summaries)}, expected a list of objects with 'text'")
    texts = []
    for number, summary in enumerate(summaries, start=1):
        if not isinstance(summary, dict) or "text" not in summary:
            raise ValueError(f"summary {number} has no 'text'")
        check_text(f"summary {number}", summary["text"])
        texts.append(summary["text"].strip())
    if type(choice) is not int or not 0 <= choice < len(texts):
        raise ValueError(f"choice is {choice!r:.40}, expected the index of a summary, 0 to {len(texts) - 1}")
    # One text twice cannot be better than itself.
    ranks = tuple(int(text != texts[choice]) for text in texts)
    prompt = (Message("user", _post(row["info"])),)
    return Ranking(id_in(row, row_id), prompt, tuple(texts), ranks, (True,) * len(texts), topic_in(row))


def _post(info: Any) -> str:
    if not isinstance(info, dict):
        raise ValueError(f"info is {kind_of(info)}, expected an object with 'post' or 'article'")
    given = {name: text for name, text in info.items() if text is not None}
    if "article" in given and "post" not in given:
        check_text("info.article", given["article"])
        return f"Article:\n\n{given['article'].strip()}\n\nTL;DR:"
    if "post" not in given:
        raise ValueError(
            f"info has neither 'post' nor 'article'; found {', '.join(map(repr, given)) or 'nothing':.200}"
        )
    heads = {"SUBREDDIT: r/": "subreddit", "TITLE: ": "title", "POST: ": "post"}
    parts = [(head, name) for head, name in heads.items() if name in given]
    for _, name in parts:
        check_text(f"info.{name}", given[name])
    return "\n\n".join([*(f"{head}{given[name].strip()}" for head, name in parts), "TL;DR:"])


def from_prompts(row: dict[str, Any], row_id: str) -> Prompt:
    """{"prompt": text or messages}."""
    check_fields(row, need={"prompt"})
    return Prompt(id_in(row, row_id), prompt_in(row["prompt"]), topic_in(row))


FORMATS: dict[str, Callable[[dict[str, Any], str], Record | Several | ScoredAnswer]] = {
    "messages": from_messages,
    "prompt_completion": from_prompt_completion,
    "alpaca": from_alpaca,
    "sharegpt": from_sharegpt,
    "hh": from_hh,
    "ultrafeedback": from_ultrafeedback,
    "pairs": from_pairs,
    "ranked": from_ranked,
    "scored": from_scored,
    "scored_rows": from_scored_rows,
    "summaries": from_summaries,
    "oasst_demonstrations": trees.demonstrations,
    "oasst_rankings": trees.rankings,
    "thumbs": from_thumbs,
    "thumbs_ranked": from_thumbs_ranked,
    "prompts": from_prompts,
}
