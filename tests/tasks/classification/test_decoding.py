"""Every kind of image that people keep becomes RGB, and others are refused."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from tasks.classification.encoded import decode, image_size
from tasks.pixels import UNREADABLE

COLOUR = np.random.default_rng(0).integers(0, 256, (10, 12, 3), dtype=np.uint8)
GREY = COLOUR[..., 0].copy()
ALPHA = np.full((10, 12, 1), 7, dtype=np.uint8)


def saved(pixels, kind="PNG", **options):
    file = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(file, kind, **options)
    file.seek(0)
    return file


def rgb(pixels):
    """[H, W] or [H, W, 3] -> [3, H, W]."""
    pixels = np.dstack([pixels] * 3) if pixels.ndim == 2 else pixels
    return torch.from_numpy(pixels).permute(2, 0, 1)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
@pytest.mark.parametrize("pixels", [COLOUR, GREY], ids=["colour", "grey"])
def test_colour_and_grey_become_rgb(kind, pixels):
    image = decode(saved(pixels, kind))
    assert image.dtype == torch.uint8
    assert torch.equal(image, rgb(pixels))


def test_transparency_is_dropped():
    assert torch.equal(decode(saved(np.dstack([COLOUR, ALPHA]))), rgb(COLOUR))
    assert torch.equal(decode(saved(np.dstack([GREY[..., None], ALPHA]))), rgb(GREY))


@pytest.mark.parametrize("options", [{}, {"transparency": bytes([9] * 256)}], ids=["opaque", "transparent"])
def test_a_palette_is_looked_up(options):
    colours = np.random.default_rng(1).integers(0, 256, (256, 3), dtype=np.uint8)
    image = Image.fromarray(GREY)
    image.putpalette(colours.tobytes())
    assert torch.equal(decode(saved(image, **options)), rgb(colours[GREY]))


def test_cmyk_is_converted():
    flat = np.full((16, 16, 3), (200, 60, 20), dtype=np.uint8)
    image = decode(saved(Image.fromarray(flat).convert("CMYK"), "JPEG", quality=95))
    assert (image.float() - rgb(flat).float()).abs().max() <= 3


def test_sixteen_bits_become_eight():
    pixels = np.array([[0, 128, 129, 257, 32768, 65535]], dtype=np.uint16)
    assert decode(saved(pixels)).tolist() == [[[0, 0, 1, 1, 128, 255]]] * 3


def test_one_bit():
    assert decode(saved(GREY > 127)).unique().tolist() == [0, 255]


def test_a_large_jpeg_may_be_decoded_smaller_but_not_below_what_is_needed():
    smooth = np.repeat(np.linspace(0, 255, 400, dtype=np.uint8)[None, :, None], 3, axis=2).repeat(300, axis=0)

    def size(at_least):
        return tuple(decode(saved(smooth, "JPEG"), at_least).shape[1:])

    assert size(0) == size(151) == (300, 400)
    assert size(150) == size(76) == (150, 200)
    assert size(75) == (75, 100)
    whole, half = decode(saved(smooth, "JPEG")), decode(saved(smooth, "JPEG"), 150)
    assert (half.float() - whole[:, ::2, ::2].float()).abs().max() <= 3


def test_other_kinds_are_decoded_whole():
    assert torch.equal(decode(saved(COLOUR), 2), rgb(COLOUR))


def test_the_size_is_height_and_width():
    assert image_size(saved(COLOUR)) == (10, 12)


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n broken", saved(COLOUR).getvalue()[:200]])
def test_damage_is_an_error(content):
    with pytest.raises(UNREADABLE):
        decode(io.BytesIO(content))


def test_floating_point_is_refused_with_advice():
    with pytest.raises(ValueError, match="floating-point pixels; save it with 8 or 16 bits"):
        decode(saved(COLOUR[..., 0].astype(np.float32), "TIFF"))
