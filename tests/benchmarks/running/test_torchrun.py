"""Runs of the toy task by torchrun: `-m tests.benchmarks.running.test_torchrun <results> <tasks>` is a process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor

from benchmarks.runner import run
from benchmarks.running.launchers.launch import among_ranks
from benchmarks.settings.tracker import NoTracker, TensorBoard
from tasks.training.problem import CPU
from tasks.training.ranks import WHOLE, Ranks, Shard
from tests.benchmarks.running.test_trackers import points_of
from tests.benchmarks.running.toy_run import toy_settings
from tests.benchmarks.test_runner import TABLES, folder_of, records_of, tables_of, wait_for_steps
from tests.extent import NIGHTLY
from tests.tasks.training.test_ranks import PlainTask
from tests.tasks.training.toy import ToyTask

TIMEOUT = 240
SETTINGS: dict[str, Any] = {"seeds": (0,)}


class OddTask(ToyTask):
    """Its batch has three items."""

    batch = 3

    def drawn(self, step: int, seed: int) -> tuple[Tensor, Tensor]:
        x, target = super().drawn(step, seed)
        return x[:3], target[:3]


class LosesItsData(ToyTask):
    """The second rank cannot read the third batch."""

    def batches(
        self, steps: range, seed: int, *, device: torch.device = CPU, shard: Shard = WHOLE, augmented: bool = True
    ) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in super().batches(steps, seed, device=device, shard=shard, augmented=augmented):
            yield batch
            if shard.index == 1 and len(steps) > 2:
                raise OSError(5, "the disk is gone")


ENDING = ("plain", "toy") if NIGHTLY else ("plain",)
TASKS = {"plain": PlainTask, "toy": ToyTask, "slow": partial(ToyTask, slow=0.1), "odd": OddTask, "lost": LosesItsData}


def work(results: Path, names: list[str], ranks: Ranks) -> int:
    """Run tasks one after another, each in a folder of its name; returns the last exit code."""
    (results / f"process-{ranks.index}").write_text(str(os.getpid()))
    console = Console(width=200, quiet=not ranks.leads)
    for name in names:
        tracker = TensorBoard(seconds=0) if name == "plain" else NoTracker()
        code = run(toy_settings(place(results, name), tracker=tracker, **SETTINGS), TASKS[name], console, ranks)
    return code


def place(results: Path, name: str) -> Path:
    return results / {"slow": "toy"}.get(name, name)


def start(results: Path, *names: str) -> subprocess.Popen[str]:
    """Two processes that do the work."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, "-m", "tests.benchmarks.running.test_torchrun", str(results), *names]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def ids(results: Path) -> list[int]:
    return [int((results / f"process-{index}").read_text()) for index in range(2)]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of two processes, each task in its folder, and what they printed. The first and the last cannot end well."""
    results = tmp_path_factory.mktemp("uninterrupted")
    torchrun = start(results, "odd", *ENDING, "lost")
    out, err = torchrun.communicate(timeout=TIMEOUT)
    assert torchrun.returncode == 1, err
    (results / "out").write_text(out)
    (results / "err").write_text(err)
    return results


def test_two_processes_write_the_records_and_tables_of_one(uninterrupted: Path, tmp_path: Path) -> None:
    assert run(toy_settings(tmp_path, **SETTINGS), PlainTask, Console(quiet=True)) == 0
    alone, together = records_of(tmp_path), records_of(uninterrupted / "plain")
    assert alone.keys() == together.keys()
    for name, record in alone.items():
        other = together[name]
        assert other.pop("host") == f"2 processes, {record.pop('host')}"
        assert numbers(other.pop("rows")) == pytest.approx(numbers(record.pop("rows")), rel=1e-3)
        assert other == record
    one, other = (folder_of(results) for results in (tmp_path, uninterrupted / "plain"))
    assert {path.name for path in other.iterdir()} == {"records", "cache", *TABLES}
    assert not list(other.glob("cache/checkpoints/*"))
    headings = [[line.split("|")[:2] for line in (f / "table.md").read_text().splitlines()] for f in (one, other)]
    assert headings[0] == headings[1]


def numbers(rows: list[dict[str, Any]]) -> list[float]:
    scores = [scores for row in rows for scores in row["metrics"].values()]
    return [row[key] for row in rows for key in ("width", "macs", "params")] + [v for s in scores for v in s.values()]


def test_the_first_process_alone_tracks(uninterrupted: Path) -> None:
    cache = folder_of(uninterrupted / "plain") / "cache"
    assert len(list(cache.rglob("events.*"))) == 3
    tracked = points_of(cache)
    assert {name.split("-")[0] for name in tracked} == {"individual", "random", "sandwich"}
    (tags,) = (tags for name, tags in tracked.items() if name.startswith("sandwich"))
    assert [step for step, _ in tags["loss"]] == [1, 2, 3, 4, 5, 6]


def test_the_first_process_alone_speaks(uninterrupted: Path) -> None:
    printed = (uninterrupted / "out").read_text()
    assert printed.count("sandwich, seed 0: done in") == printed.count("Tables and figures:") == len(ENDING)


def test_a_batch_that_cannot_be_shared_out_evenly_is_refused(uninterrupted: Path) -> None:
    err = (uninterrupted / "err").read_text()
    assert err.count("error: a batch of 3 cannot be shared out evenly among 2 processes; use a multiple of 2") == 1
    assert not records_of(uninterrupted / "odd")


def test_a_process_that_fails_ends_all_with_its_error(uninterrupted: Path) -> None:
    err = (uninterrupted / "err").read_text()
    assert "error: rank 1: The disk is gone" in err and "error: rank 0: another rank has ended" in err
    assert not records_of(uninterrupted / "lost")


@pytest.mark.nightly
def test_a_killed_process_ends_all_and_the_same_command_goes_on_to_the_same_records(
    uninterrupted: Path, tmp_path: Path
) -> None:
    torchrun = start(tmp_path, "slow")
    wait_for_steps(tmp_path / "toy", 3)
    os.kill(ids(tmp_path)[1], signal.SIGKILL)
    _, err = torchrun.communicate(timeout=TIMEOUT)
    assert torchrun.returncode == 1 and "error: rank 0: another rank has ended" in err
    assert list(folder_of(tmp_path / "toy").glob("cache/checkpoints/*.pt"))

    torchrun = start(tmp_path, "toy")
    _, err = torchrun.communicate(timeout=TIMEOUT)
    assert torchrun.returncode == 0, err
    assert records_of(tmp_path / "toy") == records_of(uninterrupted / "toy")
    assert tables_of(tmp_path / "toy") == tables_of(uninterrupted / "toy")


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("number", "to"),
    [(signal.SIGTERM, "torchrun"), (signal.SIGKILL, "torchrun"), (signal.SIGINT, "one process")],
)
def test_processes_stop_together_and_say_how_to_go_on(number: int, to: str, tmp_path: Path) -> None:
    torchrun = start(tmp_path, "slow")
    wait_for_steps(tmp_path / "toy", 2)
    os.kill(torchrun.pid if to == "torchrun" else ids(tmp_path)[1], number)
    out, err = torchrun.communicate(timeout=TIMEOUT)  # until no process is left that could write there
    assert torchrun.returncode != 0
    assert out.count("stopped; the same command goes on from here") == 1
    assert err.count("interrupted; the same command goes on from the last checkpoint") == 1
    assert "error: rank" not in err
    assert len(list(folder_of(tmp_path / "toy").glob("cache/checkpoints/*.pt"))) == 1


def test_parallel_jobs_are_refused_beside_torchrun(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = toy_settings(tmp_path, launcher="joblib", jobs=2)
    assert run(settings, ToyTask, Console(quiet=True), Ranks(0, 2)) == 2
    assert "launcher=joblib starts processes of its own; torchrun has started 2 already" in capsys.readouterr().err
    assert run(settings, ToyTask, Console(quiet=True), Ranks(1, 2)) == 2
    assert capsys.readouterr().err == ""


if __name__ == "__main__":
    sys.exit(among_ranks(partial(work, Path(sys.argv[1]), sys.argv[2:])))
