"""Runs of the toy task on a disk that is full or read-only: `unshare -m python -m tests.faults.small_disk ...`.

Arguments: an empty folder that a disk in memory is mounted on, another for an undisturbed run, and how many bytes are
left when another seed is to be run, once for each time. Prints a line of JSON for each, and one for a read-only disk.
"""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.runner import run
from tests.benchmarks.running.toy_run import toy_settings
from tests.faults.crash_points import SHARED
from tests.faults.outcome import differences, files_below, records_below, tables_below
from tests.tasks.training.toy import ToyTask

ROOM = 2**23
ENDS = (b"\n", b"IEND\xaeB`\x82")  # of texts, and of PNG


def two_seeds(results: Path, *seeds: int) -> tuple[int, list[str]]:
    """The exit code of a run, and what it said to stderr."""
    told = io.StringIO()
    every = 1e9  # no checkpoint between: they are the largest files by far, and would leave no room to fill up
    settings = toy_settings(results, seeds=seeds or (0, 1), steps=2, recipes=SHARED, checkpoint_seconds=every)
    with redirect_stderr(told):
        code = run(settings, ToyTask, Console(quiet=True))
    return code, told.getvalue().splitlines()


def undisturbed(results: Path) -> None:
    """What is there at last: one seed was run, and then both."""
    assert two_seeds(results, 1) == two_seeds(results) == (0, [])


def mount(place: Path, *options: str) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", ",".join((f"size={ROOM}", *options)), "tmpfs", place], check=True)


def full(place: Path, expected: Path, left: int) -> dict[str, Any]:
    """One seed is there; `left` bytes are free when the other is to be run, and all of them afterwards."""
    mount(place)
    results, ballast = place / "results", place / "ballast"
    assert two_seeds(results, 1) == (0, [])
    records = records_below(results)
    fill(ballast, left)
    code, told = two_seeds(results)
    after = records_below(results)
    about = {
        "left": left,
        "code": code,
        "told": told,
        "stray": [name for name in files_below(results) if name.endswith((".tmp", ".part"))],
        "lost": [name for name in records if after.get(name) != records[name]],
        "cut off": [name for name, content in tables_below(results).items() if not content.endswith(ENDS)],
    }
    ballast.unlink()
    about["then"] = two_seeds(results)
    about["differences"] = differences(results, expected)
    subprocess.run(["umount", place], check=True)
    return about


def fill(ballast: Path, left: int) -> None:
    """Write until the disk is full, then give `left` bytes back."""
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            file.truncate(file.tell() - left)


def read_only(place: Path, before: Path) -> dict[str, Any]:
    """Results that were there before, on a disk that has become read-only."""
    mount(place)
    shutil.copytree(before, place, dirs_exist_ok=True)
    mount(place, "remount", "ro")
    code, told = two_seeds(place)
    intact = tables_below(place) == tables_below(before)
    subprocess.run(["umount", place], check=True)
    return {"code": code, "told": told, "intact": intact}


def main(place: Path, expected: Path, sizes: Sequence[str]) -> None:
    undisturbed(expected)
    for size in sizes:
        print(json.dumps(full(place, expected, int(size))), flush=True)
    print(json.dumps(read_only(place, expected)), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
