"""Keep workers at work until every job has ended, although workers die, are pre-empted, or end twice."""

from __future__ import annotations

import secrets
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from rich.console import Console

from benchmarks.records.folder import ResultsFolder
from benchmarks.running.command import say, stopping
from benchmarks.running.jobs import Job, MakeTask, Outcome, chains
from benchmarks.running.launchers.work import Assigned, Work
from benchmarks.settings.launcher import Many
from benchmarks.settings.run import RunSettings
from tasks.atomic import remove_stale

POLL = 0.5  # seconds


class WorkerDied(Exception):
    """A worker was killed, ran out of memory, or was lost with its machine."""


Ended = tuple[Work, list[Outcome] | WorkerDied]


class Workers(Protocol):
    """Processes somewhere that do work."""

    @property
    def room(self) -> int:
        """How many more pieces of work they take now."""

    def about(self) -> str:
        """What they are, for the user."""

    def start(self, work: Sequence[Work]) -> None:
        """Take some work, at most `room` pieces, and do it in the background."""

    def ended(self, seconds: float) -> list[Ended]:
        """The work that has ended since the last call; waits some seconds for it."""

    def dismiss(self) -> int:
        """Drop what was taken and not begun; returns how much. What is under way is not wanted, and ends soon."""

    def close(self) -> None:
        """End the workers at once, whatever they do."""


def supervise(
    settings: RunSettings,
    jobs: Sequence[Job],
    make_task: MakeTask,
    make_workers: Callable[[], Workers],
    console: Console,
) -> Iterator[Outcome]:
    """Run the jobs; yields how each ended, as its chain ends.

    A chain whose worker died is started again, and goes on from its checkpoint. After `launcher.retries` deaths
    in the same job it has failed. After an interruption nothing more begins.

    Raises:
        ValueError: the workers cannot be reached.
    """
    assert isinstance(settings.launcher, Many)
    retries, folder = settings.launcher.retries, ResultsFolder(settings.folder)
    with wanting(folder) as wanted, stopping() as asked:
        workers = make_workers()
        say(console, f"{len(jobs)} jobs {workers.about()}")
        work = [Work.here([Assigned.now(settings, job) for job in c], make_task, wanted) for c in chains(jobs)]
        for outcome in outcomes(work, workers, console, retries=retries, asked=asked, folders=[folder]):
            say(console, str(outcome))
            yield outcome


def outcomes(
    work: Sequence[Work],
    workers: Workers,
    console: Console,
    *,
    retries: int,
    asked: Callable[[], bool],
    folders: Sequence[ResultsFolder],
    fits: Callable[[Work], bool] = lambda _: True,
) -> Iterator[Outcome]:
    """Do the work, in its order; yields how each of its jobs ended. The workers are closed afterwards.

    Args:
        work: all wanted by one file.
        retries: how often a worker of the same job may die.
        asked: whether to stop, with a last checkpoint of what runs.
        folders: that the jobs work in; cleared of what killed workers left half written.
        fits: asked before some work begins; what does not fit is left.
    """
    supervision = _Supervision(workers, work, retries=retries, asked=asked, fits=fits)
    try:
        yield from supervision.outcomes(lambda text: say(console, text))
    finally:
        workers.close()
        for folder in folders:
            for place in (folder.records, *folder.cache.glob("*")):
                remove_stale(place)


class _Supervision:
    """The state of `supervise`: what waits, how much is running, and how often each job has lost its worker."""

    def __init__(
        self,
        workers: Workers,
        waiting: Sequence[Work],
        *,
        retries: int,
        asked: Callable[[], bool],
        fits: Callable[[Work], bool],
    ) -> None:
        self._workers = workers
        self._waiting = deque(waiting)
        self._retries = retries
        self._asked, self._fits = asked, fits
        self._deaths: Counter[str] = Counter()
        self._running = 0

    def outcomes(self, note: Callable[[str], None]) -> Iterator[Outcome]:
        """How each job ended."""
        wanted = [one.wanted for one in self._waiting][:1]
        while self._waiting or self._running:
            if self._asked() and wanted:
                wanted.pop().unlink(missing_ok=True)
                self._waiting.clear()
                self._running -= self._workers.dismiss()
                note("stopping, when the workers have written their checkpoints; Ctrl-C again ends them at once")
            self._start()
            for work, result in self._workers.ended(POLL):
                self._running -= 1
                yield from self._settle(work, result, note)

    def _start(self) -> None:
        ready: list[Work] = []
        while self._waiting and len(ready) < self._workers.room:
            work = self._waiting.popleft()
            if self._fits(work):
                ready.append(work)
        if ready:
            self._workers.start(ready)
            self._running += len(ready)

    def _settle(self, work: Work, result: list[Outcome] | WorkerDied, note: Callable[[str], None]) -> Iterator[Outcome]:
        asked = self._asked()
        if isinstance(result, WorkerDied):
            outcomes = [Outcome(job, "trained", "done") for job in work.recorded()]
        elif not asked and result and result[-1].status == "interrupted":  # not by us
            outcomes, result = result[:-1], WorkerDied("told to stop")
        else:
            yield from result
            return
        yield from outcomes
        left = work.without([outcome.job for outcome in outcomes])
        if left.jobs and not asked:
            yield from self._again(left, result, note)

    def _again(self, work: Work, died: WorkerDied, note: Callable[[str], None]) -> Iterator[Outcome]:
        first = work.jobs[0].job
        self._deaths[first.name] += 1
        count = self._deaths[first.name]
        if count <= self._retries:
            again = f"started again from its checkpoint, {count} of {self._retries}"
            note(f"{first.label}: its worker died ({died}); {again}")
            self._waiting.append(work)
            return
        for one in work.jobs:
            yield Outcome(one.job, "failed", f"failed: its worker died ({died}); the same command goes on")


@contextmanager
def wanting(folder: ResultsFolder) -> Iterator[Path]:
    """A file that tells workers to go on; those of a run that was killed, which still look for its own, stop."""
    for stale in folder.cache.glob("wanted-*"):
        stale.unlink(missing_ok=True)
    wanted = (folder.cache / f"wanted-{secrets.token_hex(4)}").absolute()
    wanted.touch()
    try:
        yield wanted
    finally:
        wanted.unlink(missing_ok=True)
