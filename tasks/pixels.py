"""The pixels of an image file of any kind that people keep, as 8 bits."""

from __future__ import annotations

import io
import struct
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PurePath

import numpy as np
from PIL import ExifTags, Image

SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".jp2", ".webp", ".avif", ".gif", ".bmp", ".tif", ".tiff"}
    | {".ppm", ".pgm", ".pbm", ".pnm"}
)

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

    Turned upright as its EXIF data say, which is how viewers show it. Palettes are looked up, CMYK is converted,
    transparency is dropped, 16 bits become 8: of grey pixels rounded, of colours the upper ones, which is all that
    Pillow reads. Of an animation the first picture.

    Returns:
        uint8 [H, W, 3], or [H, W] of a grey image.

    Raises:
        One of `UNREADABLE`: the image is damaged, or has floating-point pixels.
    """
    grey = image.mode in GREY or any(tile[3] == "LA;16B" for tile in getattr(image, "tile", ()))  # of mode RGBA
    image.load()
    orientation, mode = _orientation(image), image.mode
    if mode == "F":
        raise ValueError("floating-point pixels; save it with 8 or 16 bits a channel")
    if mode == "I" or mode.startswith("I;16"):
        return _upright(_eight_bits(np.asarray(image)), orientation)
    if "transparency" in image.info:
        image = image.convert("RGBA")  # straight to RGB, a palette with transparency would warn
    return _upright(np.array(image.convert("L" if grey else "RGB")), orientation)


def size(image: Image.Image) -> tuple[int, int]:
    """(height, width) of an upright image, from the header: a PNG that says only behind its pixels is not read."""
    late = image.format == "PNG" and "exif" not in image.info
    upright = image.format == "TIFF"  # Pillow has turned its size, and turns its pixels
    sideways = not late and not upright and _orientation(image) >= 5
    return (image.width, image.height) if sideways else (image.height, image.width)


def png(array: np.ndarray) -> bytes:
    """uint8 [H, W, 3] as a file."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(array)).save(buffer, "png", optimize=True)
    return buffer.getvalue()


def tell_left_out(folder: Path, names: Iterable[str | PurePath], links: int = 0) -> None:
    """Warn once of the files in a folder of images that are not read, by their endings, and of links not followed."""
    endings = Counter(PurePath(name).suffix.lower() or "without ending" for name in names)
    if endings:
        counted = ", ".join(f"{count} {ending}" for ending, count in sorted(endings.items()))
        kinds = ", ".join(sorted(suffix[1:] for suffix in SUFFIXES))
        warnings.warn(f"{folder}: files that are not read as images: {counted}; what is read: {kinds}", stacklevel=2)
    if links:
        warnings.warn(
            f"{folder}: links that are not followed, as they lead to folders or to nothing: {links}", stacklevel=2
        )


def _orientation(image: Image.Image) -> int:
    """1 to 8, as EXIF counts them: 1 is upright, from 5 on height and width are swapped."""
    try:
        found = image.getexif().get(ExifTags.Base.Orientation, 1)
    except (*UNREADABLE, struct.error, KeyError, TypeError, AttributeError):
        return 1  # damaged EXIF data do not damage the picture: viewers show it as it is stored
    return found if found in range(1, 9) else 1


def _upright(stored: np.ndarray, orientation: int) -> np.ndarray:
    """Undo a turn and a reflection. Source: EXIF 2.32 (CIPA DC-008), tag 274."""
    turned = stored.swapaxes(0, 1) if orientation >= 5 else stored
    rows = -1 if orientation in (3, 4, 7, 8) else 1
    columns = -1 if orientation in (2, 3, 6, 7) else 1
    return np.ascontiguousarray(turned[::rows, ::columns])


def _eight_bits(wide: np.ndarray) -> np.ndarray:
    """16-bit grey pixels as 8 bits: 65535 becomes 255."""
    wide = wide.astype(np.int64)
    if wide.min() < 0 or wide.max() > 65535:
        raise ValueError(f"pixels from {wide.min()} to {wide.max()}; expected 8 or 16 bits without sign")
    return ((wide + 128) // 257).astype(np.uint8)
