"""Whether memory stays flat while a file grows: peak of a process that streams 100 thousand, 1 million and 10 million rows.

    python benchmarks/stream_rows.py --rows 100000 1000000 10000000 --kinds jsonl csv parquet

Each point is a process of its own, because a peak of memory belongs to a whole process. The files are made in a temporary directory
(10 million tiny rows are about 0.6 GB) and removed. The last line says whether the largest file took more memory than the smallest.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
KINDS = ("jsonl", "csv", "parquet")
CHUNK = 100_000


def rows(count: int) -> Iterator[dict[str, str]]:
    for number in range(count):
        yield {"prompt": f"What is {number} plus 1?", "completion": f"It is {number + 1}."}


def generate(path: Path, count: int) -> None:
    """Writes without holding the rows, so that the largest file needs no more memory than the smallest."""
    if path.suffix == ".parquet":
        _write_parquet(path, count)
        return
    with path.open("w", encoding="utf-8", newline="\n") as file:
        if path.suffix == ".csv":
            file.write("prompt,completion\n")
        for row in rows(count):
            file.write(f"{row['prompt']},{row['completion']}\n" if path.suffix == ".csv" else json.dumps(row) + "\n")


def _write_parquet(path: Path, count: int) -> None:
    import pyarrow
    import pyarrow.parquet

    schema = pyarrow.schema([("prompt", pyarrow.string()), ("completion", pyarrow.string())])
    made = rows(count)
    with pyarrow.parquet.ParquetWriter(path, schema) as writer:
        for _ in range(0, count, CHUNK):
            part = list(islice(made, CHUNK))
            writer.write_table(pyarrow.Table.from_pylist(part, schema=schema))


def measure(path: Path) -> dict[str, float]:
    """Reads the file as training would, in this process: records, seconds, and the process's peak in MiB."""
    from data.loading import stream

    started = time.monotonic()
    count = sum(1 for _ in stream(path, "prompt_completion"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"records": count, "seconds": time.monotonic() - started, "peak_mib": peak}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000, 10_000_000])
    arguments.add_argument("--kinds", nargs="+", choices=KINDS, default=["jsonl"])
    arguments.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    chosen = arguments.parse_args()
    if chosen.make:
        generate(chosen.make, chosen.rows[0])
        return
    if chosen.measure:
        print(json.dumps(measure(chosen.measure)))
        return
    print("| kind | rows | file MB | seconds | rows/s | peak MiB |\n|---|---:|---:|---:|---:|---:|")
    flat = True
    for kind in chosen.kinds:
        peaks = [_point(kind, count)["peak_mib"] for count in sorted(chosen.rows)]
        flat &= peaks[-1] <= 1.1 * peaks[0] + 8
    print("flat" if flat else "NOT flat")
    sys.exit(not flat)


def _child(*arguments) -> str:
    command = [sys.executable, str(HERE / "stream_rows.py"), *map(str, arguments)]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


def _point(kind: str, count: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"rows.{kind}"
        # A child's peak starts at its parent's size, so the parent must not grow while it makes the file.
        _child("--make", path, "--rows", count)
        size = path.stat().st_size / 1e6
        point = json.loads(_child("--measure", path))
    if point["records"] != count:
        raise RuntimeError(f"{point['records']} records of {count} rows")
    print(
        f"| {kind} | {count:,} | {size:.0f} | {point['seconds']:.1f} | {count / point['seconds']:,.0f} | {point['peak_mib']:.0f} |",
        flush=True,
    )
    return point


if __name__ == "__main__":
    main()
