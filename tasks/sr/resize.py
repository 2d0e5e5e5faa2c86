"""Bicubic resizing as MATLAB's imresize does it: the low-resolution side of every SR benchmark.

Our own, because nothing installed matches: torch's antialiased bicubic treats the rim differently
and does not round between the axes, kornia's and OpenCV's differ everywhere. Equal, bit for bit,
to the reference images that were made with MATLAB (edges replicated, as in those).
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor


def bicubic(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize an image as MATLAB's `imresize(image, size, 'bicubic')` does on uint8.

    Args:
        image: [C, H, W], uint8.
        size: (H', W').

    Returns:
        [C, H', W'], uint8; rounded after each axis, rows first.
    """
    rows = _resize_axis(image, 1, size[0])
    return _resize_axis(rows, 2, size[1])


def downscale(image: Tensor, scale: int) -> Tensor:
    """The low-resolution input of a high-resolution image [C, H, W] whose sides are multiples of `scale`."""
    return bicubic(image, (image.shape[1] // scale, image.shape[2] // scale))


def upscale(image: Tensor, scale: int) -> Tensor:
    """The bicubic baseline of a low-resolution image [C, H, W]."""
    return bicubic(image, (image.shape[1] * scale, image.shape[2] * scale))


def modcrop(image: Tensor, scale: int) -> Tensor:
    """Drop the last rows and columns [C, H, W] so that both sides are multiples of `scale`."""
    height, width = image.shape[1:]
    return image[:, : height - height % scale, : width - width % scale]


def _resize_axis(image: Tensor, axis: int, length: int) -> Tensor:
    if length == image.shape[axis]:
        return image
    indices, weights = _taps(image.shape[axis], length)
    shape = [1, 1, 1]
    shape[axis] = length
    source = image.to(torch.float64)
    total = torch.zeros(1, dtype=torch.float64)
    for index, weight in zip(indices, weights, strict=True):
        total = total + source.index_select(axis, index) * weight.view(shape)
    return torch.floor(total + 0.5).clamp_(0, 255).to(torch.uint8)  # MATLAB rounds halves up


@lru_cache(maxsize=256)
def _taps(length_in: int, length_out: int) -> tuple[Tensor, Tensor]:
    """For each tap, the input index and the weight of every output position: both [taps, length_out].

    The kernel is stretched by the factor of a reduction (antialiasing); weights sum to 1; indices
    beyond the edge repeat it.
    """
    scale = length_out / length_in
    stretch = max(1.0, 1 / scale)
    centre = (torch.arange(length_out, dtype=torch.float64) + 0.5) / scale - 0.5
    taps = math.ceil(4 * stretch) + 2
    first = torch.floor(centre - 2 * stretch)
    index = first + torch.arange(taps, dtype=torch.float64).view(-1, 1)
    weight = _cubic((index - centre) / stretch)
    used = weight.ne(0).any(dim=1)
    index, weight = index[used], weight[used]
    return index.clamp(0, length_in - 1).long(), weight / weight.sum(dim=0)


def _cubic(x: Tensor) -> Tensor:
    """Source: Keys 1981, eq. 15 (a = -1/2)."""
    x = x.abs()
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x <= 1, near, torch.where(x < 2, far, torch.zeros_like(x)))
