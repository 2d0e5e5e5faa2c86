"""Workers that are jobs of a Slurm cluster, by submitit, or processes of this machine that stand for them."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import submitit

from benchmarks.records.folder import ResultsFolder
from benchmarks.running.jobs import Outcome
from benchmarks.running.launchers.supervising import Ended, WorkerDied
from benchmarks.running.launchers.work import Work
from benchmarks.settings.launcher import Slurm
from benchmarks.settings.run import RunSettings

ASKED_EVERY = 30.0  # seconds between two calls of sacct; submitit by itself would let ten minutes pass


class OnSlurm:
    """An array of jobs, each a chain; what dies is queued again by itself."""

    def __init__(self, launcher: Slurm, settings: RunSettings) -> None:
        self._launcher = launcher
        self._logs = ResultsFolder(settings.folder).cache.absolute() / "slurm"
        self._running: dict[Any, Work] = {}
        self._asked = time.monotonic()
        self._executor = submitit.AutoExecutor(
            self._logs, cluster=launcher.cluster, slurm_max_num_timeout=launcher.retries
        )
        self._executor.update_parameters(**_parameters(launcher, settings))

    @property
    def room(self) -> int:
        """On Slurm the whole array is queued, and Slurm keeps to `launcher.jobs` of it at once."""
        return 10_000 if self._launcher.cluster == "slurm" else self._launcher.jobs - len(self._running)

    def about(self) -> str:
        where = "Slurm" if self._launcher.cluster == "slurm" else "this machine as on Slurm"
        return f"on {where}, {self._launcher.jobs} at once; what they print is in {self._logs}"

    def start(self, work: Sequence[Work]) -> None:
        with _ctrl_c_for_this_process_alone():
            jobs = self._executor.map_array(Again(), work)
        self._running.update(zip(jobs, work, strict=True))

    def ended(self, seconds: float) -> list[Ended]:
        until = time.monotonic() + seconds
        if time.monotonic() - self._asked > ASKED_EVERY:
            self._look()
        while not (done := [job for job in self._running if job.done()]) and time.monotonic() < until:
            time.sleep(0.05)
        return [(self._running.pop(job), _result(job)) for job in done]

    def _look(self) -> None:
        """Ask Slurm for the state of all jobs; a job that ends well shows by its result, at once."""
        self._asked = time.monotonic()
        next(iter(self._running)).get_info(mode="force")

    def dismiss(self) -> int:
        if self._running:
            self._look()
        waiting = [job for job in self._running if job.state == "PENDING"]
        for job in waiting:
            job.cancel(check=False)
            del self._running[job]
        return len(waiting)

    def close(self) -> None:
        for job in self._running:
            job.cancel(check=False)


class Again:
    """Does work, and lets submitit start a job again that was pre-empted or ran out of time."""

    def __call__(self, work: Work) -> list[Outcome]:
        return work()

    def checkpoint(self, work: Work) -> Any:
        return submitit.helpers.DelayedSubmission(self, work)


def _parameters(launcher: Slurm, settings: RunSettings) -> dict[str, Any]:
    common = {
        "name": f"slimlib-{settings.task}-{settings.ablation}",
        "timeout_min": launcher.timeout_min,
        "cpus_per_task": launcher.cpus_per_job,
        "gpus_per_node": launcher.gpus_per_job,
        "stderr_to_stdout": True,
    }
    own = {
        "mem_gb": launcher.mem_gb,
        "slurm_partition": launcher.partition,
        "slurm_array_parallelism": launcher.jobs,
        "slurm_additional_parameters": {"requeue": True, **launcher.options},
    }
    return common if launcher.cluster == "local" else common | {k: v for k, v in own.items() if v is not None}


def _result(job: Any) -> list[Outcome] | WorkerDied:
    try:
        outcomes: list[Outcome] = job.result()
    except submitit.core.utils.UncompletedJobError:
        return WorkerDied(f"job {job.job_id}, {job.state}")
    return outcomes


@contextmanager
def _ctrl_c_for_this_process_alone() -> Iterator[None]:
    """Processes started in the block leave Ctrl-C to this one, which then asks them to stop."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
