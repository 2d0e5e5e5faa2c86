"""Scoring a network, or plain bicubic upscaling, on whole images."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from tasks.sr.data import ImageSet, to_float
from tasks.sr.images import as_rgb
from tasks.sr.metrics import Protocol, mean_scores, score, to_uint8
from tasks.sr.resize import upscale
from tasks.task import Scores

Upscaler = Callable[[Tensor], Tensor]  # uint8 [C, h, w] -> uint8 [3 or C, scale * h, scale * w]


def evaluate(net: nn.Module, sets: Iterable[ImageSet], protocol: Protocol) -> Scores:
    """Average PSNR and SSIM of a network on each set, one whole image at a time, in eval mode.

    Args:
        net: computes [1, 3, h, w] -> [1, 3, scale * h, scale * w] in [0, 1]; at the width it is set to.
        sets: the evaluation sets.
        protocol: which channels and border are compared.

    Returns:
        {set name: {"psnr": ..., "ssim": ...}}.
    """
    training = net.training
    net.eval()
    try:
        with torch.no_grad():
            return evaluate_upscaler(network_upscaler(net), sets, protocol)
    finally:
        net.train(training)


def evaluate_upscaler(upscaler: Upscaler, sets: Iterable[ImageSet], protocol: Protocol) -> Scores:
    """Average PSNR and SSIM of any function that upscales an 8-bit image."""
    return {
        images.name: mean_scores([score(upscaler(low), high, protocol, images.scale) for low, high in images])
        for images in sets
    }


def network_upscaler(net: Callable[[Tensor], Tensor]) -> Upscaler:
    """A network as a function of 8-bit images; grey ones enter it as RGB."""
    weight = next(iter(net.parameters()), None) if isinstance(net, nn.Module) else None
    device = torch.device("cpu") if weight is None else weight.device

    def upscaler(low: Tensor) -> Tensor:
        return to_uint8(net(to_float(as_rgb(low)[None].to(device)))[0]).cpu()

    return upscaler


def bicubic_upscaler(scale: int) -> Upscaler:
    """Plain bicubic upscaling, the baseline of every table."""
    return lambda low: upscale(low, scale)
