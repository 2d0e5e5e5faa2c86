"""PSNR and SSIM are those of the papers."""

import math

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from tasks.sr.images import read_image
from tasks.sr.metrics import PROTOCOLS, mean_scores, psnr, score, to_uint8
from tasks.sr.resize import downscale, modcrop, upscale

# PSNR of plain bicubic, Y, border = scale, as its authors published it for years.
PUBLISHED = {"Set5": (33.66, 30.39, 28.42), "Set14": (30.24, 27.55, 26.00), "B100": (29.56, 27.21, 25.96)}


def image_pair(height, width, seed, noise):
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (3, height, width), generator=generator)
    other = image + torch.randint(-noise, noise + 1, image.shape, generator=generator)
    return image.to(torch.uint8), other.clamp(0, 255).to(torch.uint8)


def reference(a, b, border):
    """scikit-image's PSNR and SSIM, as its documentation sets them to match Wang et al. 2004."""
    a, b = (x[border:-border, border:-border] for x in (a, b))
    ssim = structural_similarity(
        a, b, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255,
        channel_axis=2 if a.ndim == 3 else None,
    )  # fmt: skip
    return peak_signal_noise_ratio(a, b, data_range=255), ssim


def studio_luma(image):  # uint8 [3, H, W] -> float64 [H, W]
    r, g, b = image.double() / 255
    return (16 + 65.481 * r + 128.553 * g + 24.966 * b).numpy()


pairs = st.builds(image_pair, st.integers(30, 60), st.integers(30, 60), st.integers(0, 99), st.integers(1, 60))


@given(pairs, st.sampled_from((2, 3, 4)))
@settings(max_examples=25, deadline=None)
def test_y_protocol_equals_scikit_image_on_studio_range_luma(pair, scale):
    output, target = pair
    expected_psnr, expected_ssim = reference(studio_luma(output), studio_luma(target), scale)
    assert score(output, target, PROTOCOLS["y"], scale) == pytest.approx(
        {"psnr": expected_psnr, "ssim": expected_ssim}, abs=1e-5
    )


@given(pairs, st.sampled_from((2, 3, 4)))
@settings(max_examples=25, deadline=None)
def test_rgb_protocol_equals_scikit_image_with_six_more_border_pixels(pair, scale):
    output, target = pair
    if min(target.shape[1:]) < PROTOCOLS["rgb"].smallest_side(scale):
        return
    expected_psnr, expected_ssim = reference(
        output.permute(1, 2, 0).numpy(), target.permute(1, 2, 0).numpy(), scale + 6
    )
    assert score(output, target, PROTOCOLS["rgb"], scale) == pytest.approx(
        {"psnr": expected_psnr, "ssim": expected_ssim}, abs=1e-5
    )


def test_an_error_of_one_level_on_rgb_is_48_13_db():
    image = torch.full((3, 40, 40), 100, dtype=torch.uint8)
    assert score(image + 1, image, PROTOCOLS["rgb"], 2)["psnr"] == pytest.approx(20 * math.log10(255))


def test_equal_images_score_perfectly():
    image = image_pair(40, 40, 0, 1)[0]
    assert score(image, image, PROTOCOLS["y"], 2) == {"psnr": math.inf, "ssim": pytest.approx(1)}


@pytest.mark.parametrize("protocol", ["y", "rgb"])
def test_a_grey_image_is_scored_as_grey(protocol):
    output, target = (image[:1] for image in image_pair(50, 50, 0, 20))
    border = PROTOCOLS[protocol].border(2)
    expected_psnr, expected_ssim = reference(output[0].numpy(), target[0].numpy(), border)
    expected = pytest.approx({"psnr": expected_psnr, "ssim": expected_ssim}, abs=1e-5)
    assert score(output.expand(3, -1, -1), target, PROTOCOLS[protocol], 2) == expected
    assert score(output, target, PROTOCOLS[protocol], 2) == expected


@pytest.mark.parametrize("name", PROTOCOLS)
def test_the_smallest_image_that_can_be_scored_holds_one_window(name):
    protocol = PROTOCOLS[name]
    side = protocol.smallest_side(4)
    output, target = image_pair(side, side, 0, 9)
    assert math.isfinite(score(output, target, protocol, 4)["ssim"])


def test_outputs_are_clamped_and_rounded():
    assert to_uint8(torch.tensor([-0.5, 0.0, 0.499 / 255, 0.501 / 255, 2.0])).tolist() == [0, 0, 0, 1, 255]


def test_scores_are_averaged_over_images():
    assert mean_scores([{"psnr": 30.0}, {"psnr": 20.0}]) == {"psnr": 25.0}


def test_no_images_is_an_error_and_no_nan():
    with pytest.raises(ValueError, match="no images"):
        mean_scores([])


@pytest.mark.parametrize("name", PUBLISHED)
def test_bicubic_rows_are_the_published_ones(benchmark_root, name):
    for scale, published in zip((2, 3, 4), PUBLISHED[name], strict=True):
        values = []
        for path in sorted((benchmark_root / "test" / name).glob("*.png")):
            high = modcrop(read_image(path), scale)
            values.append(psnr(upscale(downscale(high, scale), scale), high, PROTOCOLS["y"], scale))
        assert sum(values) / len(values) == pytest.approx(published, abs=0.02)
