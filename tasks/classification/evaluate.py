"""Scoring a network on labelled images: how often the right class is not among its first guesses."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tasks.classification.augment import scale
from tasks.points import AS_IT_IS, KnowsTargets, OperatingPoint, runs_at
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
    net: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    points: Sequence[OperatingPoint] = (AS_IT_IS,),
    *,
    tops: Sequence[int],
) -> list[list[float]]:
    """Top-k errors of a network at several operating points, in eval mode. Each batch is read once, for all of them.

    Args:
        net: computes logits [N, classes]; its mode and width are restored.
        batches: inputs and labels, on the network's device.
        points: by default the network as it is.
        tops: the k.

    Returns:
        For each point, for each k, the percentage of images whose class is not among the k of the highest scores.

    Raises:
        ValueError: no image.
    """
    training = net.training
    wrong: list[Tensor | int] = [0] * len(points)  # at each point [tops], counted where the network computes
    count = 0
    net.eval()
    try:
        with runs_at(net, points) as runs:
            for x, labels in batches:
                count += len(labels)
                for point in points:
                    if isinstance(point.what, KnowsTargets):
                        point.what.targets = labels
                wrong = [before + misses(run(x), labels, tops) for before, run in zip(wrong, runs, strict=True)]
    finally:
        net.train(training)
    if not count:
        raise ValueError("there are no images to score")
    return [[100 * misses / count for misses in torch.as_tensor(missed).tolist()] for missed in wrong]


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
