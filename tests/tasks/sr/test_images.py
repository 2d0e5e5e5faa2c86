"""Every kind of image that people keep is read, and others are refused by name."""

import numpy as np
import pytest
import torch
from PIL import Image

from tasks.sr.images import as_rgb, image_size, read_image

COLOUR = np.random.default_rng(0).integers(0, 256, (10, 12, 3), dtype=np.uint8)
GREY = COLOUR[..., 0].copy()


def colour_tensor():
    return torch.from_numpy(COLOUR).permute(2, 0, 1)


def saved(tmp_path, image, name="image.png", **options):
    image.save(tmp_path / name, **options)
    return tmp_path / name


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif", "a.PNG", "a.ppm"])
def test_colour(tmp_path, name):
    assert torch.equal(read_image(saved(tmp_path, Image.fromarray(COLOUR), name)), colour_tensor())


def test_lossless_webp(tmp_path):
    assert torch.equal(read_image(saved(tmp_path, Image.fromarray(COLOUR), "a.webp", lossless=True)), colour_tensor())


def test_grey_keeps_one_channel(tmp_path):
    image = read_image(saved(tmp_path, Image.fromarray(GREY)))
    assert torch.equal(image[0], torch.from_numpy(GREY))
    assert as_rgb(image).shape == (3, 10, 12)


def test_transparency_is_dropped(tmp_path):
    alpha = np.full((10, 12, 1), 7, dtype=np.uint8)
    assert torch.equal(read_image(saved(tmp_path, Image.fromarray(np.dstack([COLOUR, alpha])))), colour_tensor())
    assert read_image(saved(tmp_path, Image.fromarray(np.dstack([GREY[..., None], alpha])))).shape == (1, 10, 12)


def test_a_palette_is_looked_up(tmp_path):
    colours = np.random.default_rng(1).integers(0, 256, (256, 3), dtype=np.uint8)
    image = Image.fromarray(GREY)
    image.putpalette(colours.tobytes())
    expected = torch.from_numpy(colours[GREY]).permute(2, 0, 1)
    assert torch.equal(read_image(saved(tmp_path, image)), expected)
    assert torch.equal(read_image(saved(tmp_path, image, "t.png", transparency=bytes([9] * 256))), expected)


def test_sixteen_bits_become_eight(tmp_path):
    pixels = np.array([[0, 128, 129, 257, 32768, 65535]], dtype=np.uint16)
    image = read_image(saved(tmp_path, Image.fromarray(pixels)))
    assert image.dtype == torch.uint8
    assert image.tolist() == [[[0, 0, 1, 1, 128, 255]]]


def test_one_bit(tmp_path):
    assert read_image(saved(tmp_path, Image.fromarray(GREY > 127))).unique().tolist() == [0, 255]


def test_cmyk_becomes_rgb(tmp_path):
    assert read_image(saved(tmp_path, Image.fromarray(COLOUR).convert("CMYK"), "a.jpg")).shape == (3, 10, 12)


def test_size_is_height_and_width(tmp_path):
    assert image_size(saved(tmp_path, Image.fromarray(COLOUR))) == (10, 12)


@pytest.mark.parametrize("content", [b"", b"no image at all", b"\x89PNG\r\n\x1a\n broken"])
def test_what_is_no_image_is_refused_by_name(tmp_path, content):
    path = tmp_path / "bad.png"
    path.write_bytes(content)
    for read in (read_image, image_size):
        with pytest.raises(ValueError, match=r"cannot read the image .*bad\.png") as error:
            read(path)
        assert "\n" not in str(error.value)


def test_a_truncated_image_is_refused_by_name(tmp_path):
    path = saved(tmp_path, Image.fromarray(COLOUR))
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(ValueError, match=r"cannot read the image .*image\.png"):
        read_image(path)


def test_floating_point_pixels_are_refused(tmp_path):
    path = saved(tmp_path, Image.fromarray(GREY.astype(np.float32)), "float.tif")
    with pytest.raises(ValueError, match=r"float\.tif: floating-point pixels"):
        read_image(path)


def test_pixels_beyond_sixteen_bits_are_refused(tmp_path):
    path = saved(tmp_path, Image.fromarray(np.array([[0, 70000]], dtype=np.int32)), "deep.tif")
    with pytest.raises(ValueError, match=r"deep\.tif: pixels from 0 to 70000"):
        read_image(path)
