"""Decoded images kept in memory, so that a batch of small images costs no decoding."""

from __future__ import annotations

import torch

from tasks.classification.images import DecodedImages, LabelledImages


class PixelCache:
    """Keeps whole sets as uint8, as long as they have room: those whose images are square and of one size.

    CIFAR-10's 50,000 training images take 0.154 GB and four seconds, once.

    Args:
        gigabytes: of memory, for all sets together; 0: nothing is kept.

    Raises:
        ValueError: `gigabytes` is below 0.
    """

    def __init__(self, gigabytes: float = 1.0) -> None:
        if not gigabytes >= 0:
            raise ValueError(f"the cache of decoded images must have at least 0 GB, for example 1.0; got {gigabytes}")
        self._room = gigabytes * 1e9  # bytes left
        self._kept: dict[int, tuple[LabelledImages, DecodedImages]] = {}  # by id, which the set itself keeps from reuse

    def decoded(self, images: LabelledImages) -> LabelledImages:
        """The set with its pixels in memory, decoded at the first call; where that cannot be, the set as it is.

        Raises:
            ValueError: an image cannot be read.
        """
        if isinstance(images, DecodedImages):
            return images
        if id(images) in self._kept:
            return self._kept[id(images)][1]
        side = images.side
        size = len(images) * 3 * (side or 0) ** 2
        if side is None or size > self._room:
            return images
        decoded = _decode_all(images, side)
        self._kept[id(images)] = images, decoded
        self._room -= size
        return decoded


def _decode_all(images: LabelledImages, side: int) -> DecodedImages:
    pixels = torch.empty(len(images), 3, side, side, dtype=torch.uint8)
    for index in range(len(images)):
        pixels[index] = images.read(index)
    return DecodedImages(images.name, images.classes, pixels, images.labels)
