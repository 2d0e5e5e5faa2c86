"""What a worker is given: a chain of jobs, and how it learns that they are no longer wanted."""

from __future__ import annotations

import os
import pickle
import platform
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from rich.console import Console

from benchmarks.records.folder import ResultsFolder
from benchmarks.running.command import notes, one_line, stopping
from benchmarks.running.jobs import Job, MakeTask, Outcome, run_job
from benchmarks.running.progress import LineReporter
from benchmarks.settings.run import RunSettings
from tasks.task import Task

FORSAKEN = 1
ASKED_EVERY = 0.5  # seconds

Stamp = tuple[int, int] | None
"""Changes when a file is replaced; None: there is none."""


@dataclass(frozen=True)
class Assigned:
    """A job of a run, and its record file as it was when the run began."""

    settings: RunSettings
    job: Job
    before: Stamp

    @classmethod
    def now(cls, settings: RunSettings, job: Job) -> Assigned:
        """The job, and its record file as it is."""
        return cls(settings, job, stamp(record_file(settings, job)))

    def recorded(self, home: Path = Path()) -> bool:
        """Whether it has been recorded since; `home`: the directory that paths are relative to."""
        now = stamp(home / record_file(self.settings, self.job))
        return now is not None and now != self.before


@dataclass(frozen=True)
class Work:
    """A chain of jobs for one worker, on whatever machine; a call does them.

    Attributes:
        jobs: of one task; of one run or of several.
        make_task: makes the task; pickled, so that two can be compared.
        home: the directory that paths are relative to.
        wanted: a file that is there as long as the work is wanted.
    """

    jobs: tuple[Assigned, ...]
    make_task: bytes
    home: Path
    wanted: Path

    @classmethod
    def here(cls, jobs: Sequence[Assigned], make_task: MakeTask, wanted: Path) -> Work:
        """Work whose paths are relative to the directory that this process is in."""
        return cls(tuple(jobs), pickle.dumps(make_task), Path.cwd(), wanted)

    def recorded(self) -> list[Job]:
        """The jobs that have been recorded since they were assigned."""
        return [one.job for one in self.jobs if one.recorded(self.home)]

    def without(self, done: Sequence[Job]) -> Work:
        """The work that is left after some of its jobs."""
        return replace(self, jobs=tuple(one for one in self.jobs if one.job not in done))

    def __call__(self) -> list[Outcome]:
        """How each job ended that was begun. Each writes its own record, whatever becomes of the run."""
        for place in (self.home, self.wanted.parent):
            if not place.is_dir():
                where = f"the machine {platform.node()} does not see {place}"
                return self._failed(f"{where}; start the run in, and with results in, a folder that all machines share")
        os.chdir(self.home)
        parent, wanted = os.getppid(), Wanted(self.wanted)
        with stopping() as asked:
            outcomes = self._do(lambda: asked() or os.getppid() != parent or not wanted())
        if os.getppid() != parent:  # the process that started this one was killed
            os._exit(FORSAKEN)
        return outcomes

    def _do(self, stop: Callable[[], bool]) -> list[Outcome]:
        if stop():
            return []
        try:
            with notes(shown=False):  # the run that started this has told them
                task = _task_of(self.make_task)
                for one in self.jobs:
                    task.check_run(one.settings.precision, 1)
        except Exception as error:  # a user's data, on another machine
            return self._failed(one_line(error))
        outcomes = []
        for one in self.jobs:
            outcomes.append(run_job(one.settings, one.job, task, LineReporter(Console()), stop, recorded=one.recorded))
            if outcomes[-1].status == "interrupted":
                break
        return outcomes

    def _failed(self, why: str) -> list[Outcome]:
        return [Outcome(one.job, "failed", f"failed: {why}") for one in self.jobs]


class Wanted:
    """Asks now and then whether a file is still there."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._there, self._asked = True, -ASKED_EVERY

    def __call__(self) -> bool:
        if self._there and time.monotonic() - self._asked >= ASKED_EVERY:
            self._asked = time.monotonic()
            with suppress(OSError):  # a network file system that does not answer now
                self._there = self._path.exists()
        return self._there


def record_file(settings: RunSettings, job: Job) -> Path:
    """Where the record of a job is written."""
    return ResultsFolder(settings.folder).records / f"{job.name}.json"


def stamp(path: Path) -> Stamp:
    """Of the file as it is now."""
    try:
        about = path.stat()
    except FileNotFoundError:
        return None
    return about.st_ino, about.st_mtime_ns


@lru_cache(maxsize=1)
def _task_of(make_task: bytes) -> Task:
    """The task, made once for all the work of a process."""
    task: Task = pickle.loads(make_task)()
    return task
