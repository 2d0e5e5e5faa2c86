"""Training images, varied at random: a pure function of (seed, step), for a whole batch or any part of it.

The numbers of a whole batch are drawn first, a row an image. What is done to an image depends on its row
alone, so a process that trains a part of the batch makes the pixels that the whole batch would have there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import kornia
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tasks.classification.normalise import Normalisation
from tasks.classification.settings import ClassificationSettings
from tasks.training.ranks import Shard

TRIES = 10  # boxes drawn until one fits into the image
AREA = 0.25  # least area of a box. Source: the published recipe of the MobileNets
PADDING = 4  # rim in pixels. Source: He et al. 2016 (ResNet), sec. 4.2
ASPECT = 4 / 3  # widest box; the narrowest is its inverse. Source: Szegedy et al. 2015 (Inception), sec. 6

# Deviations along the principal components of ImageNet's colours, and these components as columns.
# Source: Krizhevsky et al. 2012 (AlexNet), sec. 4.1; the numbers are those of the published Torch ResNets.
COLOUR_DEVIATIONS = (0.2175, 0.0188, 0.0045)
COLOUR_COMPONENTS = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))


@dataclass(frozen=True)
class Draws:
    """The random numbers of a batch of N images. Each kind of change has its own, used or not.

    box: [N, TRIES, 2] and corner: [N, 2], uniform in [0, 1).
    mirrored: [N], true or false.
    colour: [N, 3], uniform in [-1, 1), for brightness, contrast and saturation.
    light: [N, 3], of the standard normal distribution.
    order: of the three changes of colour, the same for the whole batch.
    """

    box: np.ndarray
    corner: np.ndarray
    mirrored: np.ndarray
    colour: np.ndarray
    light: np.ndarray
    order: tuple[int, ...]

    def __getitem__(self, rows: slice) -> Draws:
        """Those of some of the images."""
        kinds = ("box", "corner", "mirrored", "colour", "light")
        part: dict[str, Any] = {kind: getattr(self, kind)[rows] for kind in kinds}
        return replace(self, **part)


@lru_cache(maxsize=8)  # where images are decoded, each asks for its row of the same few batches
def draw(batch: int, seed: int, step: int) -> Draws:
    """The random numbers of a step."""
    rng = np.random.default_rng((seed, step))
    return Draws(
        box=rng.random((batch, TRIES, 2)),
        corner=rng.random((batch, 2)),
        mirrored=rng.random(batch) < 0.5,
        colour=rng.random((batch, 3)) * 2 - 1,
        light=rng.standard_normal((batch, 3)),
        order=tuple(rng.permutation(3).tolist()),
    )


@dataclass(frozen=True)
class Augmentation:
    """What is done to training images, with the random numbers of their batch.

    Images of one side are cropped on the batch; others, or far larger ones, where they are decoded.

    Args:
        settings: which changes, and how large.
        normalisation: the last change.
        side: of all images as decoded; None: they differ.
    """

    settings: ClassificationSettings
    normalisation: Normalisation
    side: int | None

    @property
    def crops_where_decoded(self) -> bool:
        """Whether boxes are cut where images are decoded: bilinear sampling of a batch would skip pixels."""
        return self.settings.crop == "resized" and (self.side is None or self.side > 2 * self.settings.size)

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        """Vary a batch.

        Args:
            images: uint8 [N, 3, H, W], on any device.
            draws: of these N images.

        Returns:
            float32 [N, 3, size, size], normalised, channels_last.
        """
        s = self.settings
        if s.crop == "padded":
            images = crop_padded(images, draws.corner, s.padding or PADDING)
        if s.flip:
            images = mirror(images, draws.mirrored)
        pixels = images.float()
        if s.crop == "resized" and not self.crops_where_decoded:
            height, width = images.shape[2:]
            pixels = crop_resized(pixels, boxes(draws, height, width, s.area or AREA), s.size)
        pixels = pixels / 255
        if s.jitter:
            pixels = jitter(pixels, 1 + s.jitter * draws.colour, draws.order)
        if s.lighting:
            pixels = pixels + lighting(s.lighting * draws.light).to(pixels.device)[:, :, None, None]
        return self.normalisation(pixels)


@dataclass(frozen=True)
class CropWhereDecoded:
    """Cuts the random box of an image and scales it, so that images of unequal sizes make a batch.

    Args:
        size: height and width of the result.
        area: least part of the image in the box.
        batch: images of a whole batch.
        seed: of the draws.
        first: step of batch number 0.
        shard: which images of the whole batch arrive here.
    """

    size: int
    area: float
    batch: int
    seed: int
    first: int
    shard: Shard

    def __call__(self, image: Tensor, number: int, position: int) -> Tensor:
        """uint8 [3, H, W], item `position` of batch `number` -> uint8 [3, size, size]."""
        row = self.shard.index + position * self.shard.count
        draws = draw(self.batch, self.seed, self.first + number)[row : row + 1]
        top, left, height, width = boxes(draws, image.shape[1], image.shape[2], self.area)[0].tolist()
        return scale(image[:, top : top + height, left : left + width], self.size, self.size)


def boxes(draws: Draws, height: int, width: int, area: float) -> np.ndarray:
    """Random boxes of at least `area` of an image, 3:4 to 4:3, at uniform places: the first drawn that fits.

    Returns:
        [N, 4]: top, left, height, width in whole pixels; where none fits, the largest square.

    Source: Szegedy et al. 2015 (Inception), sec. 6.
    """
    areas = (area + (1 - area) * draws.box[..., 0]) * height * width  # [N, TRIES]
    aspects = ASPECT ** (2 * draws.box[..., 1] - 1)
    high = np.maximum(np.rint(np.sqrt(areas / aspects)), 1)
    wide = np.maximum(np.rint(np.sqrt(areas * aspects)), 1)
    fits = (high <= height) & (wide <= width)
    first = np.arange(len(fits)), fits.argmax(1)
    square = min(height, width)
    high, wide = (np.where(fits.any(1), side[first], square) for side in (high, wide))  # [N]
    top = np.floor(draws.corner[:, 0] * (height - high + 1))
    left = np.floor(draws.corner[:, 1] * (width - wide + 1))
    return np.stack([top, left, high, wide], axis=1).astype(np.int64)


def scale(image: Tensor, height: int, width: int) -> Tensor:
    """uint8 [3, H, W] -> uint8 [3, height, width], bilinear, averaging where it shrinks."""
    if image.shape[1:] == (height, width):
        return image
    scaled: Tensor = F.interpolate(image[None], (height, width), mode="bilinear", antialias=True)[0]
    return scaled


def crop_resized(pixels: Tensor, boxes: np.ndarray, size: int) -> Tensor:
    """Each image's box [N, 4], scaled bilinearly: float [N, 3, H, W] -> [N, 3, size, size]."""
    box = torch.from_numpy(boxes).to(pixels.device, pixels.dtype)
    offsets = (torch.arange(size, device=pixels.device, dtype=pixels.dtype) + 0.5) / size  # [size]
    y, x = (
        box[:, axis, None] + (offsets * box[:, axis + 2, None] - 0.5).clamp_min(0).minimum(box[:, axis + 2, None] - 1)
        for axis in (0, 1)
    )  # [N, size]
    shape = len(box), size, size
    return kornia.geometry.transform.remap(
        pixels, x[:, None, :].expand(shape), y[:, :, None].expand(shape), padding_mode="border", align_corners=True
    )


def crop_padded(images: Tensor, corner: np.ndarray, padding: int) -> Tensor:
    """Each image moved by up to `padding` pixels, black where nothing was: [N, 3, S, S] -> the same."""
    side = images.shape[-1]
    padded = F.pad(images, [padding] * 4)
    windows = padded.unfold(2, side, 1).unfold(3, side, 1)  # a view: [N, 3, 2 * padding + 1, 2 * padding + 1, S, S]
    top, left = torch.from_numpy((corner * (2 * padding + 1)).astype(np.int64)).to(images.device).unbind(1)
    return windows[torch.arange(len(images), device=images.device), :, top, left]


def mirror(images: Tensor, mirrored: np.ndarray) -> Tensor:
    """Those images whose entry in `mirrored` [N] is true, mirrored: [N, 3, H, W] -> the same."""
    chosen = torch.from_numpy(np.flatnonzero(mirrored)).to(images.device)
    return images.index_copy(0, chosen, kornia.geometry.transform.hflip(images[chosen]))


def jitter(pixels: Tensor, factors: np.ndarray, order: Sequence[int]) -> Tensor:
    """Brightness, contrast and saturation times `factors` [N, 3]: [N, 3, H, W] in [0, 1] -> the same."""
    changes = (
        kornia.enhance.adjust_brightness_accumulative,
        adjust_contrast,
        kornia.enhance.adjust_saturation_with_gray_subtraction,
    )
    factor = torch.from_numpy(factors).to(pixels.device, pixels.dtype)
    for kind in order:
        pixels = changes[kind](pixels, factor[:, kind])
    return pixels


def adjust_contrast(pixels: Tensor, factor: Tensor) -> Tensor:
    """Distances from the mean grey of each image times `factor` [N]: [N, 3, H, W] in [0, 1] -> the same.

    Kornia's takes the mean in single precision, in an order that depends on threads and the number of images; in
    double precision that is not seen, and a part of a batch has the pixels of the whole.
    """
    grey = kornia.color.rgb_to_grayscale(pixels).mean((2, 3), keepdim=True, dtype=torch.float64).to(pixels.dtype)
    return (grey + (pixels - grey) * factor[:, None, None, None]).clamp(0, 1)


def lighting(amounts: np.ndarray) -> Tensor:
    """What each channel of an image gains for amounts [N, 3] along the principal components: float32 [N, 3].

    Source: Krizhevsky et al. 2012 (AlexNet), sec. 4.1.
    """
    gained = amounts * np.array(COLOUR_DEVIATIONS) @ np.array(COLOUR_COMPONENTS).T
    return torch.from_numpy(gained).float()
