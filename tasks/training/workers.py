"""Batches that are read ahead by worker processes; training does not depend on how many there are."""

from __future__ import annotations

import multiprocessing
import os
import time
from abc import abstractmethod
from collections.abc import Generator, Iterable, Iterator
from threading import Thread
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info


class Reader(Dataset[Any]):
    """Makes one batch at a time; `reader[number, wanted]` is what a worker does."""

    at_work: Tensor | None = None  # of each worker its process and the image that it is at, in shared memory

    @abstractmethod
    def read(self, number: int, wanted: Any) -> Any:
        """The batch of that number, in whatever process this is; it notes what it is at."""

    @abstractmethod
    def named(self, index: int) -> str:
        """An image, for messages."""

    def note(self, index: int) -> None:
        """Say which image is read now, or -1."""
        worker = None if self.at_work is None else get_worker_info()
        if worker is not None and self.at_work is not None:
            self.at_work[worker.id, 0] = os.getpid()
            self.at_work[worker.id, 1] = index

    def __getitem__(self, item: tuple[int, Any]) -> Any:
        try:
            return self.read(*item)
        except ValueError as error:
            return _Failure(str(error))

    def at_death(self) -> list[str] | None:
        """What dead workers were at; None where all are alive."""
        assert self.at_work is not None
        time.sleep(0.1)  # the files of a process close, which is noticed, a moment before it is dead
        alive = {child.pid for child in multiprocessing.active_children()}
        dead = [index for process, index in self.at_work.tolist() if process not in {-1, *alive}]
        return [self.named(index) for index in dead if index >= 0] if dead else None


class _Failure:
    """What a worker hands back in place of a batch; an exception would come with its whole traceback as message."""

    def __init__(self, message: str) -> None:
        self.message = message


def read_ahead(reader: Reader, batches: Iterable[Any], workers: int) -> Generator[Any, None, None]:
    """The batches in order. Closing the iterator ends the workers; with none, this process reads.

    Raises:
        ValueError: `workers` is below 0, or what the reader raises.
        RuntimeError: a worker was killed; the message names the file that it was at.
    """
    if workers < 0:
        raise ValueError(f"workers={workers}: must be 0 (read in this process) or a number of processes")
    if workers == 0:
        return (reader.read(number, wanted) for number, wanted in enumerate(batches))
    return _from_workers(reader, batches, workers)


def _from_workers(reader: Reader, batches: Iterable[Any], workers: int) -> Generator[Any, None, None]:
    reader.at_work = torch.full((workers, 2), -1).share_memory_()
    loader: DataLoader[Any] = DataLoader(
        reader,
        batch_size=None,
        sampler=enumerate(batches),
        num_workers=workers,
        collate_fn=_unchanged,
        generator=torch.Generator(),  # else it would draw from the global one, and training would depend on workers
    )
    made = _started(loader)
    killed = None
    try:
        while killed is None:
            try:
                batch = next(made)
            except StopIteration:
                return
            except (RuntimeError, OSError, EOFError):  # the last two if it was killed while it handed over a batch
                killed = reader.at_death()
                if killed is None:
                    raise
            else:
                if isinstance(batch, _Failure):
                    raise ValueError(batch.message)
                yield batch
    finally:
        del made  # ends the workers
    raise RuntimeError(
        f"a worker process was killed while it read {', '.join(killed) or 'nothing'}; memory may have run out, or the "
        "file may crash the decoder: workers=0 reads in this process"
    )


def _started(loader: DataLoader[Any]) -> Iterator[Any]:
    """Start the workers.

    From a thread, because in the main one torch would also install a signal handler that raises when a worker dies,
    wherever the program is then: in an optimizer, say, and not in the `next` above, which knows the file.
    """
    outcome: list[Iterator[Any] | BaseException] = []

    def start() -> None:
        try:
            outcome.append(iter(loader))
        except BaseException as error:  # for example of `batches`
            outcome.append(error)

    thread = Thread(target=start)
    thread.start()
    thread.join()
    made = outcome.pop()
    if isinstance(made, BaseException):
        raise made
    return made


def _unchanged(batch: Any) -> Any:
    return batch
