"""Run the jobs of a run where its launcher says, and tell how each ended."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import NoReturn

from rich.console import Console

from benchmarks.records.folder import ResultsFolder
from benchmarks.running.command import one_line, settings_want_traces, stopping
from benchmarks.running.jobs import Job, MakeTask, Outcome, chains, run_job
from benchmarks.running.launchers.supervising import Workers, supervise
from benchmarks.running.progress import Reporter, reporter_on
from benchmarks.settings.launcher import Joblib, Ray, Slurm
from benchmarks.settings.run import RunSettings
from tasks.task import Task
from tasks.training.ranks import ALONE, LostRank, Ranks, joined


def among_ranks(work: Callable[[Ranks], int]) -> int:
    """Do the work in each of the processes that torchrun has started, or in this one alone; returns the exit code.

    A rank that fails by itself says why and ends with code 1. The others, which wait for it, then fail too.
    """
    with joined() as ranks:
        try:
            return work(ranks)
        except (Exception, KeyboardInterrupt) as error:
            if ranks.count == 1:
                raise
            _end(ranks, error)


def _end(ranks: Ranks, error: BaseException) -> NoReturn:
    """End the process at once: at an ordinary exit torch.distributed may wait for the other ranks, or abort."""
    if settings_want_traces():
        traceback.print_exception(error)
    gone = "gloo/transport" in str(error)  # where the gradients are sent
    print(f"error: rank {ranks.index}: {one_line(LostRank() if gone else error)}", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


def launch(
    settings: RunSettings, jobs: Sequence[Job], make_task: MakeTask, console: Console, ranks: Ranks = ALONE
) -> Iterator[Outcome]:
    """Run the jobs; yields how each ended, as it ends. After an interruption no further job begins.

    Raises:
        ValueError: the task cannot be made, for example because its data are not there; it cannot be trained in the
            precision, or by so many ranks; or the launcher's cluster cannot be reached.
    """
    task = ranks.together(make_task)
    ranks.together(lambda: task.check_run(settings.precision, ranks.count))
    about = settings.tracker.about(ResultsFolder(settings.folder).cache)
    if about:
        console.print(about, markup=False, highlight=False, soft_wrap=True)
    workers = _workers(settings, len(chains(jobs)))
    if workers is None:
        yield from _one_after_another(settings, jobs, task, console, ranks)
    else:
        del task  # each worker makes its own
        yield from supervise(settings, jobs, make_task, workers, console)


def _workers(settings: RunSettings, chains: int) -> Callable[[], Workers] | None:
    """What makes the workers; None: this process does the work."""
    launcher = settings.launcher
    match launcher:
        case Joblib() if chains > 1:
            from benchmarks.running.launchers.in_processes import InProcesses

            return lambda: InProcesses(min(launcher.jobs, chains), threads=settings.threads)
        case Ray():
            from benchmarks.running.launchers.on_ray import OnRay

            return lambda: OnRay(launcher)
        case Slurm():
            from benchmarks.running.launchers.on_slurm import OnSlurm

            return lambda: OnSlurm(launcher, settings)
        case _:
            return None


def _one_after_another(
    settings: RunSettings, jobs: Sequence[Job], task: Task, console: Console, ranks: Ranks
) -> Iterator[Outcome]:
    torchrun = os.getppid()
    with stopping() as asked:

        def stop() -> bool:
            return asked() or (ranks.count > 1 and os.getppid() != torchrun)

        def go_on() -> bool:
            return ranks.any(stop()) == (False,)

        def run(job: Job, reporter: Reporter) -> Outcome:
            outcome = run_job(settings, job, task, reporter, stop, ranks)
            reporter.finish(str(outcome))
            return outcome

        with reporter_on(console) as reporter:
            for job in jobs:
                if go_on():
                    yield run(job, reporter)
