"""Where jobs run: one after another in this process, in parallel processes, or each among the ranks of torchrun."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from types import FrameType
from typing import NoReturn

from rich.console import Console

from benchmarks.jobs import AnyTask, Job, MakeTask, Outcome, chains, one_line, run_job, settings_want_traces
from benchmarks.progress import LineReporter, LiveReporter, Reporter
from benchmarks.settings import RunSettings
from tasks.ranks import ALONE, LostRank, Ranks, joined
from tasks.task import TrainsItself

FORSAKEN = 1


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


def launch(
    settings: RunSettings, jobs: Sequence[Job], make_task: MakeTask, console: Console, ranks: Ranks = ALONE
) -> Iterator[Outcome]:
    """Run the jobs; yields how each ended, as it ends. After an interruption no further job begins.

    Raises:
        ValueError: the task cannot be made, for example because its data are not there, or its batch cannot
            be shared out evenly among the ranks.
    """
    task = ranks.together(make_task)
    ranks.together(lambda: _check_batch(task, ranks))
    if isinstance(task, TrainsItself) and settings.precision != "float32":
        raise ValueError(f"precision={settings.precision} has no meaning for task={task.name}, which trains in float32")
    if settings.launcher == "serial" or len(jobs) < 2:
        yield from _one_after_another(settings, jobs, task, console, ranks)
    else:
        yield from _in_parallel(settings, jobs, make_task, console)


def _check_batch(task: AnyTask, ranks: Ranks) -> None:
    """Raise ValueError unless the shards of all ranks are equal: the mean of their losses is then that of the batch."""
    if ranks.count == 1:
        return
    if isinstance(task, TrainsItself):
        raise ValueError(f"task={task.name} trains each recipe in one process; use launcher=joblib, without torchrun")
    size = len(next(task.batches(range(1), 0))[0])
    if size % ranks.count:
        raise ValueError(
            f"a batch of {size} cannot be shared out evenly among {ranks.count} processes; "
            f"take a multiple of {ranks.count}, or another --nproc-per-node"
        )


def _one_after_another(
    settings: RunSettings, jobs: Sequence[Job], task: AnyTask, console: Console, ranks: Ranks
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

        if console.is_terminal:
            with LiveReporter(console) as live:
                for job in jobs:
                    if go_on():
                        yield run(job, live)
        else:
            lines = LineReporter(console)
            for job in jobs:
                if go_on():
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
            made = pickle.dumps(make_task)
            work = (delayed(_run_in_worker)(settings, chain, made) for chain in chains(jobs) if not stop())
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


@lru_cache(maxsize=1)
def _task_of(make_task: bytes) -> AnyTask:
    """The task, made once for all jobs of a worker; `make_task` is pickled, so that two can be compared."""
    task: AnyTask = pickle.loads(make_task)()
    return task


def _run_in_worker(settings: RunSettings, jobs: Sequence[Job], make_task: bytes) -> list[Outcome]:
    run = os.getppid()
    outcomes = []
    with stopping() as stop:
        try:
            task = _task_of(make_task)
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
