"""Runs of the toy task, killed at operations on the disk.

The process of the test, which has imported everything, forks each run, which kills itself with SIGKILL before its nth
operation; another fork then runs the same command to its end.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
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
    return ended(begun(work))


def begun(work: Callable[[], int]) -> int:
    """The id of a process of its own that does `work`."""
    child = os.fork()
    if child == 0:
        code = 70
        try:
            code = work()
        finally:
            os._exit(code)
    return child


def ended(child: int) -> int:
    """The exit code of a process, once it has ended."""
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


@dataclass(frozen=True)
class Crash:
    """Before which operation a run was killed, the exit codes of it and of the next, and how the results differ."""

    operation: str
    codes: tuple[int, int]
    differences: Sequence[str]


def crashes(root: Path, *, everywhere: bool) -> list[Crash]:
    """What comes of a run that is killed before one of its operations, for each of these."""
    expected, found = root / "expected", []
    operations: list[str] = []
    with before_each_operation(expected, operations.append):
        assert toy(expected) == 0
    for point in range(len(operations)) if everywhere else rare_moments(operations):
        results = root / str(point)
        codes = forked(partial(until, results, point)), forked(partial(toy, results))
        found.append(Crash(operations[point], codes, differences(results, expected)))
        shutil.rmtree(results)
    return found
