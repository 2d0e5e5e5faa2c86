"""What becomes of jobs whose workers are lost, with workers that are played."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.records.folder import ResultsFolder
from benchmarks.running.jobs import Outcome, plan
from benchmarks.running.launchers.supervising import Ended, WorkerDied, supervise
from benchmarks.running.launchers.work import Work, record_file
from benchmarks.settings.launcher import Joblib
from tests.benchmarks.running.toy_run import RECIPES, toy_settings
from tests.tasks.training.toy import ToyTask


class Played:
    """Workers that end as they are told: what becomes of the nth work begun."""

    room = 1

    def __init__(self, *ends: Callable[[Work], list[Outcome] | WorkerDied]) -> None:
        self._ends = iter(ends)
        self.begun: list[Work] = []
        self._ended: list[Work] = []

    def about(self) -> str:
        return "played"

    def start(self, work: Sequence[Work]) -> None:
        self.begun += work
        self._ended += work

    def ended(self, seconds: float) -> list[Ended]:
        return [(work, next(self._ends)(work)) for work in (self._ended.pop(0),)]

    def dismiss(self) -> int:
        return 0

    def close(self) -> None:
        """Nothing runs."""


def dies(work: Work) -> WorkerDied:
    return WorkerDied("out of memory")


def done(work: Work) -> list[Outcome]:
    return [Outcome(one.job, "trained", "done") for one in work.jobs]


def told_to_stop(work: Work) -> list[Outcome]:
    """After the first of its jobs."""
    first, second = work.jobs
    return [Outcome(first.job, "trained", "done"), Outcome(second.job, "interrupted", "stopped")]


def records_the_first_and_dies(work: Work) -> WorkerDied:
    record_file(work.jobs[0].settings, work.jobs[0].job).touch()
    return WorkerDied("lost")


def played(results: Path, workers: Played) -> tuple[list[str], str]:
    """How each of two jobs that share a training ended, and what was said; a lost worker is replaced once."""
    recipes = (RECIPES[2], RECIPES[2].replace(name="uncalibrated", calibrate=0))
    settings = toy_settings(results, seeds=(0,), recipes=recipes).replace(launcher=Joblib(retries=1))
    record_file(settings, plan(settings)[0]).parent.mkdir(parents=True)
    console = Console(record=True, width=300, quiet=False)
    with ResultsFolder(settings.folder).locked():
        outcomes = list(supervise(settings, plan(settings), ToyTask, lambda: workers, console))
    return [str(outcome) for outcome in outcomes], console.export_text()


def test_a_lost_worker_is_replaced_and_its_loss_said(tmp_path: Path) -> None:
    workers = Played(dies, done)
    outcomes, said = played(tmp_path, workers)
    assert outcomes == ["sandwich, seed 0: done", "uncalibrated, seed 0: done"]
    assert "sandwich, seed 0: its worker died (out of memory); started again from its checkpoint, 1 of 1" in said
    assert [len(work.jobs) for work in workers.begun] == [2, 2]


def test_a_job_whose_workers_are_lost_too_often_has_failed(tmp_path: Path) -> None:
    outcomes, said = played(tmp_path, Played(dies, dies))
    failed = "failed: its worker died (out of memory); the same command goes on"
    assert outcomes == [f"{name}, seed 0: {failed}" for name in ("sandwich", "uncalibrated")]
    assert said.count("started again") == 1


@pytest.mark.parametrize("end", [told_to_stop, records_the_first_and_dies])
def test_only_what_is_left_is_started_again(end: Callable[[Work], list[Outcome] | WorkerDied], tmp_path: Path) -> None:
    workers = Played(end, done)
    outcomes, said = played(tmp_path, workers)
    assert outcomes == ["sandwich, seed 0: done", "uncalibrated, seed 0: done"]
    assert [[one.job.recipe.name for one in work.jobs] for work in workers.begun] == [
        ["sandwich", "uncalibrated"],
        ["uncalibrated"],
    ]
    assert "uncalibrated, seed 0: its worker died" in said


def test_each_job_may_lose_as_many_workers(tmp_path: Path) -> None:
    outcomes, _ = played(tmp_path, Played(dies, told_to_stop, done))
    assert outcomes == ["sandwich, seed 0: done", "uncalibrated, seed 0: done"]
