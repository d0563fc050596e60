"""Writes both forms of the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.disk import write_whole
from pipeline.report import wording
from pipeline.report.facts import gather
from pipeline.report.markdown import to_markdown
from pipeline.report.page import page


def write_report(run_dir: Path, config: Any) -> tuple[Path, Path]:
    """Write `report.md` and `report.html` into `run_dir` and return their paths.

    Works on whatever has finished: a run that stopped after SFT gets a shorter report. The same files on disk give the
    same report, byte for byte.
    """
    facts = gather(run_dir, config)
    markdown, html = run_dir / "report.md", run_dir / "report.html"
    write_whole(markdown, wording.clean(to_markdown(facts)))
    write_whole(html, wording.clean(page(facts)))
    return markdown, html
