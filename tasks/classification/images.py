"""Sets of labelled images: what every one of them offers, those in memory, and parts of others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor


class LabelledImages(Protocol):
    """A named set of images, each of one class. The properties may be plain attributes.

    A set of files may also have `read_at_least(index, side)`, which decodes a large JPEG only as large as needed
    (see `encoded.py`), and `where(index)`, which names an image in messages. Call the functions `read_at_least` and
    `where` of this module, which do without them.
    """

    @property
    def name(self) -> str:
        """As a caption says it, for example "CIFAR-10 (JPEG-recompressed copy)"."""
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """Names, in the order of the labels."""
        ...

    @property
    def labels(self) -> Tensor:
        """Of each image an index into `classes`: int64 [n]."""
        ...

    @property
    def side(self) -> int | None:
        """All images are side x side; None: they are not square, or not of one size."""
        ...

    def __len__(self) -> int: ...

    def read(self, index: int) -> Tensor:
        """One image, in RGB: uint8 [3, H, W].

        Raises:
            ValueError: it cannot be read; the message names the file.
        """
        ...


class DecodedImages:
    """Square images in memory.

    Args:
        name: for captions and messages.
        classes: their names.
        pixels: uint8 [n, 3, S, S].
        labels: int64 [n].
    """

    def __init__(self, name: str, classes: Sequence[str], pixels: Tensor, labels: Tensor) -> None:
        self.name = name
        self.classes = tuple(classes)
        self.pixels = pixels
        self.labels = labels
        self.side = pixels.shape[-1]

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> Tensor:
        """A view of the image, uint8 [3, S, S]."""
        return self.pixels[index]


class _Part:
    """Some images of another set."""

    def __init__(self, name: str, whole: LabelledImages, indices: Tensor) -> None:
        self.name = name
        self.classes = whole.classes
        self.labels = whole.labels[indices]
        self._whole = whole
        self._indices = indices

    @property
    def side(self) -> int | None:
        return self._whole.side

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> Tensor:
        return self._whole.read(int(self._indices[index]))

    def read_at_least(self, index: int, side: int) -> Tensor:
        return read_at_least(self._whole, int(self._indices[index]), side)

    def where(self, index: int) -> str:
        return where(self._whole, int(self._indices[index]))


def part_of(images: LabelledImages, indices: Tensor, *, name: str) -> LabelledImages:
    """The images at `indices`, int64 [m], as a set of its own. Of decoded images the pixels are copied."""
    if isinstance(images, DecodedImages):
        return DecodedImages(name, images.classes, images.pixels[indices], images.labels[indices])
    return _Part(name, images, indices)


def class_sizes(images: LabelledImages) -> list[int]:
    """How many images each class has."""
    return torch.bincount(images.labels, minlength=len(images.classes)).tolist()


def missing_classes(images: LabelledImages) -> list[str]:
    """The classes that no image is of."""
    return [name for name, size in zip(images.classes, class_sizes(images), strict=True) if not size]


def read_at_least(images: LabelledImages, index: int, side: int) -> Tensor:
    """An image whose shorter side has at least `side` pixels, or all it has: sets that cannot do so read it whole."""
    read = getattr(images, "read_at_least", None)
    return images.read(index) if read is None or side == 0 else read(index, side)


def where(images: LabelledImages, index: int) -> str:
    """The file of an image, or its number in the set, for messages."""
    name = getattr(images, "where", None)
    return f"image {index} of {images.name}" if name is None else name(index)
