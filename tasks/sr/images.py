"""One image file as a uint8 tensor; grey images stay grey."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from tasks.pixels import UNREADABLE, pixels, size


def read_image(path: Path) -> Tensor:
    """Decode an image (see `tasks.pixels`).

    Returns:
        [3, H, W], or [1, H, W] for a grey image; uint8.

    Raises:
        ValueError: the file is no image, is damaged, or holds floating-point pixels.
    """
    try:
        with Image.open(path) as image:
            decoded = torch.from_numpy(pixels(image))
    except UNREADABLE as error:
        raise ValueError(f"cannot read the image {path}: {error}") from error
    return decoded[None] if decoded.dim() == 2 else decoded.permute(2, 0, 1).contiguous()


def image_size(path: Path) -> tuple[int, int]:
    """(height, width) from the file's header (see `tasks.pixels.size`).

    Raises:
        ValueError: the file is no image.
    """
    try:
        with Image.open(path) as image:
            return size(image)
    except UNREADABLE as error:
        raise ValueError(f"cannot read the image {path}: {error}") from error


def as_rgb(image: Tensor) -> Tensor:
    """A grey image [1, H, W] with its channel three times; others unchanged."""
    return image.expand(3, -1, -1) if image.shape[0] == 1 else image
