"""Workers that are processes of this machine, by joblib's process pools."""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait

from joblib.externals.loky import BrokenProcessPool, ProcessPoolExecutor  # type: ignore[import-untyped]

from benchmarks.running.command import one_line
from benchmarks.running.jobs import Outcome
from benchmarks.running.launchers.supervising import Ended, WorkerDied
from benchmarks.running.launchers.work import Work

EXIT_CODES = re.compile(r"exit codes of the workers are \{(.*?)\}")


class InProcesses:
    """A pool of one process for each slot, so that a process that dies takes no other with it.

    Args:
        count: how many.
        threads: that numerical libraries use in each.
    """

    def __init__(self, count: int, *, threads: int) -> None:
        self._count = count
        self._environment = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        self._idle = [self._pool() for _ in range(count)]
        self._busy: dict[Future[list[Outcome]], tuple[Work, ProcessPoolExecutor]] = {}

    @property
    def room(self) -> int:
        return len(self._idle)

    def about(self) -> str:
        return f"in {self._count} processes"

    def start(self, work: Sequence[Work]) -> None:
        for one in work:
            pool = self._idle.pop()
            try:
                future = pool.submit(one)
            except BrokenProcessPool:  # its process died while it waited
                pool.shutdown(wait=False, kill_workers=True)
                pool = self._pool()
                future = pool.submit(one)
            self._busy[future] = one, pool

    def ended(self, seconds: float) -> list[Ended]:
        return [self._end(future) for future in wait(self._busy, seconds, FIRST_COMPLETED).done]

    def _end(self, future: Future[list[Outcome]]) -> Ended:
        work, pool = self._busy.pop(future)
        error = future.exception()
        if error is None:
            self._idle.append(pool)
            return work, future.result()
        pool.shutdown(wait=False, kill_workers=True)
        self._idle.append(self._pool())
        codes = EXIT_CODES.search(str(error)) if isinstance(error, BrokenProcessPool) else None
        return work, WorkerDied(codes[1] if codes else one_line(error)[:200])

    def dismiss(self) -> int:
        return 0

    def close(self) -> None:
        for pool in [*self._idle, *(pool for _, pool in self._busy.values())]:
            pool.shutdown(wait=not self._busy, kill_workers=True)

    def _pool(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(max_workers=1, env=self._environment)  # without a time-out: it waits for work
