"""One image file as RGB, at its size or at least at one that will do."""

from __future__ import annotations

from typing import BinaryIO

import torch
from PIL import Image
from torch import Tensor

from tasks.pixels import pixels, size


def decode(file: BinaryIO, at_least: int = 0) -> Tensor:
    """Decode an image (see `tasks.pixels`); grey becomes three equal channels.

    Args:
        file: opened for reading.
        at_least: a JPEG may be decoded at a half, a quarter or an eighth of its size, as long as its shorter side
            keeps this many pixels; 0: at its size.

    Returns:
        uint8 [3, H, W]. It is not contiguous: its memory is that of the decoder, [H, W, 3].

    Raises:
        One of `tasks.pixels.UNREADABLE`: the file is no image, is damaged, or holds floating-point pixels.
    """
    with Image.open(file) as image:
        if at_least:
            image.draft(None, (at_least, at_least))  # None: in the mode it has
        decoded = torch.from_numpy(pixels(image))
    return decoded.expand(3, -1, -1) if decoded.dim() == 2 else decoded.permute(2, 0, 1)


def image_size(file: BinaryIO) -> tuple[int, int]:
    """(height, width) from the header (see `tasks.pixels.size`); raises as `decode` does."""
    with Image.open(file) as image:
        return size(image)
