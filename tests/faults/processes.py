"""Runs as processes of their own, killed at random moments: `python -m tests.faults.processes --kills 20 task=sr ...`.

What follows `--kills` is the command line of `benchmarks.run`, without `results`.
"""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.faults.extent import chance
from tests.faults.outcome import differences

PATIENCE = 1200
TOY = (sys.executable, "-m", "tests.benchmarks.running.toy_run", "{results}", "0.03", "serial")
BENCHMARK = (sys.executable, "-m", "benchmarks.run", "results={results}")


@dataclass
class Kills:
    """What became of runs that were killed.

    Attributes:
        early: how many kills hit before the first record, and
        late: how many after the last one, while tables and figures are made.
        differences: to an undisturbed run, of each run that was then finished; none is as it should be.
    """

    kills: int = 0
    early: int = 0
    late: int = 0
    finished: int = 0
    seconds: float = 0.0
    differences: tuple[str, ...] = ()


def start(command: Sequence[str], results: Path) -> subprocess.Popen[str]:
    """The command, with `results` where it says so."""
    line = [part.format(results=results) if part.endswith("{results}") else part for part in command]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(command: Sequence[str], results: Path) -> float:
    """Run the command to its end; returns the seconds it took."""
    began = time.monotonic()
    process = start(command, results)
    out, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, out
    return time.monotonic() - began


def killed_at_random(command: Sequence[str], root: Path, *, kills: int, moments: random.Random) -> Kills:
    """Kill the command `kills` times, at moments of its whole life, always going on in the same folder.

    Where a run is quicker than its kill it has finished: it is compared with an undisturbed one, and the next begins.
    """
    expected, found = root / "expected", Kills()
    life = finish(command, expected)
    jobs = len(list(expected.rglob("records/*.json")))
    began, results = time.monotonic(), root / "0"
    while found.kills < kills:
        process = start(command, results)
        try:
            process.communicate(timeout=moments.uniform(0.0, life))
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            recorded = len(list(results.rglob("records/*.json")))
            found.kills += 1
            found.early += recorded == 0
            found.late += recorded == jobs
            continue
        results = _compared(found, process.returncode, results, expected)
    finish(command, results)
    _compared(found, 0, results, expected)
    found.seconds = time.monotonic() - began
    return found


def _compared(found: Kills, code: int, results: Path, expected: Path) -> Path:
    """Note how a finished run differs; returns the folder of the next."""
    wrong = differences(results, expected) if code == 0 else [f"exit code {code}"]
    found.differences += tuple(f"{results.name}: {each}" for each in wrong)
    found.finished += 1
    return results.with_name(str(found.finished))


def main(arguments: Sequence[str]) -> int:
    assert arguments[0] == "--kills", __doc__
    with tempfile.TemporaryDirectory() as root:
        command = (*BENCHMARK, *arguments[2:])
        found = killed_at_random(command, Path(root), kills=int(arguments[1]), moments=chance())
    print(found)
    return 1 if found.differences else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
