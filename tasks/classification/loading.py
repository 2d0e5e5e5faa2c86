"""Batches of labelled images: in which order, and read where, in this process or in workers."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from threading import Thread
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from tasks.classification.cache import PixelCache
from tasks.classification.images import DecodedImages, LabelledImages, read_at_least, where

Batch = tuple[Tensor, Tensor]
Prepare = Callable[[Tensor, int, int], Tensor]
"""(image uint8 [3, H, W], number of the batch, position in the batch) -> uint8 [3, S, S]."""


def load(
    images: LabelledImages,
    batches: Iterable[Sequence[int]],
    *,
    prepare: Prepare | None = None,
    workers: int = 0,
    cache: PixelCache | None = None,
    at_least: int = 0,
) -> Generator[Batch, None, None]:
    """Read batches of images, in the order of `batches`, whatever the number of workers.

    Decoded images without `prepare` are gathered in this process, in microseconds, and need no workers.

    Args:
        images: what the indices point into.
        batches: indices of each batch; may be endless, and is then read a few batches ahead.
        prepare: brings an image to its size, where it is decoded. A function of its arguments alone: what it draws
            at random must come from the numbers of batch and position, or it would depend on the workers.
        workers: processes that read and prepare; 0: this one. They live as long as the iterator.
        cache: of decoded images; filled by the first call for a set.
        at_least: the shorter side that images need; JPEGs of twice that size are decoded faster and smaller. 0: all
            as they are.

    Returns:
        uint8 [N, 3, S, S] and int64 [N] of each batch. Closing the iterator ends the workers.

    Raises:
        ValueError: an image cannot be read or prepared, or sizes differ within a batch; the message names the file.
        RuntimeError: a worker was killed; the message names the file that it was at.
    """
    if workers < 0:
        raise ValueError(f"workers={workers}: must be 0 (read in this process) or a number of processes")
    if cache is not None:
        images = cache.decoded(images)
    if prepare is None and isinstance(images, DecodedImages):
        return _gathered(images, batches)
    reader = _Reader(images, prepare, at_least)
    if workers == 0:
        return (reader.read(number, indices) for number, indices in enumerate(batches))
    return _from_workers(reader, batches, workers)


def _gathered(images: DecodedImages, batches: Iterable[Sequence[int]]) -> Generator[Batch, None, None]:
    for indices in batches:
        chosen = torch.as_tensor(indices, dtype=torch.int64)
        yield images.pixels.index_select(0, chosen), images.labels.index_select(0, chosen)


class _Reader(Dataset[Any]):
    """Makes one batch at a time; `reader[number, indices]` is what a worker does."""

    def __init__(self, images: LabelledImages, prepare: Prepare | None, at_least: int) -> None:
        self.images = images
        self.prepare = prepare
        self.at_least = at_least
        self.at_work: Tensor | None = None  # of each worker its process and the image that it is at, in shared memory

    def __getitem__(self, item: tuple[int, Sequence[int]]) -> Batch | _Failure:
        try:
            return self.read(*item)
        except ValueError as error:
            return _Failure(str(error))

    def read(self, number: int, indices: Sequence[int]) -> Batch:
        """The batch of that number, in whatever process this is."""
        pixels: list[Tensor] = []
        for position, index in enumerate(indices):
            self._note(index)
            image = self._image(number, position, index)
            if pixels and image.shape != pixels[0].shape:
                first, second = (" x ".join(map(str, each.shape[:0:-1])) for each in (pixels[0], image))
                raise ValueError(
                    f"{where(self.images, index)} is {second}, but {where(self.images, indices[0])} is {first}; images "
                    "of different sizes need prepare=, which crops them to one"
                )
            pixels.append(image)
        self._note(-1)
        return torch.stack(pixels), self.images.labels[torch.as_tensor(indices, dtype=torch.int64)]

    def _image(self, number: int, position: int, index: int) -> Tensor:
        image = read_at_least(self.images, index, self.at_least)
        if self.prepare is None:
            return image
        try:
            return self.prepare(image, number, position)
        except Exception as error:
            kind = type(error).__name__
            raise ValueError(f"cannot prepare the image {where(self.images, index)}: {kind}: {error}") from error

    def _note(self, index: int) -> None:
        worker = None if self.at_work is None else get_worker_info()
        if worker is not None and self.at_work is not None:
            self.at_work[worker.id, 0] = os.getpid()
            self.at_work[worker.id, 1] = index

    def at_death(self) -> list[str] | None:
        """What dead workers were at; None where all are alive."""
        assert self.at_work is not None
        time.sleep(0.1)  # the files of a process close, which is noticed, a moment before it is dead
        alive = {child.pid for child in multiprocessing.active_children()}
        dead = [index for process, index in self.at_work.tolist() if process not in {-1, *alive}]
        return [where(self.images, index) for index in dead if index >= 0] if dead else None


class _Failure:
    """What a worker hands back in place of a batch; an exception would come with its whole traceback as message."""

    def __init__(self, message: str) -> None:
        self.message = message


def _from_workers(reader: _Reader, batches: Iterable[Sequence[int]], workers: int) -> Generator[Batch, None, None]:
    reader.at_work = torch.full((workers, 2), -1).share_memory_()
    loader = DataLoader(
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
