"""Scoring a network, or plain bicubic upscaling, on whole images."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from tasks.points import AS_IT_IS, KnowsTargets, OperatingPoint, Scores, runs_at
from tasks.sr.data import ImageSet, to_float
from tasks.sr.images import as_rgb
from tasks.sr.metrics import Protocol, mean_scores, score, to_uint8
from tasks.sr.resize import upscale
from tasks.training.problem import CPU

Upscaler = Callable[[Tensor], Tensor]  # uint8 [C, h, w] -> uint8 [3 or C, scale * h, scale * w]


def evaluate(
    net: nn.Module,
    sets: Sequence[ImageSet],
    protocol: Protocol,
    points: Sequence[OperatingPoint] = (AS_IT_IS,),
) -> list[Scores]:
    """Average PSNR and SSIM of a network on each set, one whole image at a time, in eval mode.

    Args:
        net: computes [1, 3, h, w] -> [1, 3, scale * h, scale * w] in [0, 1].
        sets: the evaluation sets.
        protocol: which channels and border are compared.
        points: the operating points; by default the network as it is.

    Returns:
        Of each point {set name: {"psnr": ..., "ssim": ...}}.
    """
    training, device = net.training, next(net.parameters(), torch.empty(0)).device
    net.eval()
    try:
        with torch.no_grad(), runs_at(net, points) as runs:
            return [
                evaluate_upscaler(network_upscaler(run, device), sets, protocol, _told(point))
                for run, point in zip(runs, points, strict=True)
            ]
    finally:
        net.train(training)


def evaluate_upscaler(
    upscaler: Upscaler, sets: Sequence[ImageSet], protocol: Protocol, tell: Callable[[Tensor], None] = lambda _: None
) -> Scores:
    """Average PSNR and SSIM of any function that upscales an 8-bit image; an oracle is told the original first."""

    def scored(low: Tensor, high: Tensor, scale: int) -> dict[str, float]:
        tell(high)
        return score(upscaler(low), high, protocol, scale)

    return {images.name: mean_scores([scored(*pair, images.scale) for pair in images]) for images in sets}


def _told(point: OperatingPoint) -> Callable[[Tensor], None]:
    def tell(high: Tensor) -> None:
        if isinstance(point.what, KnowsTargets):
            point.what.targets = high

    return tell


def network_upscaler(net: Callable[[Tensor], Tensor], device: torch.device = CPU) -> Upscaler:
    """A network on a device as a function of 8-bit images; grey ones enter it as RGB."""
    return lambda low: to_uint8(net(to_float(as_rgb(low)[None].to(device)))[0]).cpu()


def bicubic_upscaler(scale: int) -> Upscaler:
    """Plain bicubic upscaling, the baseline of every table."""
    return lambda low: upscale(low, scale)
