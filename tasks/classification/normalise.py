"""Pixels as networks like them: each channel with mean 0 and deviation 1."""

from __future__ import annotations

from dataclasses import dataclass

import kornia
import torch
from torch import Tensor

from tasks.classification.images import LabelledImages

ENOUGH = 1000  # images that mean and deviation are measured on


@dataclass(frozen=True)
class Normalisation:
    """Mean and deviation of each channel, of pixels in [0, 1]."""

    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    def __call__(self, pixels: Tensor) -> Tensor:
        """float [N, 3, H, W] in [0, 1] -> normalised, channels_last."""
        mean, deviation = (torch.tensor(values, device=pixels.device) for values in (self.mean, self.deviation))
        return kornia.enhance.normalize(pixels, mean, deviation).to(memory_format=torch.channels_last)


IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def measured(images: LabelledImages) -> Normalisation:
    """The normalisation of a set of images, from some that are evenly spread over it."""
    count = min(len(images), ENOUGH)
    moments = torch.zeros(2, 3, dtype=torch.float64)
    pixels = 0
    for i in range(count):
        image = images.read(i * len(images) // count).double() / 255  # [3, H, W]
        moments += torch.stack([image.sum((1, 2)), image.square().sum((1, 2))])
        pixels += image[0].numel()
    mean, square = moments / pixels
    deviation = (square - mean.square()).clamp_min(0).sqrt().clamp_min(1 / 255)  # images of one colour: not 0
    return Normalisation(*(tuple(round(value, 4) for value in values.tolist()) for values in (mean, deviation)))
