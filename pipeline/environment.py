"""What a step is made in: threads and seeds before it, versions, device, time and memory after it."""

from __future__ import annotations

import os
import subprocess
from datetime import datetime
from pathlib import Path
from typing import Any

from pipeline.config import Config

_PACKAGES = ("torch", "transformers", "trl", "peft", "datasets", "accelerate", "numpy")


def settle(config: Config) -> None:
    """Threads and seeds, before every step, so that a step does not depend on which steps ran before it in this process."""
    import random

    import numpy
    import torch
    from transformers.utils import logging

    # Their bars would tear ours.
    logging.disable_progress_bar()
    torch.set_num_threads(config.threads or os.cpu_count() or 1)
    random.seed(config.seed)
    numpy.random.seed(config.seed % 2**32)
    torch.manual_seed(config.seed)


def describe(config: Config, started: datetime, seconds: float) -> dict[str, Any]:
    """For the manifest of a step that began at `started` (UTC) and took `seconds`."""
    import resource
    from importlib.metadata import PackageNotFoundError, version

    import torch

    from pipeline.models import choose_device, choose_dtype

    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    device = choose_device(config.model.device)
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False, cwd=Path(__file__).parent
    )
    return {
        "commit": commit.stdout.strip() or None,
        "versions": versions,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "dtype": str(choose_dtype(config.model.dtype, device)).removeprefix("torch."),
        "seed": config.seed,
        "started_utc": started.isoformat(timespec="seconds"),
        "seconds": round(seconds, 2),
        # The process's peak so far, all steps before this one included.
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        # The step's own.
        **({"peak_gpu_bytes": torch.cuda.max_memory_allocated(device)} if device.type == "cuda" else {}),
    }
