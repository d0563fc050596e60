"""What a round learns from, frozen: files with their hashes, so that a round can be taken up and repeated."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from data.errors import UserError
from data.loading import load
from data.overlap import HeldOut, Said, prompt_of
from data.records import Message, Prompt, Ranking, Thumb
from data.rows import demonstration_row, prompt_row, ranking_row, thumb_row, write_rows
from data.votes import ASKED, Lesson
from pipeline.config import DataConfig
from pipeline.disk import sha256, sync
from pipeline.run import Run
from pipeline.service import InService
from reward.test_model import sides

SNAPSHOT = "snapshot.json"
NEW = "new_rankings.jsonl"


@dataclass(frozen=True)
class Snapshot:
    """One round's data.

    Attributes:
        against: the assistant in service when the round began.
        counts: records by what they are.
        left_out: judgements that became no record, and records that may not be trained on, by reason.
    """

    folder: Path
    against: InService
    votes_sha256: str
    counts: dict[str, int]
    left_out: dict[str, int]

    @property
    def new_rankings(self) -> list[Ranking]:
        file = self.folder / NEW
        # A round may learn from lone thumbs alone.
        return load(file, "ranked") if file.stat().st_size else []

    def data(self, old: DataConfig) -> DataConfig:
        """The `data` section of the round's run."""
        files = {
            name: str(self.folder / f"{name}.jsonl")
            for name in ("demonstrations", "rankings", "prompts", "heldout_prompts")
        }
        held, thumbs = self.folder / "heldout_rankings.jsonl", self.folder / "thumbs.jsonl"
        formats = {
            "demonstrations": "messages",
            "rankings": "ranked",
            "prompts": "prompts",
            "heldout_prompts": "prompts",
        }
        formats |= {"heldout_rankings": "ranked", "thumbs": "thumbs"}
        changed = {
            **files,
            **{f"{name}_format": form for name, form in formats.items()},
            "heldout_rankings": str(held) if held.exists() else None,
            "thumbs": str(thumbs) if thumbs.exists() and thumbs.stat().st_size else None,
            # The old rows were limited when they were prepared, and no vote is to fall behind the limit.
            "limit": None,
        }
        return old.model_copy(update=changed)


@dataclass(frozen=True)
class Usable:
    """What of a lesson may be trained on, and what no earlier round had."""

    rankings: list[Ranking]
    new: list[Ranking]
    thumbs: list[Thumb]
    new_thumbs: int
    demonstrations: list
    prompts: list[Prompt]
    held_out: int
    # Corrected answers that are left out because their questions teach the test model.
    test_models: int = 0

    @property
    def new_pairs(self) -> int:
        return sum(len(r.pairs()) for r in self.new)


def usable(base: Run, lesson: Lesson, known: set[str]) -> Usable:
    """Without votes on held-out questions: trained on them, every later comparison would be worthless.

    Args:
        known: ids of rankings and lone thumbs that earlier rounds learned from.
    """
    held = HeldOut({"held out": [Said.of(r) for r in _held(base)]})
    free = lambda records: [r for r in records if not held.touches(Said.of(r))]  # noqa: E731
    rankings, demonstrations, again = free(lesson.rankings), free(lesson.demonstrations), free(lesson.again)
    # An SFT policy that has learnt the answers which taught the test model is not judged by it independently.
    shown, kept = sides(demonstrations, base.config.reward.test_share)
    # Thumbs of both kinds on one prompt are rankings already.
    thumbs = free(lesson.unpaired)
    asked: dict[tuple[Message, ...], Prompt] = {}
    for record in [*again, *rankings, *thumbs]:
        asked.setdefault(prompt_of(record), Prompt(f"{record.id}{ASKED}", prompt_of(record)))
    return Usable(
        rankings=rankings,
        new=[r for r in rankings if r.id not in known],
        thumbs=thumbs,
        new_thumbs=sum(t.id not in known for t in thumbs),
        demonstrations=shown,
        prompts=list(asked.values()),
        held_out=sum(map(len, (lesson.rankings, lesson.demonstrations, lesson.again, lesson.unpaired)))
        - sum(map(len, (rankings, demonstrations, again, thumbs))),
        test_models=len(kept),
    )


def take(
    base: Run, folder: Path, lesson: Lesson, found: Usable, against: InService, *, demonstrations: bool
) -> Snapshot:
    """Writes the round's files, the old data first, and last of all the list of their hashes."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(mode=0o700, parents=True)
    prepared = base.path / "stages" / "prepare"
    shown = found.demonstrations if demonstrations else []
    old_prompts = {p.messages for p in load(prepared / "prompts.jsonl", "prompts")}
    asked = [p for p in found.prompts if p.messages not in old_prompts]
    _join(partial / "demonstrations.jsonl", _both(prepared, "demonstrations"), map(demonstration_row, shown))
    _join(partial / "rankings.jsonl", _both(prepared, "rankings"), map(ranking_row, found.rankings))
    _join(
        partial / "prompts.jsonl", [prepared / "prompts.jsonl", prepared / "prompts.test.jsonl"], map(prompt_row, asked)
    )
    _join(partial / "thumbs.jsonl", filter(Path.exists, _both(prepared, "thumbs")), map(thumb_row, found.thumbs))
    for name in ("heldout_prompts.jsonl", "heldout_rankings.jsonl"):
        if (prepared / name).exists():
            shutil.copyfile(prepared / name, partial / name)
    write_rows(partial / NEW, map(ranking_row, found.new))
    counts = {
        "rankings": len(found.rankings),
        "new_rankings": len(found.new),
        "new_pairs": found.new_pairs,
        "lone_thumbs": len(found.thumbs),
        "new_lone_thumbs": found.new_thumbs,
        "demonstrations": len(shown),
        "prompts": len(asked),
        "raters": len(lesson.given),
        "judgements": sum(lesson.given.values()),
        "judgements_used": lesson.used,
    }
    left_out = {**lesson.left_out, "records on held-out questions": found.held_out}
    if demonstrations and found.test_models:
        left_out["corrected answers to the test model's questions"] = found.test_models
    files = {f.name: {"sha256": sha256(f), "bytes": f.stat().st_size} for f in sorted(partial.iterdir())}
    head = {"against": asdict(against), "votes_sha256": lesson.sha256, "counts": counts, "left_out": left_out}
    (partial / SNAPSHOT).write_text(
        json.dumps(
            {**head, "learned_from": [r.id for r in (*found.rankings, *found.thumbs)], "files": files},
            indent=1,
            ensure_ascii=False,
        ),
        encoding="utf-8",
    )
    for file in partial.iterdir():
        sync(file)
    partial.rename(folder)
    sync(folder.parent)
    return Snapshot(folder, against, lesson.sha256, counts, left_out)


def read(folder: Path) -> Snapshot:
    """A snapshot taken before.

    Raises:
        UserError: a file is not what was written.
    """
    try:
        raw = json.loads((folder / SNAPSHOT).read_text(encoding="utf-8"))
        taken = Snapshot(folder, InService(**raw["against"]), raw["votes_sha256"], raw["counts"], raw["left_out"])
        files = {name: is_["sha256"] for name, is_ in raw["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{folder / SNAPSHOT}: damaged. Remove {folder} to begin the round anew.") from None
    problems = [
        f"{folder / name}: missing or changed since the round began. Remove {folder} to begin the round anew."
        for name, digest in files.items()
        if not (folder / name).is_file() or sha256(folder / name) != digest
    ]
    if problems:
        raise UserError(problems)
    return taken


def against(folder: Path) -> InService:
    """The assistant that was in service when a round began."""
    try:
        return InService(**json.loads((folder / SNAPSHOT).read_text(encoding="utf-8"))["against"])
    except (ValueError, KeyError, TypeError):
        raise UserError(
            f"{folder / SNAPSHOT}: damaged. Put it back from a copy, or remove {folder}: its votes count as new then."
        ) from None


def hashes(folder: Path) -> set[str]:
    """sha256 of the files that every round's run is prepared from; empty where there is no whole snapshot."""
    try:
        files = json.loads((folder / SNAPSHOT).read_text(encoding="utf-8"))["files"]
        return {files[f"{name}.jsonl"]["sha256"] for name in ("demonstrations", "rankings", "prompts", "heldout_prompts")}
    except (OSError, ValueError, KeyError, TypeError):
        return set()


def learned_from(folder: Path) -> set[str]:
    """Ids of the rankings and lone thumbs from votes that a round learned from."""
    try:
        return set(json.loads((folder / SNAPSHOT).read_text(encoding="utf-8"))["learned_from"])
    except (ValueError, KeyError, TypeError):
        raise UserError(
            f"{folder / SNAPSHOT}: damaged. Put it back from a copy, or remove {folder}: its votes count as new then."
        ) from None


def _held(base: Run) -> list:
    prepared = base.path / "stages" / "prepare"
    rankings = prepared / "heldout_rankings.jsonl"
    return [
        *load(prepared / "heldout_prompts.jsonl", "prompts"),
        *(load(rankings, "ranked") if rankings.exists() else []),
    ]


def _both(prepared: Path, name: str) -> list[Path]:
    # The side of a question is a hash of it, so that it comes out the same again.
    return [prepared / f"{name}.train.jsonl", prepared / f"{name}.test.jsonl"]


def _join(path: Path, old: Iterable[Path], rows: Iterable[dict]) -> None:
    write_rows(path, rows)
    added = path.read_bytes()
    path.write_bytes(b"".join(file.read_bytes() for file in old) + added)
