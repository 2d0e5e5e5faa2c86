"""torchvision, also beside a torch that its compiled operators do not fit: NMS and RoIAlign are then plain torch.

The released torchvision is built for CUDA. Beside a CPU build of torch its operators cannot be loaded, and its import
stops where it gives one of them a shape function. Here the two that R-CNNs need are defined under their own names, with
the same results, and everything in torchvision that calls them finds them. On a normal installation nothing happens.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor

SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",  # only its shape function needs it
    "roi_align(Tensor input, Tensor rois, float spatial_scale, SymInt pooled_height, SymInt pooled_width, "
    "int sampling_ratio, bool aligned) -> Tensor",
)
CALLERS = ("torchvision.ops.boxes", "torchvision.ops.roi_align")
"""The modules that ask whether there are operators before they call one."""


@cache
def torchvision() -> Any:
    """torchvision with NMS and RoIAlign; called before anything else imports it.

    Raises:
        ValueError: it is not installed.
    """
    try:
        return importlib.import_module("torchvision")
    except ModuleNotFoundError as error:
        raise ValueError(f"task=detection needs {error.name}: pip install -e '.[bench,detection]'") from None
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
    define_operators()
    found = importlib.import_module("torchvision")
    for name in CALLERS:
        caller: Any = importlib.import_module(name)
        caller.__dict__.update(_assert_has_ops=lambda: None, _has_ops=lambda: True)
    return found


def define_operators() -> None:
    """Define `torch.ops.torchvision.nms` and `roi_align`; once, and only where torchvision has not."""
    library = _library()
    for schema in SCHEMAS:
        library.define(schema)
    for device in ("CPU", "CUDA"):
        library.impl("nms", nms, device)
        library.impl("roi_align", roi_align, device)
    library.impl("roi_align", _shape_of_roi_align, "Meta")
    torch.library.register_autograd("torchvision::roi_align", _backward, setup_context=_save, lib=library)


@cache
def _library() -> torch.library.Library:
    """Held by the cache, since what a library defines goes when it goes."""
    return torch.library.Library("torchvision", "FRAGMENT")


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Non-maximum suppression: go through the boxes by falling score, and drop those that overlap one that was kept.

    Args:
        boxes: [N, 4] as left, top, right, bottom.
        scores: [N]; of equal ones the first comes first.
        iou_threshold: a box is dropped where its intersection over union with a kept one is above it.

    Returns:
        int64, the kept boxes by falling score.
    """
    order = scores.argsort(descending=True, stable=True)
    left, top, right, bottom = boxes[order].to(torch.promote_types(boxes.dtype, torch.float32)).unbind(1)
    width = (torch.minimum(right[:, None], right) - torch.maximum(left[:, None], left)).clamp(0)  # [N, N]
    height = (torch.minimum(bottom[:, None], bottom) - torch.maximum(top[:, None], top)).clamp(0)
    overlap, area = width * height, (right - left) * (bottom - top)
    suppresses = (overlap / (area[:, None] + area - overlap) > iou_threshold).triu(1).float()  # an earlier one a later
    kept = torch.ones_like(order, dtype=torch.bool)
    while True:
        # The first k boxes are right after k rounds, since each depends on earlier ones alone; few rounds suffice.
        now = kept.float() @ suppresses == 0
        if torch.equal(now, kept):
            return order[kept]
        kept = now


def roi_align(
    input: Tensor, rois: Tensor, spatial_scale: float, height: int, width: int, sampling_ratio: int, aligned: bool
) -> Tensor:
    """The mean over sampling points in each cell of a grid laid over each region, each point interpolated bilinearly.

    Args:
        input: [N, C, H, W].
        rois: [K, 5]: the image's number, then left, top, right, bottom in pixels of the image.
        spatial_scale: pixels of `input` over pixels of the image.
        height, width: of the grid.
        sampling_ratio: points a cell and axis; 0 or less: as many as the cell has pixels, rounded up.
        aligned: pixel centres lie at half coordinates; if not, at whole ones, and a region is at least a pixel wide.

    Returns:
        [K, C, height, width]. A point more than a pixel outside counts as 0, one nearer has the value of the rim.

    Source: He et al. 2017 (Mask R-CNN), sec. 3.
    """
    output = input.new_zeros(len(rois), input.shape[1], height, width)
    for image, own, down, across in _by_image(
        rois, input.shape, (spatial_scale, height, width, sampling_ratio, aligned)
    ):
        rows = down.flatten(0, 1) @ input[image].to(down.dtype)  # [C, K' * height, W]
        rows = rows.unflatten(1, (-1, height)).transpose(0, 1).flatten(1, 2)  # [K', C * height, W]
        output[own] = (rows @ across.mT).unflatten(1, (-1, height)).to(input.dtype)
    return output


def _by_image(
    rois: Tensor, shape: torch.Size, others: tuple[float, int, int, int, bool]
) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
    """Each image that has regions, which they are, and how much the rows [K', height, H] and columns [K', width, W] of
    its pixels weigh in the rows and columns of their grids: bilinear weights are products of both."""
    scale, height, width, ratio, aligned = others
    corners = rois[:, 1:] * scale - (0.5 if aligned else 0.0)
    x, y, right, bottom = corners.unbind(1)
    across, down = (
        _weights(x, right - x, width, shape[3], ratio, aligned),
        _weights(y, bottom - y, height, shape[2], ratio, aligned),
    )
    for image in range(shape[0]):
        own = (rois[:, 0] == image).nonzero()[:, 0]
        if len(own):
            yield image, own, down[own], across[own]


def _weights(start: Tensor, length: Tensor, cells: int, pixels: int, ratio: int, aligned: bool) -> Tensor:
    """How much each pixel of an axis weighs in each cell of K regions: [K, cells, pixels]."""
    cell = (length if aligned else length.clamp(min=1.0)) / cells
    points = torch.full_like(cell, ratio) if ratio > 0 else cell.ceil().clamp(min=0)  # none where it is inside out
    weights = start.new_zeros(len(start), cells, pixels)
    numbers, at = torch.arange(cells, device=start.device), torch.arange(pixels, device=start.device)
    for point in range(int(points.max()) if len(points) else 0):
        place = start[:, None] + cell[:, None] * (numbers + (point + 0.5) / points.clamp(min=1)[:, None])
        counts = (place >= -1) & (place <= pixels) & (point < points)[:, None]  # [K, cells]
        near = (1 - (place.clamp(0, pixels - 1)[..., None] - at).abs()).clamp(0)
        weights += near * counts[..., None]
    return weights / points.clamp(min=1)[:, None, None]


def _shape_of_roi_align(input: Tensor, rois: Tensor, _scale: float, height: int, width: int, *_: Any) -> Tensor:
    return input.new_empty(rois.shape[0], input.shape[1], height, width)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    input, rois, *others = inputs
    ctx.save_for_backward(rois)
    ctx.shape, ctx.others = input.shape, others


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    (rois,) = ctx.saved_tensors
    found = grad.new_zeros(ctx.shape)
    for image, own, down, across in _by_image(rois, ctx.shape, ctx.others):
        rows = (grad[own].to(down.dtype).flatten(1, 2) @ across).unflatten(1, (-1, down.shape[1]))  # [K', C, height, W]
        found[image] = (down.flatten(0, 1).mT @ rows.transpose(1, 2).flatten(0, 1).transpose(0, 1)).to(grad.dtype)
    return (found, *[None] * (1 + len(ctx.others)))
