"""Scoring a network on labelled images: how often the right class is not among its first guesses."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from slimlib.core.setting import at_width, set_width
from slimlib.core.width import Width
from tasks.classification.augment import scale
from tasks.task import Metric

TOPS = {"top1_error": 1, "top5_error": 5}


def metrics_for(classes: int) -> tuple[Metric, ...]:
    """Top-1 error, and top-5 error where there are classes enough for it to mean something."""
    return tuple(Metric(name, "%", "lower") for name, guesses in TOPS.items() if guesses < classes)


@dataclass(frozen=True)
class CentreCrop:
    """Scales an image so that its shorter side is `resize`, and cuts `size` x `size` from its middle."""

    size: int
    resize: int

    def __call__(self, image: Tensor, number: int = 0, position: int = 0) -> Tensor:
        """uint8 [3, H, W] -> uint8 [3, size, size]; batch number and position do not matter."""
        factor = self.resize / min(image.shape[1:])
        height, width = (max(self.size, round(side * factor)) for side in image.shape[1:])
        image = scale(image, height, width)
        top, left = (height - self.size) // 2, (width - self.size) // 2
        return image[:, top : top + self.size, left : left + self.size]


@torch.no_grad()
def errors(
    net: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], widths: Sequence[Width] | None, tops: Sequence[int]
) -> list[list[float]]:
    """Top-k errors of a network at several widths, in eval mode. Each batch is read once, for all widths.

    Args:
        net: computes logits [N, classes]; its mode and width are restored.
        batches: inputs and labels, on the network's device.
        widths: None: as the network is.
        tops: the k.

    Returns:
        For each width, for each k, the percentage of images whose class is not among the k of the highest scores.

    Raises:
        ValueError: no image.
    """
    settings: Sequence[Width | None] = [None] if widths is None else widths
    training = net.training
    wrong: list[Tensor | int] = [0] * len(settings)  # of each width [tops], counted where the network computes
    seen = 0
    net.eval()
    try:
        with at_width(net, widths[0]) if widths else nullcontext():  # afterwards the width is what it was
            for x, labels in batches:
                seen += len(labels)
                for i, width in enumerate(settings):
                    if width is not None:
                        set_width(net, width)
                    wrong[i] = wrong[i] + misses(net(x), labels, tops)
    finally:
        net.train(training)
    if not seen:
        raise ValueError("there are no images to score")
    return [[100 * count / seen for count in torch.as_tensor(counts).tolist()] for counts in wrong]


def misses(scores: Tensor, labels: Tensor, tops: Sequence[int]) -> Tensor:
    """How many labels are not among the k of the highest scores, for each k.

    Of equal scores the first class is the higher. A score that is not a number is a miss.

    Args:
        scores: [N, classes].
        labels: int64 [N].
        tops: [k, ...].

    Returns:
        int64 [number of k].
    """
    own = scores.gather(1, labels[:, None])  # [N, 1]
    earlier = torch.arange(scores.shape[1], device=scores.device) < labels[:, None]  # [N, classes]
    higher = ~(scores <= own) | ((scores == own) & earlier)
    rank = higher.sum(1)  # [N], 0 is the highest
    return (rank[:, None] >= torch.tensor(tops, device=scores.device)).sum(0)
