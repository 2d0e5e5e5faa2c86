"""Batches of images and targets, in this process or read ahead by workers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tasks.detection.images import DetectionImages, Item, mirrored

Wanted = Sequence[tuple[int, bool]]
"""Numbers of images, and whether each is mirrored."""


def load(images: DetectionImages, batches: Iterable[Wanted], *, workers: int = 0) -> Iterator[list[Item]]:
    """The items of each batch, in order.

    Raises:
        ValueError: an image cannot be read; names the file.
    """
    reader = _Reader(images)
    if not workers:
        for wanted in batches:
            yield [reader.item(*one) for one in wanted]
        return
    loader: DataLoader[Any] = DataLoader(reader, batch_size=None, sampler=batches, num_workers=workers)
    for found in loader:
        if isinstance(found, str):
            raise ValueError(found)
        yield found


class _Reader(Dataset[Any]):
    def __init__(self, images: DetectionImages) -> None:
        self.images, self.swapped = images, images.annotations.swapped()

    def item(self, index: int, mirror: bool) -> Item:
        item = self.images[index]
        return mirrored(item, self.swapped) if mirror else item

    def __getitem__(self, wanted: Wanted) -> list[Item] | str:
        try:
            return [self.item(*one) for one in wanted]
        except ValueError as error:
            return str(error)  # an exception of a worker would arrive with its whole trace


def to_float(image: Tensor) -> Tensor:
    """uint8 -> float32 in [0, 1]."""
    return image.float() / 255
