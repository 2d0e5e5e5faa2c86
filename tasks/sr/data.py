"""Images of a set in both resolutions, and random training patches from them."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from tasks.sr.folders import Pair
from tasks.sr.images import as_rgb, image_size, read_image
from tasks.sr.resize import downscale, modcrop


class ImageSet:
    """A named set of images; item i is (low, high) resolution, uint8 [C, h, w] and [C, scale * h, scale * w].

    Images are decoded when first asked for, and kept while they fit into `cache_gb`; further ones are
    decoded each time. Low-resolution images that the set does not ship are made here.

    Args:
        name: for tables and messages.
        pairs: the files.
        scale: high-resolution sides are cropped to multiples of it.
        smallest: least height and width, in high-resolution pixels. Smaller images are left out, with a
            warning that counts them.
        cache_gb: memory for decoded images, in GB.

    Raises:
        ValueError: no image, none large enough, one that cannot be read, or two resolutions that do not fit.
    """

    def __init__(
        self, name: str, pairs: Sequence[Pair], *, scale: int, smallest: int = 1, cache_gb: float = 1.0
    ) -> None:
        if not pairs:
            raise ValueError(f"the image set {name} is empty")
        self.name = name
        self.scale = scale
        self.pairs = _large_enough(name, pairs, smallest)
        for pair in self.pairs:
            if pair.low is not None:
                _check_factor(pair, image_size(pair.high), image_size(pair.low), scale)
        self._cache: dict[int, tuple[Tensor, Tensor]] = {}
        self._room = cache_gb * 1e9  # bytes left

    def __len__(self) -> int:
        return len(self.pairs)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if index in self._cache:
            return self._cache[index]
        item = self._load(self.pairs[index])
        size = sum(t.numel() for t in item)
        if size <= self._room:
            self._cache[index] = item
            self._room -= size
        return item

    def split(self, share: float) -> tuple[ImageSet, ImageSet]:
        """The set without a share of its images, at least one, evenly spread; and these.

        Raises:
            ValueError: nothing would be left.
        """
        count = max(1, round(share * len(self)))
        if count >= len(self):
            raise ValueError(f"{count} of the {len(self)} images of {self.name} cannot be held out: nothing is left")
        held = {i * len(self) // count for i in range(count)}
        parts = copy.copy(self), copy.copy(self)
        for part, inside in zip(parts, (False, True), strict=True):
            part.pairs = [pair for i, pair in enumerate(self.pairs) if (i in held) == inside]
            part._cache = {}
        return parts

    def _load(self, pair: Pair) -> tuple[Tensor, Tensor]:
        high = modcrop(read_image(pair.high), self.scale).contiguous()
        if pair.low is None:
            return downscale(high, self.scale), high
        low = read_image(pair.low)
        height, width = low.shape[1] * self.scale, low.shape[2] * self.scale
        _check_factor(pair, (high.shape[1], high.shape[2]), (low.shape[1], low.shape[2]), self.scale)
        return low, high[:, :height, :width]


def random_patches(images: ImageSet, *, patch: int, batch: int, seed: int, step: int) -> tuple[Tensor, Tensor]:
    """A training batch: a pure function of (seed, step), so that a resumed run needs no state of the data.

    Each patch comes from an image drawn uniformly, at a uniform place, flipped and rotated (8 ways).

    Args:
        patch: height and width in low-resolution pixels.
        batch: number of patches.

    Returns:
        Low resolution [batch, 3, patch, patch] and high [batch, 3, scale * patch, scale * patch], in [0, 1].
    """
    rng = np.random.default_rng((seed, step))
    chosen = rng.integers(len(images), size=batch)
    places = rng.random((batch, 2))
    turns = rng.integers(8, size=batch)
    scale = images.scale
    lows, highs = [], []
    for index, (down, right), turn in zip(chosen.tolist(), places.tolist(), turns.tolist(), strict=True):
        low, high = images[index]
        top = int(down * (low.shape[1] - patch + 1))
        left = int(right * (low.shape[2] - patch + 1))
        lows.append(_turned(_square(low, top, left, patch), turn))
        highs.append(_turned(_square(high, scale * top, scale * left, scale * patch), turn))
    return to_float(torch.stack(lows)), to_float(torch.stack(highs))


def to_float(images: Tensor) -> Tensor:
    """uint8 [N, C, H, W] -> float32 in [0, 1], channels_last."""
    return images.to(memory_format=torch.channels_last).float() / 255


def _square(image: Tensor, top: int, left: int, side: int) -> Tensor:
    return as_rgb(image[:, top : top + side, left : left + side])


def _turned(image: Tensor, turn: int) -> Tensor:
    """One of the 8 flips and rotations of a square image [C, S, S]."""
    flips = [axis for bit, axis in ((1, -1), (2, -2)) if turn & bit]
    image = image.flip(flips) if flips else image
    return image.transpose(-1, -2) if turn & 4 else image


def _check_factor(pair: Pair, high: tuple[int, int], low: tuple[int, int], scale: int) -> None:
    """Raise ValueError unless (height, width) of `low`, times the scale, is that of `high` but for a rim."""
    if not all(0 <= whole - scale * part < scale for whole, part in zip(high, low, strict=True)):
        raise ValueError(
            f"{pair.low} is {low[1]} x {low[0]} and {pair.high} is {high[1]} x {high[0]}: not a factor of {scale}"
        )


def _large_enough(name: str, pairs: Sequence[Pair], smallest: int) -> list[Pair]:
    sizes = [image_size(pair.high) for pair in pairs]
    small = [i for i, size in enumerate(sizes) if min(size) < smallest]
    if not small:
        return list(pairs)
    height, width = sizes[small[0]]
    message = (
        f"{len(small)} of {len(pairs)} images of {name} are smaller than {smallest} x {smallest}, "
        f"the first is {pairs[small[0]].high} ({width} x {height})"
    )
    if len(small) == len(pairs):
        raise ValueError(f"{message}; use larger images or a smaller task.patch")
    warnings.warn(f"{message}; they are left out", stacklevel=3)
    return [pair for i, pair in enumerate(pairs) if i not in set(small)]
