"""Conversations to token ids, one way for every stage: training, rollouts, evaluation and chat render through here.

The template's own markers become special tokens; a message's content never does. A person who types `<|im_end|>` gets the
characters, not a turn of another role, in the chat and in the feedback that trains the next round.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from data.errors import UserError
from data.records import Message

# Private-use characters stand for each content while the template runs, so that the template never sees what a person typed.
_OPEN, _CLOSE = "\ue000", "\ue001"


class PromptTooLong(UserError):
    """The last user turn alone does not fit."""


def plain_ids(tokenizer, text: str) -> list[int]:
    """Token ids of `text` as characters only: the spelling of a special token is split like any other text."""
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]


def prompt_ids(
    tokenizer, messages: Sequence[Message], *, system_prompt: str | None = None, max_tokens: int | None = None
) -> list[int]:
    """Ids of a conversation up to and including the opening of the assistant's turn.

    When the ids exceed `max_tokens`, the oldest turns after the system prompt are left out whole, as a chat must do to go
    on; a last user turn that alone exceeds the limit is an error, since cutting it would change the question.

    Raises:
        PromptTooLong: the last user turn alone is longer than `max_tokens`.
    """
    turns = with_system(messages, system_prompt)
    first = 1 if turns and turns[0].role == "system" else 0
    ids = _render(tokenizer, turns, add_generation_prompt=True)
    while max_tokens is not None and len(ids) > max_tokens:
        if len(turns) - first <= 1:
            raise PromptTooLong(
                f"prompt: {len(ids)} tokens, at most {max_tokens} fit (data.max_prompt_tokens). Shorten it or raise the setting."
            )
        # A question goes together with its answer, so that the conversation still starts with a user turn.
        del turns[first : first + 2]
        ids = _render(tokenizer, turns, add_generation_prompt=True)
    return ids


def response_ids(tokenizer, response: str, *, finished: bool = True) -> list[int]:
    """Ids of an answer, with the end-of-sequence token when the answer was finished."""
    ids = plain_ids(tokenizer, response)
    return ids + [tokenizer.eos_token_id] if finished else ids


def template_sha256(tokenizer, system_prompt: str | None = None) -> str:
    """Identity of the rendering: a run, its evaluation and its chat must agree on it."""
    probe = prompt_ids(tokenizer, [Message("user", "a")], system_prompt=system_prompt)
    text = f"{tokenizer.chat_template}\n{probe}"
    return hashlib.sha256(text.encode()).hexdigest()


def prompt_lengths(tokenizer, prompts: Sequence[Sequence[Message]], *, system_prompt: str | None = None) -> list[int]:
    """Tokens of each conversation, as `prompt_ids` would give them; fast, because the template runs once for each order of roles."""
    turns = [with_system(messages, system_prompt) for messages in prompts]
    contents = iter(text_lengths(tokenizer, [m.content for messages in turns for m in messages]))
    template: dict[tuple[str, ...], int] = {}
    lengths = []
    for messages in turns:
        roles = tuple(m.role for m in messages)
        if roles not in template:
            pieces = _pieces(tokenizer, messages, add_generation_prompt=True)
            template[roles] = sum(len(_markup_ids(tokenizer, piece)) for piece in pieces)
        lengths.append(template[roles] + sum(next(contents) for _ in roles))
    return lengths


def text_lengths(tokenizer, texts: Sequence[str]) -> list[int]:
    """Tokens of each text as characters only, without an end-of-sequence token."""
    lengths: list[int] = []
    with _all_cores():
        # In parts, so that the ids of a large file are never in memory together.
        for start in range(0, len(texts), 1000):
            part = list(texts[start : start + 1000])
            ids = tokenizer(part, add_special_tokens=False, split_special_tokens=True, return_attention_mask=False)
            lengths += map(len, ids["input_ids"])
    return lengths


@contextmanager
def _all_cores() -> Iterator[None]:
    """The door turns the library's threads off, for they do not survive a fork; nothing forks here, and a file is many texts."""
    before = os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    try:
        yield
    finally:
        if before is None:
            del os.environ["TOKENIZERS_PARALLELISM"]
        else:
            os.environ["TOKENIZERS_PARALLELISM"] = before


def with_system(messages: Sequence[Message], system_prompt: str | None) -> list[Message]:
    """The conversation under the config's system prompt; one that brings its own keeps that."""
    turns = list(messages)
    if system_prompt and (not turns or turns[0].role != "system"):
        turns.insert(0, Message("system", system_prompt))
    return turns


def _render(tokenizer, messages: Sequence[Message], *, add_generation_prompt: bool) -> list[int]:
    first, *rest = _pieces(tokenizer, messages, add_generation_prompt=add_generation_prompt)
    ids = _markup_ids(tokenizer, first)
    for message, piece in zip(messages, rest, strict=True):
        ids += plain_ids(tokenizer, message.content) + _markup_ids(tokenizer, piece)
    return ids


def _markup_ids(tokenizer, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def _pieces(tokenizer, messages: Sequence[Message], *, add_generation_prompt: bool) -> list[str]:
    """What the template puts before, between and after the contents: one piece more than there are messages."""
    if not tokenizer.chat_template:
        raise UserError(
            "model: the tokenizer has no chat template. Give one as `chat_template.jinja` beside the model, "
            "or start from the model's instruction-tuned variant."
        )
    marked = [{"role": m.role, "content": f"{_OPEN}{i}{_CLOSE}"} for i, m in enumerate(messages)]
    text = tokenizer.apply_chat_template(marked, tokenize=False, add_generation_prompt=add_generation_prompt)
    pieces: list[str] = []
    for i, message in enumerate(messages):
        before, mark, text = text.partition(f"{_OPEN}{i}{_CLOSE}")
        if not mark:
            raise UserError(
                f"model: its chat template drops or rewrites the {message.role} turn {i + 1}, so content cannot be kept apart "
                "from markers. Use another chat template."
            )
        pieces.append(before)
    return [*pieces, text]
