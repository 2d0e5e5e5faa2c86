"""Runs of the toy task, killed at operations on the disk: `python -m tests.faults.crash_points <results> all|rare`.

One process imports everything and forks each run, which kills itself with SIGKILL before its nth operation; another
fork then runs the same command to its end. A line of JSON a crash point says what came of it.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.runner import run
from tasks.training.recipe import Recipe
from tests.benchmarks.running.toy_run import RECIPES, toy_settings
from tests.faults.outcome import differences
from tests.tasks.training.toy import ToyTask

OPERATIONS = ("open", "mkdir", "fsync", "chmod", "replace", "unlink")
SANDWICH: dict[str, Any] = {"range": (0.5, 1.0), "rule": "sandwich", "samples": 3}
SHARED = (Recipe("without", calibrate=0, **SANDWICH), Recipe("sandwich", calibrate=2, **SANDWICH))


def toy(results: Path) -> int:
    """Individual networks, and two recipes that share one training: a checkpoint after each step."""
    settings = toy_settings(results, seeds=(0,), steps=2, recipes=(RECIPES[0], *SHARED))
    return run(settings, ToyTask, Console(quiet=True))


@contextmanager
def before_each_operation(results: Path, act: Callable[[str], None]) -> Iterator[None]:
    """Call `act` with `<operation> <file>` before each operation on a file below `results`."""
    plain = {name: getattr(os, name) for name in OPERATIONS}

    def observed(name: str, target: Any, *rest: Any, **named: Any) -> Any:
        path = os.readlink(f"/proc/self/fd/{target}") if isinstance(target, int) else os.fspath(target)
        if str(path).startswith(str(results)):
            place = Path(rest[0] if name == "replace" else path)
            act(f"{name} {place.relative_to(results).as_posix()}")
        return plain[name](target, *rest, **named)

    for name in OPERATIONS:
        setattr(os, name, partial(observed, name))
    try:
        yield
    finally:
        for name, function in plain.items():
            setattr(os, name, function)


def until(results: Path, point: int) -> int:
    """Run, and be killed before operation number `point`."""
    done = 0

    def count(_: str) -> None:
        nonlocal done
        if done == point:
            os.kill(os.getpid(), signal.SIGKILL)
        done += 1

    with before_each_operation(results, count):
        return toy(results)


def forked(work: Callable[[], int]) -> int:
    """The exit code of `work` in a process of its own; negative: the signal that killed it."""
    child = os.fork()
    if child == 0:
        code = 70
        try:
            code = work()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def rare_moments(operations: Sequence[str]) -> list[int]:
    """The first point of each kind at which files change hands, for checkpoints, records, tables and the rest."""
    first: dict[tuple[str, str], int] = {}
    for point, operation in enumerate(operations):
        name, place = operation.split(" ", 1)
        if name in ("replace", "unlink"):
            kind = Path(place).parent.name if "records" in place or "cache" in place else "tables"
            first.setdefault((name, kind), point)
    return list(first.values())


def main(root: Path, extent: str) -> None:
    expected = root / "expected"
    operations: list[str] = []
    with before_each_operation(expected, operations.append):
        assert toy(expected) == 0
    for point in range(len(operations)) if extent == "all" else rare_moments(operations):
        results = root / str(point)
        codes = [forked(partial(until, results, point)), forked(partial(toy, results))]
        about = {"point": point, "operation": operations[point], "codes": codes}
        print(json.dumps(about | {"differences": differences(results, expected)}), flush=True)
        shutil.rmtree(results)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), sys.argv[2])
