"""Whether what is read, and what is drawn after it, fit into the positions that a model knows. Beyond them it answers too, and nonsense."""

from __future__ import annotations


def context_of(model_config) -> int | None:
    """Tokens that a model reads at most, by its own `config.json`; None where it names no limit."""
    return getattr(model_config.get_text_config(), "max_position_embeddings", None)


def no_room_to_draw(context: int | None, section: str, drawn: int, longest: int) -> list[str]:
    """One line where an answer of `drawn` tokens (`<section>.max_new_tokens`) does not fit behind a prompt of `longest`."""
    if context is None or longest + drawn <= context:
        return []
    return [
        f"{section}.max_new_tokens: {drawn} tokens after a prompt of {longest} exceed the model's context of {context}. "
        "Lower it, or data.max_prompt_tokens."
    ]


def no_room_to_read(context: int | None, key: str, noun: str, longest: int) -> list[str]:
    """One line where the longest text that the setting `key` lets in does not fit."""
    if context is None or longest <= context:
        return []
    return [f"{key}: a {noun} of {longest} tokens exceeds the model's context of {context}. Lower it: what is longer is left out and counted."]
