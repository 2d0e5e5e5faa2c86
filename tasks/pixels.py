"""The pixels of an image file of any kind that people keep, as 8 bits."""

from __future__ import annotations

import zipfile
import zlib

import numpy as np
from PIL import Image

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

GREY = ("1", "L", "LA", "La")


def pixels(image: Image.Image) -> np.ndarray:
    """Decode an image that Pillow has opened.

    Palettes are looked up, CMYK is converted, transparency is dropped, 16 bits become 8 (rounded).

    Returns:
        uint8 [H, W, 3], or [H, W] of a grey image.

    Raises:
        One of `UNREADABLE`: the image is damaged, or has floating-point pixels.
    """
    mode = image.mode
    if mode == "F":
        raise ValueError("floating-point pixels; save it with 8 or 16 bits a channel")
    if mode == "I" or mode.startswith("I;16"):
        return _eight_bits(np.asarray(image))
    if "transparency" in image.info:
        image = image.convert("RGBA")  # straight to RGB, a palette with transparency would warn
    return np.array(image.convert("L" if mode in GREY else "RGB"))


def _eight_bits(wide: np.ndarray) -> np.ndarray:
    """16-bit grey pixels as 8 bits: 65535 becomes 255."""
    wide = wide.astype(np.int64)
    if wide.min() < 0 or wide.max() > 65535:
        raise ValueError(f"pixels from {wide.min()} to {wide.max()}; expected 8 or 16 bits without sign")
    return ((wide + 128) // 257).astype(np.uint8)
