"""Files to records: every row read, and every row that cannot be used named with its reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from data.errors import UserError
from data.fields import suggest
from data.formats import FORMATS
from data.hub import is_hub
from data.numbers import many
from data.records import Message, Ranking, Record, ScoredAnswer, Several, ranking_by_score
from data.sources import files_of, read_rows

# Formats of other projects that compare two answers. Now and then both are the same text.
PAIR_FORMATS = ("sharegpt", "hh", "ultrafeedback", "pairs", "summaries")
TIED_SHARE = 0.05
# Where a row stands: the file's index among those of a directory, and the row's number in it.
Place = tuple[int, int]


@dataclass
class Loaded:
    """The records of a source.

    Attributes:
        left_out: parts of rows that were not used, by the reason; whole rows never are left out.
    """

    records: list[Record]
    left_out: Counter = field(default_factory=Counter)


def load(path: Path, format_name: str) -> list[Record]:
    """All records of a file, a directory or a Hub data set; see `load_counted`, which also tells what was not used."""
    return load_counted(path, format_name).records


def load_counted(path: Path, format_name: str) -> Loaded:
    """All records of a source, and counts of what the format leaves out of its rows.

    Two answers that are the same text teach nothing; a few are kept as ties, past `TIED_SHARE` of the rows they are refused.

    Raises:
        UserError: every row that cannot be used, each with its number and the reason; or the format does not exist.
    """
    loaded, problems = attempt(path, format_name)
    if problems:
        raise UserError(problems)
    return loaded


def attempt(path: Path, format_name: str, *, most: int | None = None) -> tuple[Loaded, list[str]]:
    """What can be used of a source (of its first `most` rows), and the problems of the rest.

    Raises:
        UserError: the format does not exist, or a directory is not one of data files.
    """
    reading = _Reading(Path(path), format_name)
    rows_left = most
    for index, file in enumerate(reading.files):
        try:
            for number, row in islice(read_rows(file), rows_left):
                reading.take((index, number), row)
                rows_left = rows_left and rows_left - 1
        except UserError as error:
            # A file may break off after rows that have faults of their own; all are told at once.
            reading.ends += error.problems
    return reading.result()


class _Reading:
    """What has been read of a source so far."""

    def __init__(self, path: Path, format_name: str):
        self.parse = parser(path, format_name)
        self.format_name = format_name
        self.files = files_of(path)
        self.records: dict[Place, tuple[Record, ...]] = {}
        self.groups: dict[tuple[Message, ...], list[tuple[Place, ScoredAnswer]]] = {}
        self.faults: dict[Place, str] = {}
        self.ends: list[str] = []
        self.left_out: Counter = Counter()
        self._place_of: dict[str, Place] = {}

    def take(self, place: Place, row: dict[str, Any] | str) -> None:
        try:
            made = _parsed(self.parse, row, self.files[place[0]], place[1])
            if isinstance(made, ScoredAnswer):
                self._new_id(made.id, place)
                self.groups.setdefault(made.prompt, []).append((place, made))
                return
            if isinstance(made, Several):
                self.left_out.update(made.left_out)
                made = made.records
            else:
                made = (made,)
            for record in made:
                self._new_id(record.id, place)
            self.records[place] = made
        except ValueError as error:
            self.faults[place] = str(error)

    def result(self) -> tuple[Loaded, list[str]]:
        self._rank_groups()
        if self.format_name in PAIR_FORMATS:
            self.faults |= _same_answers({p: r for p, records in self.records.items() for r in records})
        problems = [*self._told(), *self.ends]
        records = [r for place in sorted(self.records) if place not in self.faults for r in self.records[place]]
        if not records and not problems:
            why = "; ".join(f"{count} {reason}" for reason, count in self.left_out.items() if count)
            name = self.files[0] if len(self.files) == 1 else self.files[0].parent
            problems = [f"{name}: no row gives a record ({why or 'nothing to use'}). Use another format or file."]
        return Loaded(records, self.left_out), problems

    def _rank_groups(self) -> None:
        for prompt, rows in self.groups.items():
            place, first = rows[0]
            if self.format_name == "thumbs_ranked" and len({answer.score for _, answer in rows}) == 1:
                self.left_out["answers to a prompt that has thumbs of one kind only"] += len(rows)
                continue
            try:
                answers = [(answer.response, answer.score) for _, answer in rows]
                self.records[place] = (ranking_by_score(first.id, prompt, answers, first.topic),)
            except ValueError as error:
                others = ", ".join(str(p[1]) for p, _ in rows[1:])
                self.faults[place] = f"{error}; of this prompt are also the rows {others}" if others else str(error)

    def _new_id(self, name: str, place: Place) -> None:
        """Results are grouped by id: two rows under one would be taken for one."""
        first = self._place_of.setdefault(name, place)
        if first != place:
            file = "" if first[0] == place[0] else f"{self.files[first[0]]} "
            raise ValueError(f"id {name!r} is that of {file}row {first[1]} too; give each row its own, or none")

    def _told(self) -> Iterator[str]:
        for index, file in enumerate(self.files):
            faults = {number: reason for (at, number), reason in self.faults.items() if at == index}
            yield from told(file, faults, all_rows=not any(at == index for at, _ in self.records))


def stream(path: Path, format_name: str) -> Iterator[Record]:
    """The records of a source one at a time, in memory that does not grow with it.

    Rows that cannot be used are passed over and told at the end, the first `STREAMED_FAULTS` by row; a pass before the training finds
    them. Not checked, since each would need all rows at once: that no two rows share an id.

    Raises:
        UserError: the source cannot be streamed; or, after the last record, the rows that cannot be used.
    """
    path = Path(path)
    parse = parser(path, format_name)
    files = files_of(path)
    if format_name in GROUPED_FORMATS:
        raise UserError(
            f"{path}: format '{format_name}' joins rows from anywhere in the file, so it cannot be streamed. Join them before."
        )
    if whole := next((f for f in files if f.suffix.lower() == ".json"), None):
        raise UserError(f"{whole}: a JSON list is read whole, so it cannot be streamed. Save it as JSONL or Parquet.")
    faults = _FirstFaults(path)
    for file in files:
        try:
            for number, row in read_rows(file):
                try:
                    made = _parsed(parse, row, file, number)
                except ValueError as error:
                    faults.add(file, number, str(error))
                    continue
                records = made.records if isinstance(made, Several) else (made,)
                if format_name in PAIR_FORMATS:
                    faults.weigh(records)
                yield from records
        except UserError as error:
            faults.told += error.problems
    faults.raise_any()


GROUPED_FORMATS = ("scored_rows", "thumbs_ranked")
STREAMED_FAULTS = 1000


class _FirstFaults:
    """Problems of a stream: the first by row, the others by number."""

    def __init__(self, path: Path):
        self.path, self.told, self.count, self.same, self.seen = path, [], 0, 0, 0

    def add(self, file: Path, number: int, reason: str) -> None:
        self.count += 1
        if self.count <= STREAMED_FAULTS:
            self.told += told(file, {number: reason}, all_rows=False)

    def weigh(self, records: tuple[Record, ...]) -> None:
        self.seen += len(records)
        self.same += sum(isinstance(r, Ranking) and len(set(r.responses)) == 1 for r in records)

    def raise_any(self) -> None:
        if self.count > STREAMED_FAULTS:
            self.told.append(f"{self.path}: {many(self.count - STREAMED_FAULTS, 'more row')} cannot be used.")
        if self.same > TIED_SHARE * self.seen:
            self.told.append(f"{self.path}: {_same_share(self.same, self.seen)}. Drop them.")
        if self.told:
            raise UserError(self.told)


def parser(path: Path, format_name: str) -> Callable:
    """The function of a format.

    Raises:
        UserError: there is none of that name.
    """
    if format_name not in FORMATS:
        raise UserError(
            f"{path}: unknown format '{format_name}'; there are {', '.join(FORMATS)}{suggest(format_name, FORMATS)}."
        )
    return FORMATS[format_name]


def _parsed(parse: Callable, row: dict[str, Any] | str, file: Path, number: int) -> Record | Several | ScoredAnswer:
    if isinstance(row, str):
        raise ValueError(row)
    if file.suffix.lower() == ".csv":
        row = {name: _typed(name, text) for name, text in row.items()}
    return parse(row, f"{file.name.rpartition(':')[2] if is_hub(file) else file.stem}-{number}")


def _typed(name: str, text: str) -> Any:
    """A CSV file holds text alone; numbers and truth values stand in these columns. What reads as neither stays, and is refused."""
    if name == "label":
        return {"true": True, "false": False}.get(text.strip().lower(), text)
    if name in ("score", "score_chosen", "score_rejected"):
        try:
            return float(text)
        except ValueError:
            return text
    return text


def _same_answers(records: dict[Place, Record]) -> dict[Place, str]:
    same = [place for place, r in records.items() if isinstance(r, Ranking) and len(set(r.responses)) == 1]
    if len(same) <= TIED_SHARE * len(records):
        return {}
    return dict.fromkeys(same, _same_share(len(same), len(records)))


def _same_share(same: int, rows: int) -> str:
    return f"chosen and rejected are the same text; so it is in {same} of {many(rows, 'row')}, and at most {TIED_SHARE:.0%} may be so"


def told(path: Path, faults: dict[int, str], *, all_rows: bool) -> list[str]:
    """A line a row; one line for all when every row has the same fault, as when the format is another."""
    numbers = sorted(faults)
    if all_rows and len(faults) > 1 and len(set(faults.values())) == 1:
        place = f"{path} rows {numbers[0]} to {numbers[-1]} (all)"
        return [_line(place, faults[numbers[0]], "Mend the file, or name its format.")]
    return [_line(f"{path} row {number}", faults[number], "Mend or drop the row.") for number in numbers]


def _line(place: str, reason: str, advice: str) -> str:
    # A reason that ends with a full stop says itself what to do.
    if reason.endswith("."):
        return f"{place}: {reason}"
    return f"{place}: {reason}{'' if reason.endswith('?') else '.'} {advice}"
