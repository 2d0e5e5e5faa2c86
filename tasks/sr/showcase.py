"""Crops of photographs: the original, bicubic, and networks, as a grid to print and as pixels to look into."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor, nn

from tasks.crops import Crop, Row, showcase_of
from tasks.sr.data import ImageSet, to_float
from tasks.sr.evaluate import bicubic_upscaler, network_upscaler
from tasks.sr.images import as_rgb
from tasks.sr.metrics import Protocol, psnr
from tasks.sr.patches import Tiling
from tasks.sr.photos import HeldOut
from tasks.sr.routing import BICUBIC, PatchRule
from tasks.task import Showcase

DETAIL = 96  # height and width of a crop, in high-resolution pixels


@torch.no_grad()
def compared(
    nets: Mapping[str, Callable[[Tensor], Tensor]],
    images: ImageSet,
    photos: Sequence[HeldOut],
    protocol: Protocol,
) -> Showcase:
    """The grid of crops, and `crops/` with each of them as it is, which `crops/index.json` lists.

    Args:
        nets: label -> network, computing [1, 3, h, w] -> [1, 3, scale * h, scale * w] in [0, 1].
        images: the photographs of `photos`, in that order.
        photos: where the detail is, and whom to thank.
        protocol: how PSNR is measured.
    """
    upscalers = {"bicubic": bicubic_upscaler(images.scale)}
    upscalers |= {label: network_upscaler(net) for label, net in nets.items()}
    rows = []
    for photo, (low, high) in zip(photos, images, strict=True):
        crops = [Crop("original", _detail(high, photo))]
        for label, upscaler in upscalers.items():
            output = upscaler(low)
            crops.append(Crop(label, _detail(output, photo), psnr(output, high, protocol, images.scale)))
        rows.append(Row(photo.name, photo.credit, crops))
    measured = f"PSNR of the whole photograph on {protocol.describe(images.scale)}"
    credits = "; ".join(f"{photo.name}: {photo.credit}" for photo in photos)
    return showcase_of(rows, finding=_finding(rows), measured=measured, note=f"\nPhotographs: {credits}.")


def _finding(rows: Sequence[Row]) -> str:
    """Which network gains most over bicubic, the first that is scored."""
    scores: dict[str, list[float]] = {}
    for row in rows:
        for crop in row.crops:
            if crop.decibels is not None:
                scores.setdefault(crop.label, []).append(crop.decibels)
    mean = {label: sum(values) / len(values) for label, values in scores.items()}
    best = max(mean, key=lambda label: mean[label])
    if best == "bicubic":
        return "bicubic upscaling scores best"
    return f"{best}: {mean[best] - mean['bicubic']:+.2f} dB over bicubic on average"


def _detail(image: Tensor, photo: HeldOut) -> np.ndarray:  # [C, H, W] -> [DETAIL, DETAIL, 3]
    top, left = (int(f * size) for f, size in zip(photo.corner, image.shape[1:], strict=True))
    return as_rgb(image)[:, top : top + DETAIL, left : left + DETAIL].permute(1, 2, 0).numpy()


@torch.no_grad()
def patches_by_width(net: nn.Module, rule: PatchRule, images: ImageSet) -> Figure:
    """Each photograph, grey, under the colours of the widths that its patches get."""
    names = [BICUBIC, *(rule.named(width) for width in rule.widths)]
    colours = [colormaps["viridis"](place / max(len(names) - 1, 1)) for place in range(len(names))]
    figure = Figure(figsize=(4 * len(images), 4.6), layout="constrained")
    cells = figure.subplots(1, len(images), squeeze=False)[0]
    for cell, (low, _) in zip(cells, images, strict=True):
        image = to_float(as_rgb(low)[None])
        tiling = Tiling.of(*image.shape[2:])
        choice = rule.choose(image, tiling.cut(image), tiling).tolist()
        cell.imshow(image[0].mean(0).numpy(), cmap="gray", vmin=0, vmax=1)
        corners = [(top, left) for top in tiling.tops for left in tiling.lefts]
        for (top, left), chosen in zip(corners, choice, strict=True):
            colour = colours[chosen]
            cell.add_patch(
                Rectangle((left, top), tiling.side[1], tiling.side[0], facecolor=(*colour[:3], 0.35), edgecolor=colour)
            )
        cell.set_xticks([])
        cell.set_yticks([])
    handles = [Rectangle((0, 0), 1, 1, color=colour) for colour in colours]
    figure.legend(handles, names, loc="outside lower center", ncols=len(names), frameon=False, title="width")
    return figure
