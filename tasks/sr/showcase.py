"""The grid of crops: the original, bicubic, and networks, side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor

from tasks.sr.data import ImageSet
from tasks.sr.evaluate import bicubic_upscaler, network_upscaler
from tasks.sr.images import as_rgb
from tasks.sr.metrics import Protocol, psnr
from tasks.sr.photos import HeldOut

DETAIL = 96  # height and width of a crop, in high-resolution pixels


@torch.no_grad()
def crop_grid(
    nets: Mapping[str, Callable[[Tensor], Tensor]],
    images: ImageSet,
    photos: Sequence[HeldOut],
    protocol: Protocol,
) -> Figure:
    """A row a photograph, a column a method; above each crop the PSNR of its whole photograph.

    Args:
        nets: label -> network, computing [1, 3, h, w] -> [1, 3, scale * h, scale * w] in [0, 1].
        images: the photographs of `photos`, in that order.
        photos: where the detail is, and whom to thank.
        protocol: how PSNR is measured.
    """
    upscalers = {"bicubic": bicubic_upscaler(images.scale)}
    upscalers |= {label: network_upscaler(net) for label, net in nets.items()}
    shown = len(photos), 1 + len(upscalers)
    figure = Figure(figsize=(1.75 * shown[1], 2.05 * shown[0] + 0.5), layout="constrained")
    axes = figure.subplots(*shown, squeeze=False)
    scores: dict[str, list[float]] = {label: [] for label in upscalers}
    for row, photo, (low, high) in zip(axes, photos, images, strict=True):
        _show(row[0], _detail(high, photo), "original\n")
        for cell, (label, upscaler) in zip(row[1:], upscalers.items(), strict=True):
            output = upscaler(low)
            decibels = psnr(output, high, protocol, images.scale)
            _show(cell, _detail(output, photo), f"{label}\n{decibels:.2f} dB")
            scores[label].append(decibels)
        row[0].set_ylabel(photo.name)
    figure.suptitle(_finding(scores), fontsize=10)
    credits = "; ".join(f"{photo.name}: {photo.credit}" for photo in photos)
    figure.supxlabel(
        f"PSNR of the whole photograph on {protocol.describe(images.scale)}.\nPhotographs: {credits}.", fontsize=7
    )
    return figure


def _finding(scores: Mapping[str, Sequence[float]]) -> str:
    """Which network gains most over bicubic, the first of the scores."""
    mean = {label: sum(values) / len(values) for label, values in scores.items()}
    best = max(mean, key=lambda label: mean[label])
    if best == "bicubic":
        return "bicubic upscaling scores best"
    return f"{best}: {mean[best] - mean['bicubic']:+.2f} dB over bicubic on average"


def _detail(image: Tensor, photo: HeldOut) -> Tensor:  # [C, H, W] -> [DETAIL, DETAIL, 3]
    top, left = (int(f * size) for f, size in zip(photo.corner, image.shape[1:], strict=True))
    return as_rgb(image)[:, top : top + DETAIL, left : left + DETAIL].permute(1, 2, 0)


def _show(cell, pixels: Tensor, title: str) -> None:  # type: ignore[no-untyped-def]
    cell.imshow(pixels.numpy(), interpolation="nearest")
    cell.set_title(title, fontsize=8)
    cell.set_xticks([])
    cell.set_yticks([])
