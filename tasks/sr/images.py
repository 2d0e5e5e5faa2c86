"""One image file, of any kind that people keep, as a uint8 tensor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm"})

_UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


def read_image(path: Path) -> Tensor:
    """Decode an image.

    Palettes are looked up, transparency is dropped, 16 bits become 8 (rounded).

    Returns:
        [3, H, W], or [1, H, W] for a grey image; uint8.

    Raises:
        ValueError: the file is no image, is damaged, or holds floating-point pixels.
    """
    try:
        with Image.open(path) as image:
            return _to_tensor(image)
    except _UNREADABLE as error:
        raise ValueError(f"cannot read the image {path}: {error}") from error


def image_size(path: Path) -> tuple[int, int]:
    """(height, width) from the file's header.

    Raises:
        ValueError: the file is no image.
    """
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except _UNREADABLE as error:
        raise ValueError(f"cannot read the image {path}: {error}") from error


def as_rgb(image: Tensor) -> Tensor:
    """A grey image [1, H, W] with its channel three times; others unchanged."""
    return image.expand(3, -1, -1) if image.shape[0] == 1 else image


def _to_tensor(image: Image.Image) -> Tensor:
    mode = image.mode
    if mode == "F":
        raise ValueError("floating-point pixels; save it with 8 or 16 bits a channel")
    if mode == "I" or mode.startswith("I;16"):
        return _eight_bits(np.asarray(image))
    if "transparency" in image.info:
        image = image.convert("RGBA")  # straight to RGB, a palette with transparency would warn
    grey = mode in ("1", "L", "LA", "La")
    pixels = np.array(image.convert("L" if grey else "RGB"))
    tensor = torch.from_numpy(pixels)
    return tensor[None] if grey else tensor.permute(2, 0, 1).contiguous()


def _eight_bits(pixels: np.ndarray) -> Tensor:
    """16-bit grey pixels, [H, W], as 8 bits: 65535 becomes 255."""
    wide = pixels.astype(np.int64)
    if wide.min() < 0 or wide.max() > 65535:
        raise ValueError(f"pixels from {wide.min()} to {wide.max()}; expected 8 or 16 bits without sign")
    return torch.from_numpy(((wide + 128) // 257).astype(np.uint8))[None]
