"""Random changes of training images: what they are, and that they depend on (seed, step) and the image's row alone."""

import random

import hypothesis.strategies as st
import kornia
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings

from tasks.classification.augment import (
    COLOUR_COMPONENTS,
    COLOUR_DEVIATIONS,
    TRIES,
    Augmentation,
    CropWhereDecoded,
    Draws,
    adjust_contrast,
    boxes,
    crop_padded,
    crop_resized,
    draw,
    jitter,
    lighting,
    mirror,
    scale,
)
from tasks.classification.normalise import IMAGENET, Normalisation, measured
from tasks.classification.settings import ClassificationSettings
from tasks.training.ranks import Shard

CROPS = ("resized", "padded", "none")
AS_THEY_ARE = Normalisation((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def noise(n=8, side=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 3, side, side), dtype=torch.uint8, generator=generator)


def changes(normalisation=IMAGENET, *, side=12, **given):
    return Augmentation(ClassificationSettings(root="x", size=12, **given), normalisation, side)


@given(st.integers(1, 8), st.sampled_from(CROPS), st.integers(0, 2**31), st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_a_shard_gets_the_pixels_of_the_whole_batch(count, crop, seed, step):
    images, draws, augment = noise(), draw(8, seed, step), changes(crop=crop)
    whole = augment(images, draws)
    for index in range(count):
        part = slice(index, None, count)
        assert torch.equal(augment(images[part], draws[part]), whole[part])


def test_a_single_image_gets_them_also_on_several_threads():
    images, draws = noise(4, 256), draw(4, 0, 0)
    augment = Augmentation(ClassificationSettings(root="x", size=256), IMAGENET, 256)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        whole = augment(images, draws)
        assert all(torch.equal(augment(images[i : i + 1], draws[i : i + 1])[0], whole[i]) for i in range(4))
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("crop", CROPS)
def test_the_result_is_normalised_float_channels_last_of_the_right_size(crop):
    images = noise()
    before = images.clone()
    result = changes(crop=crop)(images, draw(8, 0, 0))
    assert (result.dtype, result.shape) == (torch.float32, (8, 3, 12, 12))
    assert result.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(images, before)


def test_drawing_depends_on_seed_and_step_alone_and_leaves_global_generators_alone():
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    augment, images = changes(), noise()
    draw.cache_clear()
    first = augment(images, draw(8, 1, 2))
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1:] == (np.random.get_state()[1].tolist(), random.getstate())
    torch.manual_seed(1)
    draw.cache_clear()
    assert torch.equal(first, augment(images, draw(8, 1, 2)))
    assert not torch.equal(first, augment(images, draw(8, 2, 1)))
    assert not torch.equal(first, augment(images, draw(8, 1, 3)))


def test_switching_one_change_off_leaves_the_others_as_they_were():
    images, draws = noise(), draw(8, 0, 0)
    plain = {"crop": "padded", "jitter": 0.0, "lighting": 0.0}
    moved = changes(AS_THEY_ARE, **plain)(images, draws)
    lit = changes(AS_THEY_ARE, **plain | {"lighting": 0.1})(images, draws)
    gained = lit - moved
    assert torch.allclose(gained, gained[..., :1, :1].expand_as(gained), atol=1e-6)  # one colour an image, same places


def test_without_changes_images_are_only_normalised():
    images = noise()
    augment = changes(crop="none", flip=False, jitter=0.0, lighting=0.0)
    mean, deviation = (torch.tensor(v).view(3, 1, 1) for v in (IMAGENET.mean, IMAGENET.deviation))
    assert torch.allclose(augment(images, draw(8, 0, 0)), (images / 255 - mean) / deviation, atol=1e-6)


@given(st.integers(1, 5), st.integers(0, 2**31))
@settings(max_examples=25, deadline=None)
def test_padded_crops_move_the_image_over_black(padding, seed):
    images, corner = noise(6), draw(6, seed, 0).corner
    moved = crop_padded(images, corner, padding)
    padded = F.pad(images, [padding] * 4)
    for image, result, (down, right) in zip(padded, moved, corner, strict=True):
        top, left = int(down * (2 * padding + 1)), int(right * (2 * padding + 1))
        assert torch.equal(result, image[:, top : top + 12, left : left + 12])


def test_padded_crops_reach_every_place():
    corner = np.random.default_rng(0).random((500, 2))
    marked = torch.zeros(500, 3, 5, 5, dtype=torch.uint8)
    marked[:, :, 2, 2] = 255
    places = crop_padded(marked, corner, 1)[:, 0].nonzero()[:, 1:]
    assert {tuple(place) for place in places.tolist()} == {(y, x) for y in (1, 2, 3) for x in (1, 2, 3)}


@pytest.mark.parametrize("mirrored", [[True, False, True], [False] * 3, [True] * 3])
def test_only_the_chosen_images_are_mirrored(mirrored):
    images = noise(3)
    for image, result, chosen in zip(images, mirror(images, np.array(mirrored)), mirrored, strict=True):
        assert torch.equal(result, image.flip(-1) if chosen else image)


def test_about_half_of_the_images_are_mirrored():
    assert 0.45 < draw(2000, 0, 0).mirrored.mean() < 0.55


@given(st.integers(8, 40), st.integers(8, 40), st.floats(0.05, 1), st.integers(0, 2**31))
@settings(max_examples=50, deadline=None)
def test_boxes_lie_inside_the_image(height, width, area, seed):
    found = boxes(draw(50, seed, 0), height, width, area)
    top, left, high, wide = found.T
    assert (found >= 0).all() and (high >= 1).all() and (wide >= 1).all()
    assert (top + high <= height).all() and (left + wide <= width).all()


def test_boxes_have_at_least_the_area_and_no_extreme_aspect():
    _, _, high, wide = boxes(draw(1000, 0, 0), 1000, 1000, 0.25).T
    share, aspect = high * wide / 1e6, wide / high
    assert 0.249 < share.min() < 0.27 and 0.95 < share.max() <= 1
    assert 0.74 < aspect.min() < 0.77 and 1.3 < aspect.max() < 1.34


def test_where_no_box_fits_the_largest_square_is_taken():
    assert (boxes(draw(20, 0, 0), 10, 1000, 1.0)[:, 2:] == 10).all()


def test_resized_crops_are_the_boxes_scaled_bilinearly():
    images = noise(16, 20).float()
    found = boxes(draw(16, 3, 0), 20, 20, 0.25)
    results = crop_resized(images, found, 12)
    for image, result, (top, left, high, wide) in zip(images, results, found.tolist(), strict=True):
        box = image[None, :, top : top + high, left : left + wide]
        expected = F.interpolate(box, (12, 12), mode="bilinear", align_corners=False)[0]
        assert torch.allclose(result, expected, atol=0.05)  # of 255


def test_the_box_of_a_whole_image_is_the_image():
    images = noise().float()
    assert torch.allclose(crop_resized(images, np.array([[0, 0, 12, 12]] * 8), 12), images, atol=0.01)


def test_images_of_unequal_sizes_are_cropped_where_they_are_decoded():
    crop = CropWhereDecoded(12, 0.25, batch=4, seed=5, first=10, shard=Shard(1, 2))
    image = noise(1, 40)[0, :, :, :30]
    top, left, high, wide = boxes(draw(4, 5, 13), 40, 30, 0.25)[3].tolist()  # step 10 + 3, item 1 + 1 * 2
    assert torch.equal(crop(image, 3, 1), scale(image[:, top : top + high, left : left + wide], 12, 12))
    assert changes(side=None).crops_where_decoded and changes(side=25).crops_where_decoded
    assert not changes(side=24).crops_where_decoded and not changes(side=None, crop="none").crops_where_decoded


def test_what_was_cropped_where_decoded_is_not_cropped_again():
    images = noise()
    plain = {"flip": False, "jitter": 0.0, "lighting": 0.0}
    assert torch.allclose(changes(AS_THEY_ARE, side=None, **plain)(images, draw(8, 0, 0)), images / 255)


def test_scaling_down_averages():
    board = (torch.arange(16)[:, None] + torch.arange(16)).remainder(2).mul(255).to(torch.uint8).expand(3, 16, 16)
    small = scale(board, 4, 4).float()[:, 1:-1, 1:-1]
    assert (small - 127.5).abs().max() < 3


def test_contrast_is_that_of_kornia():
    pixels = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    factor = torch.tensor([0.6, 0.9, 1.2, 1.4])
    expected = kornia.enhance.adjust_contrast_with_mean_subtraction(pixels, factor)
    assert torch.allclose(adjust_contrast(pixels, factor), expected, atol=1e-6)


@pytest.mark.parametrize("kind", [0, 1, 2])
def test_a_factor_of_one_changes_no_colour(kind):
    pixels = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(jitter(pixels, np.ones((4, 3)), [kind]), pixels, atol=1e-6)


def test_a_factor_of_nothing_is_black_or_flat_or_grey():
    pixels = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    nothing = np.zeros((2, 3))
    grey = (pixels * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1, keepdim=True)
    assert jitter(pixels, nothing, [0]).abs().max() == 0
    assert torch.allclose(jitter(pixels, nothing, [1]), grey.mean((2, 3), keepdim=True).expand_as(pixels), atol=1e-5)
    assert torch.allclose(jitter(pixels, nothing, [2]), grey.expand_as(pixels), atol=1e-5)


def test_the_order_of_the_changes_of_colour_varies_over_steps():
    assert len({draw(1, 0, step).order for step in range(60)}) == 6


def test_lighting_is_noise_along_the_principal_components():
    amounts = np.array([[1.0, 0.0, 0.0], [0.5, -2.0, 3.0]])
    for given_amounts, gained in zip(amounts, lighting(amounts), strict=True):
        for channel in range(3):
            expected = sum(COLOUR_COMPONENTS[channel][k] * COLOUR_DEVIATIONS[k] * given_amounts[k] for k in range(3))
            assert gained[channel].item() == pytest.approx(expected, abs=1e-6)


def test_the_drawn_numbers_are_of_their_distributions():
    draws = draw(4000, 0, 0)
    assert isinstance(draws, Draws) and draws.box.shape == (4000, TRIES, 2)
    assert abs(draws.light.mean()) < 0.05 and abs(draws.light.std() - 1) < 0.05
    assert -1 <= draws.colour.min() < -0.99 and 0.99 < draws.colour.max() < 1


class FewImages:
    """Some images in memory."""

    def __init__(self, pixels):
        self.pixels = pixels

    def __len__(self):
        return len(self.pixels)

    def read(self, index):
        return self.pixels[index]


def test_measured_normalisation_gives_mean_0_and_deviation_1():
    pixels = noise(50)
    result = measured(FewImages(pixels))(pixels.float() / 255)
    assert result.mean((0, 2, 3)).abs().max() < 1e-3
    assert (result.std((0, 2, 3)) - 1).abs().max() < 1e-3


def test_images_of_one_colour_do_not_divide_by_zero():
    assert measured(FewImages(torch.full((3, 3, 4, 4), 7, dtype=torch.uint8))).deviation == pytest.approx(
        (1 / 255,) * 3, abs=1e-4
    )
