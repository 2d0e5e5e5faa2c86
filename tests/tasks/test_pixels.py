"""Images come out upright, whatever the file says of its turn, and no file of a folder is left out in silence."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps

from tasks.classification.encoded import decode
from tasks.classification.folders import list_folder
from tasks.pixels import pixels, size
from tasks.sr.folders import find_pairs
from tasks.sr.images import image_size, read_image

COLOUR = np.random.default_rng(0).integers(0, 256, (6, 10, 3), dtype=np.uint8)
WIDE = COLOUR[..., 0].astype(np.uint16) * 257


def saved(image: Image.Image, kind: str, orientation: int) -> io.BytesIO:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    buffer = io.BytesIO()
    image.save(buffer, kind, exif=exif, **({"lossless": True} if kind == "webp" else {}))
    return buffer


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "tiff"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_noted_turn_is_applied_as_pillow_does(orientation: int, kind: str) -> None:
    file = saved(Image.fromarray(COLOUR), kind, orientation)
    with Image.open(file) as image, Image.open(file) as other:
        assert size(image) == ((10, 6) if orientation >= 5 else (6, 10))
        expected = ImageOps.exif_transpose(other)
        assert np.array_equal(pixels(image), np.asarray(expected))


@pytest.mark.parametrize("picture", [COLOUR[..., 0], WIDE], ids=["grey", "16-bit"])
def test_grey_and_deep_pictures_are_turned_too(picture: np.ndarray) -> None:
    with Image.open(saved(Image.fromarray(picture), "png", 6)) as image:
        assert np.array_equal(pixels(image), np.rot90(COLOUR[..., 0], -1))


def deep_png(picture: np.ndarray) -> io.BytesIO:
    """uint16 [H, W, 2] or [H, W, 3] as a file, which Pillow cannot write."""
    height, width, channels = picture.shape
    kind = {2: 4, 3: 2}[channels]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in picture)
    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    chunks = {b"IHDR": header, b"IDAT": zlib.compress(rows), b"IEND": b""}
    parts = (
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks.items()
    )
    return io.BytesIO(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def test_deep_pictures_with_transparency_stay_grey() -> None:
    with Image.open(deep_png(np.stack([WIDE, WIDE // 2], 2))) as image:
        assert np.array_equal(pixels(image), COLOUR[..., 0])


def test_of_deep_colours_the_upper_bits_are_read() -> None:
    with Image.open(deep_png(COLOUR.astype(np.uint16) * 256 + 255)) as image:
        assert np.array_equal(pixels(image), COLOUR)


def test_a_jpeg_that_is_decoded_smaller_is_turned() -> None:
    scene = Image.fromarray(COLOUR).resize((400, 240), Image.Resampling.BICUBIC)
    whole = decode(saved(scene, "jpeg", 8))
    small = decode(saved(scene, "jpeg", 8), at_least=50)
    assert (whole.shape, small.shape) == ((3, 400, 240), (3, 100, 60))
    shrunk = Image.fromarray(whole.permute(1, 2, 0).numpy()).resize((60, 100), Image.Resampling.BOX)
    assert np.abs(small.permute(1, 2, 0).numpy().astype(int) - np.asarray(shrunk)).mean() < 3


@pytest.mark.parametrize("noted", [0, 9, 65535])
def test_a_turn_that_does_not_exist_is_none(noted: int) -> None:
    with Image.open(saved(Image.fromarray(COLOUR), "png", noted)) as image:
        assert np.array_equal(pixels(image), COLOUR)


def test_damaged_exif_data_do_not_damage_the_picture() -> None:
    sound = saved(Image.fromarray(COLOUR), "jpeg", 6).getvalue()
    start = sound.index(b"Exif\0\0") + 6
    rng = np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(sound)
        place = start + int(rng.integers(0, 23))
        damaged[place : place + 4] = rng.bytes(4)
        with warnings.catch_warnings(), Image.open(io.BytesIO(bytes(damaged))) as image:
            warnings.simplefilter("ignore")
            assert sorted(pixels(image).shape) == [3, 6, 10] and sorted(size(image)) == [6, 10]


def test_the_first_picture_of_an_animation_is_read(tmp_path: Path) -> None:
    first, second = (Image.new("RGB", (8, 4), colour) for colour in ("red", "blue"))
    first.save(tmp_path / "a.GIF", save_all=True, append_images=[second])
    (pair,) = find_pairs(tmp_path, 2, "train")
    assert read_image(pair.high).float().mean((1, 2)).tolist() == [255, 0, 0]
    assert image_size(pair.high) == (4, 8)


@pytest.mark.parametrize("find", [lambda root: find_pairs(root, 2, "train"), list_folder], ids=["sr", "classes"])
def test_files_that_are_not_read_are_counted_by_their_endings(find, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    for name in ("c/a.png", "c/b.HEIC", "c/d.heic", "c/deep/raw", "c/Thumbs.db", "c/.hidden"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    with pytest.warns(UserWarning, match=r"not read as images: 1 \.db, 2 \.heic, 1 without ending; what is read: avif"):
        find(tmp_path)


@pytest.mark.parametrize("find", [lambda root: find_pairs(root, 2, "train"), list_folder], ids=["sr", "classes"])
def test_a_folder_of_images_alone_is_read_without_a_word(find, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    for name in ("c/a.png", "c/b.gif", "c/.DS_Store"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        find(tmp_path)
