"""Our bicubic resizing is MATLAB's."""

import hypothesis.strategies as st
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings

from tasks.sr.images import read_image
from tasks.sr.resize import bicubic, downscale, modcrop, upscale

scales = st.sampled_from((2, 3, 4))


def random_image(height, width, seed, darkest=0, brightest=255):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(darkest, brightest + 1, (3, height, width), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("name", ["Set5", "Set14"])
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_downscaling_equals_the_reference_images_bit_for_bit(benchmark_root, name, scale):
    references = sorted((benchmark_root / "lr_reference" / name / f"x{scale}").glob("*_LR.png"))
    assert references
    for path in references:
        high = modcrop(read_image(benchmark_root / "test" / name / f"{path.name[:7]}.png"), scale)
        assert torch.equal(downscale(high, scale), read_image(path)), path.name


@given(scales, st.integers(3, 20), st.integers(3, 20), st.integers(0, 255))
@settings(max_examples=30, deadline=None)
def test_a_plain_colour_stays(scale, height, width, value):
    image = torch.full((3, height * scale, width * scale), value, dtype=torch.uint8)
    small = downscale(image, scale)
    assert small.shape == (3, height, width)
    assert torch.equal(upscale(small, scale), image)


@given(scales, st.integers(8, 24), st.integers(8, 24), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_inside_it_is_the_antialiased_bicubic_of_torch(scale, height, width, seed):
    image = random_image(height * scale, width * scale, seed, 64, 192)  # nothing is clamped between the axes
    expected = F.interpolate(image[None].double(), size=(height, width), mode="bicubic", antialias=True)[0]
    inside = (downscale(image, scale).double() - expected)[:, 3:-3, 3:-3]
    assert inside.abs().max() <= 1.25  # rounded twice; the taps' magnitudes add up to less than 1.5


@given(st.sampled_from((2, 4)), st.integers(2, 24), st.integers(2, 24), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_mirrored_images_give_mirrored_results(scale, height, width, seed):
    image = random_image(height * scale, width * scale, seed)
    assert torch.equal(downscale(image.flip(1, 2), scale), downscale(image, scale).flip(1, 2))
    assert torch.equal(upscale(image.flip(1, 2), scale), upscale(image, scale).flip(1, 2))


def test_rows_come_first_and_are_rounded():
    image = random_image(12, 9, 0)
    assert torch.equal(bicubic(bicubic(image, (6, 9)), (6, 3)), bicubic(image, (6, 3)))


@pytest.mark.parametrize(("scale", "expected"), [(2, (12, 16)), (3, (12, 15)), (4, (12, 16))])
def test_modcrop_drops_the_last_rows_and_columns(scale, expected):
    image = random_image(13, 17, 0)
    cropped = modcrop(image, scale)
    assert cropped.shape[1:] == expected
    assert torch.equal(cropped, image[:, : expected[0], : expected[1]])
