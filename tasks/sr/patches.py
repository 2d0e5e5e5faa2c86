"""An image as overlapping patches, and back without seams."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

CORE = 48  # low-resolution pixels of a side that no other patch has, about
MARGIN = 3  # further ones on each inner side, which the neighbours have, too
FADE = 2  # of the overlap, in its middle, where one patch goes over into the next


@dataclass(frozen=True)
class Tiling:
    """Patches of equal size that cover an image, evenly spread.

    Inside the image each patch counts but for the rim that its own zero padding reaches: the outer `margin - 1` pixels
    have no weight. With a margin above the receptive field of a network the blended outputs are those of the image.

    Attributes:
        size: height and width of the image; side: of a patch, in low-resolution pixels.
        tops, lefts: where rows and columns of patches begin.
    """

    size: tuple[int, int]
    side: tuple[int, int]
    tops: tuple[int, ...]
    lefts: tuple[int, ...]
    margin: int

    @classmethod
    def of(cls, height: int, width: int, *, core: int = CORE, margin: int = MARGIN) -> Tiling:
        """The patches of an image.

        Raises:
            ValueError: core or margin are not at least 1.
        """
        if core < 1 or margin < 1:
            raise ValueError(f"patches need a core and a margin of at least 1 pixel; got {core} and {margin}")
        (rows, high), (columns, wide) = (_spread(length, core, margin) for length in (height, width))
        return cls((height, width), (high, wide), rows, columns, margin)

    def __len__(self) -> int:
        return len(self.tops) * len(self.lefts)

    def cut(self, image: Tensor, scale: int = 1) -> Tensor:
        """[1, C, scale * H, scale * W] -> [patches, C, scale * h, scale * w], row by row."""
        high, wide = (scale * side for side in self.side)
        return torch.cat(
            [
                image[:, :, scale * top : scale * top + high, scale * left : scale * left + wide]
                for top in self.tops
                for left in self.lefts
            ]
        )

    def blend(self, patches: Tensor, scale: int) -> Tensor:
        """[patches, C, scale * h, scale * w] -> [1, C, scale * H, scale * W]."""
        total = patches.new_zeros(1, patches.shape[1], *(scale * length for length in self.size))
        weights = total.new_zeros(1, 1, *total.shape[2:])
        number = 0
        for top in self.tops:
            down = _weights(top, self.side[0], self.size[0], self.margin, scale).to(patches)
            for left in self.lefts:
                across = _weights(left, self.side[1], self.size[1], self.margin, scale).to(patches)
                own = down[:, None] * across[None, :]
                place = (
                    ...,
                    slice(scale * top, scale * top + len(down)),
                    slice(scale * left, scale * left + len(across)),
                )
                total[place] += own * patches[number]
                weights[place] += own
                number += 1
        return total / weights


def _spread(length: int, core: int, margin: int) -> tuple[tuple[int, ...], int]:
    """Where the patches of an axis begin, and their side."""
    inner = length - 2 * margin
    count = max(1, math.ceil(inner / core))
    if count == 1:
        return (0,), length
    side = math.ceil(inner / count) + 2 * margin
    return tuple(round(i * (length - side) / (count - 1)) for i in range(count)), side


def _weights(start: int, side: int, length: int, margin: int, scale: int) -> Tensor:
    """Of the pixels of a patch along an axis: 0 in the rim, rising in the middle of the overlap; 1 at the image's."""
    places = (torch.arange(scale * side) + 0.5) / scale
    weights = torch.ones(scale * side)
    rim = margin - FADE / 2
    if start > 0:
        weights = weights * ((places - rim) / FADE).clamp(0, 1)
    if start + side < length:
        weights = weights * ((side - places - rim) / FADE).clamp(0, 1)
    return weights
