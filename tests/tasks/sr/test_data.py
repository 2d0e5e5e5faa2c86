"""Training patches and the images they come from."""

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from PIL import Image

from tasks.sr.data import ImageSet, random_patches
from tasks.sr.folders import Pair
from tasks.sr.images import read_image
from tasks.sr.resize import downscale


@pytest.fixture
def blocky(tmp_path):
    """Images whose high resolution repeats each low-resolution pixel: patches that fit together show it."""

    def make(scale):
        pairs = []
        for i in range(3):
            low = np.random.default_rng(i).integers(0, 256, (20 + i, 30 - i, 3), dtype=np.uint8)
            pair = Pair(tmp_path / f"{i}.png", tmp_path / f"{i}x{scale}.png")
            Image.fromarray(low).save(pair.low)
            Image.fromarray(low.repeat(scale, axis=0).repeat(scale, axis=1)).save(pair.high)
            pairs.append(pair)
        return ImageSet("blocky", pairs, scale=scale)

    return make


@given(st.sampled_from((2, 3, 4)), st.integers(1, 20), st.integers(0, 2**40), st.integers(0, 2**40))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_low_and_high_patches_show_the_same_place_turned_alike(blocky, scale, patch, seed, step):
    low, high = random_patches(blocky(scale), patch=patch, batch=4, seed=seed, step=step)
    assert low.shape == (4, 3, patch, patch)
    assert torch.equal(high, low.repeat_interleave(scale, 2).repeat_interleave(scale, 3))
    assert low.dtype == torch.float32
    assert 0 <= low.min() <= low.max() <= 1


def test_a_batch_depends_on_seed_and_step_alone(blocky):
    def draw(seed, step):
        return random_patches(blocky(2), patch=8, batch=4, seed=seed, step=step)[0]

    torch.manual_seed(0)
    first = draw(1, 2)
    torch.manual_seed(1)
    assert torch.equal(first, draw(1, 2))
    assert not torch.equal(first, draw(2, 1))
    assert not torch.equal(first, draw(1, 3))


def test_all_eight_turns_are_drawn(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    images = ImageSet("one", [Pair(tmp_path / "a.png")], scale=2)
    _, high = random_patches(images, patch=8, batch=200, seed=0, step=0)
    assert len(high.flatten(1).unique(dim=0)) == 8


def test_low_resolution_is_made_from_the_cropped_image(tmp_path, draw_image):
    draw_image(tmp_path / "a.png", 33, 47)
    low, high = ImageSet("one", [Pair(tmp_path / "a.png")], scale=4)[0]
    assert torch.equal(high, read_image(tmp_path / "a.png")[:, :32, :44])
    assert torch.equal(low, downscale(high, 4))


def test_grey_images_train_as_rgb(tmp_path, draw_image):
    draw_image(tmp_path / "a.png", grey=True)
    low, _ = random_patches(ImageSet("one", [Pair(tmp_path / "a.png")], scale=2), patch=8, batch=2, seed=0, step=0)
    assert low.shape == (2, 3, 8, 8)


def test_memory_is_bounded(tmp_path, draw_image):
    for i in range(5):
        draw_image(tmp_path / f"{i}.png", 40, 50, seed=i)
    one = 3 * 40 * 50 * 5 / 4
    pairs = [Pair(tmp_path / f"{i}.png") for i in range(5)]
    bounded, whole = (ImageSet("five", pairs, scale=2, cache_gb=gb) for gb in (2.5 * one / 1e9, 1.0))
    for _ in range(2):
        for (low, high), (low2, high2) in zip(bounded, whole, strict=True):
            assert torch.equal(low, low2)
            assert torch.equal(high, high2)
    assert len(bounded._cache) == 2
    assert len(whole._cache) == 5


def test_small_images_are_left_out_with_a_warning_that_counts_them(tmp_path, draw_image):
    draw_image(tmp_path / "small.png", 20, 90)
    draw_image(tmp_path / "large.png", 40, 40)
    pairs = [Pair(tmp_path / "small.png"), Pair(tmp_path / "large.png")]
    with pytest.warns(UserWarning, match=r"1 of 2 images of mine are smaller than 32 x 32.*small\.png \(90 x 20\)"):
        images = ImageSet("mine", pairs, scale=2, smallest=32)
    assert [pair.high.name for pair in images.pairs] == ["large.png"]


def test_only_small_images_are_an_error(tmp_path, draw_image):
    draw_image(tmp_path / "small.png", 20, 90)
    with pytest.raises(ValueError, match=r"1 of 1 images of mine are smaller .* use larger images"):
        ImageSet("mine", [Pair(tmp_path / "small.png")], scale=2, smallest=32)


def test_an_empty_set_is_an_error():
    with pytest.raises(ValueError, match="mine is empty"):
        ImageSet("mine", [], scale=2)


def test_an_unreadable_image_is_an_error_at_once(tmp_path):
    (tmp_path / "bad.png").write_bytes(b"not an image")
    with pytest.raises(ValueError, match=r"cannot read the image .*bad\.png"):
        ImageSet("mine", [Pair(tmp_path / "bad.png")], scale=2)


def test_resolutions_that_do_not_fit_are_an_error_at_once(tmp_path, draw_image):
    draw_image(tmp_path / "a.png", 40, 40)
    draw_image(tmp_path / "ax2.png", 19, 20)
    with pytest.raises(ValueError, match=r"ax2\.png is 20 x 19 and .*a\.png is 40 x 40: not a factor of 2"):
        ImageSet("mine", [Pair(tmp_path / "a.png", tmp_path / "ax2.png")], scale=2)
