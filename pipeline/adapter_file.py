"""What the directory of a saved adapter says of it beside its numbers."""

from __future__ import annotations

import json
from pathlib import Path

CONFIG_FILE = "adapter_config.json"


def other_scale(directory: Path, lora) -> str:
    """Why the adapter in `directory` would be another one under these settings, though its numbers fit; empty where it would not.

    An update is scaled by alpha / rank (Hu et al. 2022, section 4.1), by alpha / √rank where it was trained so (Kalajdzievski 2023): neither
    is part of the numbers.

    Args:
        lora: the `lora` section of the config.
    """
    try:
        found = json.loads((directory / CONFIG_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        # Without one, or with a torn one, there is nothing to hold it against.
        return ""
    if found.get("use_rslora"):
        return "it was trained with rank-stabilised scaling (use_rslora), which is not known here"
    if found.get("alpha_pattern"):
        return "some of its layers were trained with an alpha of their own (alpha_pattern), which is not known here"
    alpha = found.get("lora_alpha")
    if alpha is not None and float(alpha) != float(lora.alpha):
        return f"it was trained with alpha {alpha:g}, and lora.alpha is {lora.alpha:g}: its updates would be scaled by another factor"
    return ""
