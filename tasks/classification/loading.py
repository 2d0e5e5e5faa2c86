"""Batches of labelled images: in which order, and read where, in this process or in workers."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence

import torch
from torch import Tensor

from tasks.classification.cache import PixelCache
from tasks.classification.images import DecodedImages, LabelledImages, read_at_least, where
from tasks.training.workers import Reader, read_ahead

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
    if cache is not None:
        images = cache.decoded(images)
    if prepare is None and isinstance(images, DecodedImages):
        return _gathered(images, batches)
    return read_ahead(_Reader(images, prepare, at_least), batches, workers)


def _gathered(images: DecodedImages, batches: Iterable[Sequence[int]]) -> Generator[Batch, None, None]:
    for indices in batches:
        chosen = torch.as_tensor(indices, dtype=torch.int64)
        yield images.pixels.index_select(0, chosen), images.labels.index_select(0, chosen)


class _Reader(Reader):
    def __init__(self, images: LabelledImages, prepare: Prepare | None, at_least: int) -> None:
        self.images = images
        self.prepare = prepare
        self.at_least = at_least

    def read(self, number: int, indices: Sequence[int]) -> Batch:
        pixels: list[Tensor] = []
        for position, index in enumerate(indices):
            self.note(index)
            image = self._image(number, position, index)
            if pixels and image.shape != pixels[0].shape:
                first, second = (" x ".join(map(str, each.shape[:0:-1])) for each in (pixels[0], image))
                raise ValueError(
                    f"{where(self.images, index)} is {second}, but {where(self.images, indices[0])} is {first}; images "
                    "of different sizes need prepare=, which crops them to one"
                )
            pixels.append(image)
        self.note(-1)
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

    def named(self, index: int) -> str:
        return where(self.images, index)
