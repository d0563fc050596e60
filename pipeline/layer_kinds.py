"""Whether answers to one question can stand side by side in one row of a model: told from its own config, without its weights."""

from __future__ import annotations

# Under these an answer attends to its question and to itself alone. Other layers carry a state from one token to the next, whatever a mask says.
_SIDE_BY_SIDE = {"full_attention", "sliding_attention"}


def carried_states(model_config) -> list[str]:
    """One line where the model has layers in which one answer would tell the next; `model_config` is that of `transformers`."""
    kinds = getattr(model_config.get_text_config(), "layer_types", None) or ()
    other = ", ".join(sorted(set(kinds) - _SIDE_BY_SIDE))
    if not other:
        return []
    return [
        f"model.name: it has layers of the kind {other}, which carry a state from one answer to the next where answers to one question "
        "stand side by side. A reward model cannot be trained on it here; take another model."
    ]
