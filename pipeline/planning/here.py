"""The plan against the machine that this runs on."""

from __future__ import annotations

import os

from pipeline.errors import UserError
from pipeline.planning.plan import GB, make_plan
from pipeline.planning.show import fits


def warning(config) -> str | None:
    """One line where the plan exceeds this machine; None where it fits or nothing can be said.

    Memory that runs out halves the passes, so it is no reason to stop.
    """
    on_gpu, bfloat16, there = this_machine(config.model)
    try:
        made = make_plan(config, on_gpu=on_gpu, bfloat16=bfloat16)
    except UserError:
        return None
    if there is None or fits(made, there):
        return None
    return (
        f"memory: the plan is {made.peak / GB:.1f} GB, this {'card' if on_gpu else 'machine'} has {there / GB:.1f} GB. "
        "`python run_pipeline.py plan` with this config says what to lower."
    )


def this_machine(model) -> tuple[bool, bool, float | None]:
    """Whether `config.model` would run on a GPU here, whether in bfloat16, and the bytes there are."""
    import torch

    from pipeline.models import choose_device, choose_dtype

    device = choose_device(model.device)
    half = choose_dtype(model.dtype, device) is torch.bfloat16
    if device.type == "cuda":
        return True, half, float(torch.cuda.get_device_properties(device).total_memory)
    return False, half, _total_memory()


def _total_memory() -> float | None:
    try:
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (ValueError, OSError):
        return None
