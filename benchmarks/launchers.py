"""Where jobs run: one after another in this process, or in parallel processes of this machine."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from rich.console import Console

from benchmarks.jobs import Job, MakeTask, Outcome, chains, one_line, run_job
from benchmarks.progress import LineReporter, LiveReporter, Reporter
from benchmarks.settings import RunSettings
from tasks.task import SupervisedTask

FORSAKEN = 1


@contextmanager
def stopping() -> Iterator[Callable[[], bool]]:
    """Within the block Ctrl-C and SIGTERM only set what the yielded function tells; a second Ctrl-C ends at once."""
    asked = False

    def ask(number: int, _frame: FrameType | None) -> None:
        nonlocal asked
        if asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked = True

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def launch(settings: RunSettings, jobs: Sequence[Job], make_task: MakeTask, console: Console) -> Iterator[Outcome]:
    """Run the jobs; yields how each ended, as it ends. After an interruption no further job begins.

    Raises:
        ValueError: the task cannot be made, for example because its data are not there.
    """
    task = make_task()
    if settings.launcher == "serial" or len(jobs) < 2:
        yield from _one_after_another(settings, jobs, task, console)
    else:
        yield from _in_parallel(settings, jobs, make_task, console)


def _one_after_another(
    settings: RunSettings, jobs: Sequence[Job], task: SupervisedTask, console: Console
) -> Iterator[Outcome]:
    with stopping() as stop:

        def run(job: Job, reporter: Reporter) -> Outcome:
            outcome = run_job(settings, job, task, reporter, stop)
            reporter.finish(str(outcome))
            return outcome

        if console.is_terminal:
            with LiveReporter(console) as live:
                for job in jobs:
                    if not stop():
                        yield run(job, live)
        else:
            lines = LineReporter(console)
            for job in jobs:
                if not stop():
                    yield run(job, lines)


def _in_parallel(
    settings: RunSettings, jobs: Sequence[Job], make_task: MakeTask, console: Console
) -> Iterator[Outcome]:
    from joblib import Parallel, delayed  # type: ignore[import-untyped]

    left = {(job.hash, job.seed): job for job in jobs}
    console.print(f"{len(jobs)} jobs in {settings.jobs} processes", highlight=False)
    try:
        with stopping() as stop:
            parallel = Parallel(
                n_jobs=settings.jobs, return_as="generator_unordered", pre_dispatch=settings.jobs, batch_size=1
            )
            work = (delayed(_run_in_worker)(settings, chain, make_task) for chain in chains(jobs) if not stop())
            for outcomes in parallel(work):
                for outcome in outcomes:
                    del left[outcome.job.hash, outcome.job.seed]
                    console.print(str(outcome), markup=False, highlight=False, soft_wrap=True)
                    yield outcome
    except Exception as error:  # a worker died: its job and those not begun have no outcome yet
        for job in left.values():
            yield Outcome(
                job, "failed", f"failed: {one_line(error)[:200]}; the same command goes on from its checkpoint"
            )


def _run_in_worker(settings: RunSettings, jobs: Sequence[Job], make_task: MakeTask) -> list[Outcome]:
    run = os.getppid()
    outcomes = []
    with stopping() as stop:
        try:
            task = make_task()
        except Exception as error:
            return [Outcome(job, "failed", f"failed: {one_line(error)}") for job in jobs]
        for job in jobs:
            outcomes.append(
                run_job(settings, job, task, LineReporter(Console()), lambda: stop() or os.getppid() != run)
            )
            if os.getppid() != run:  # the run was killed, and nobody waits for this process
                os._exit(FORSAKEN)
            if outcomes[-1].status == "interrupted":
                break
    return outcomes
