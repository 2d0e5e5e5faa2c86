"""One process at a time works on a job, though a worker that was given up for lost may still be at it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from tasks.training.run import Interrupted

ASKED_EVERY = 0.5  # seconds


@contextmanager
def held(path: Path, stop: Callable[[], bool], note: Callable[[str], None]) -> Iterator[None]:
    """Hold a job for this process; waits for another that has it.

    Args:
        path: of the lock.
        stop: asked while waiting.
        note: called when there is something to wait for.

    Raises:
        Interrupted: `stop` asked for it.
        OSError: the lock cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    told = False
    while not lock.is_locked:
        try:
            lock.acquire(timeout=0 if not told else ASKED_EVERY)
        except Timeout:
            if stop():
                raise Interrupted from None
            if not told:
                note("another process is still working on it; waiting")
            told = True
        except NotImplementedError:  # a file system without locks: each file is still whole, whoever writes last
            break
    try:
        yield
    finally:
        if lock.is_locked:
            path.unlink(missing_ok=True)  # who waits for it notices, and makes a new one
            lock.release()
