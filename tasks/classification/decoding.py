"""One image file, of any kind that people keep, as RGB."""

from __future__ import annotations

import zipfile
import zlib
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm"})

UNREADABLE = (
    OSError,
    SyntaxError,  # Pillow's, of a broken PNG
    ValueError,
    RuntimeError,  # zipfile's, of a member with a password
    EOFError,
    zlib.error,
    zipfile.BadZipFile,
    Image.DecompressionBombError,
)
"""What opening or decoding a damaged image may raise."""


def decode(file: BinaryIO, at_least: int = 0) -> Tensor:
    """Decode an image.

    Grey becomes three equal channels, palettes are looked up, CMYK is converted, transparency is dropped, 16 bits
    become 8 (rounded). A turn that the camera noted is not applied: the published results on ImageNet do not either.

    Args:
        file: opened for reading.
        at_least: a JPEG may be decoded at a half, a quarter or an eighth of its size, as long as its shorter side
            keeps this many pixels; 0: at its size.

    Returns:
        uint8 [3, H, W]. It is not contiguous: its memory is that of the decoder, [H, W, 3].

    Raises:
        One of `UNREADABLE`: the file is no image, is damaged, or holds floating-point pixels.
    """
    with Image.open(file) as image:
        if at_least:
            image.draft(None, (at_least, at_least))  # None: in the mode it has
        return torch.from_numpy(_rgb(image)).permute(2, 0, 1)


def image_size(file: BinaryIO) -> tuple[int, int]:
    """(height, width) from the header; raises as `decode` does."""
    with Image.open(file) as image:
        return image.height, image.width


def _rgb(image: Image.Image) -> np.ndarray:  # -> uint8 [H, W, 3]
    if image.mode == "F":
        raise ValueError("floating-point pixels; save it with 8 or 16 bits a channel")
    if image.mode == "I" or image.mode.startswith("I;16"):
        return np.repeat(_eight_bits(np.asarray(image))[..., None], 3, axis=2)
    if "transparency" in image.info:
        return np.array(image.convert("RGBA").convert("RGB"))  # straight to RGB, a palette would warn
    return np.array(image.convert("RGB"))


def _eight_bits(pixels: np.ndarray) -> np.ndarray:
    """16-bit grey pixels, [H, W], as 8 bits: 65535 becomes 255."""
    wide = pixels.astype(np.int64)
    if wide.min() < 0 or wide.max() > 65535:
        raise ValueError(f"pixels from {wide.min()} to {wide.max()}; expected 8 or 16 bits without sign")
    return ((wide + 128) // 257).astype(np.uint8)
