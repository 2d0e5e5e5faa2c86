"""Batches of images and targets, in this process or read ahead by workers."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence

from torch import Tensor

from tasks.detection.images import DetectionImages, Item, mirrored
from tasks.training.workers import Reader, read_ahead

Wanted = Sequence[tuple[int, bool]]
"""Numbers of images, and whether each is mirrored."""


def load(images: DetectionImages, batches: Iterable[Wanted], *, workers: int = 0) -> Generator[list[Item], None, None]:
    """The items of each batch, in order.

    Raises:
        ValueError: an image cannot be read; names the file.
        RuntimeError: a worker was killed; the message names the file that it was at.
    """
    return read_ahead(_Reader(images), batches, workers)


class _Reader(Reader):
    def __init__(self, images: DetectionImages) -> None:
        self.images, self.swapped = images, images.annotations.swapped()

    def read(self, number: int, wanted: Wanted) -> list[Item]:
        found = []
        for index, mirror in wanted:
            self.note(index)
            found.append(mirrored(self.images[index], self.swapped) if mirror else self.images[index])
        self.note(-1)
        return found

    def named(self, index: int) -> str:
        return str(self.images.annotations.images[index]["file_name"])


def to_float(image: Tensor) -> Tensor:
    """uint8 -> float32 in [0, 1]."""
    return image.float() / 255
