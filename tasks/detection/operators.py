"""torchvision, also beside a torch that its compiled operators do not fit: NMS and RoIAlign are then plain torch.

The released torchvision is built for CUDA. Beside a CPU build of torch its operators cannot be loaded, and its import
stops where it gives one of them a shape function. Here the two that R-CNNs need are defined under their own names, with
the same results, and everything in torchvision that calls them finds them. On a normal installation nothing happens.
"""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
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
    sorted_boxes = boxes[order].to(torch.promote_types(boxes.dtype, torch.float32))  # half precision would overflow
    corner, other = sorted_boxes[:, None], sorted_boxes[None]
    sides = (torch.minimum(corner[..., 2:], other[..., 2:]) - torch.maximum(corner[..., :2], other[..., :2])).clamp(0)
    overlap = sides.prod(-1)  # [N, N]
    area = (sorted_boxes[:, 2:] - sorted_boxes[:, :2]).prod(-1)
    suppresses = (overlap / (area[:, None] + area[None] - overlap) > iou_threshold).triu(1)  # an earlier one a later
    kept = torch.ones_like(order, dtype=torch.bool)
    while True:
        # The first k boxes are right after k rounds, since each depends on earlier ones alone; few rounds suffice.
        now = ~(suppresses & kept[:, None]).any(0)
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
    corners = rois[:, 1:] * spatial_scale - (0.5 if aligned else 0.0)
    starts, sizes = corners[:, :2], corners[:, 2:] - corners[:, :2]  # [K, 2], x and y
    cells = (sizes if aligned else sizes.clamp(min=1.0)) / sizes.new_tensor([width, height])
    points = torch.full_like(cells, sampling_ratio) if sampling_ratio > 0 else cells.ceil()
    output = input.new_zeros(len(rois), input.shape[1], height, width)
    alike = torch.cat([rois[:, :1], points], 1).long()  # regions of one image with as many points go together
    for image, across, down in alike.unique(dim=0).tolist():
        if across > 0 and down > 0:  # a region turned inside out has no point
            own = (alike == alike.new_tensor([image, across, down])).all(1).nonzero()[:, 0]
            x = _places(starts[own, 0], cells[own, 0], width, across)  # [K', width * across]
            y = _places(starts[own, 1], cells[own, 1], height, down)  # [K', height * down]
            values = _interpolated(input[image], x, y).to(input.dtype)  # [C, K', height * down, width * across]
            output = output.index_copy(0, own, F.avg_pool2d(values, (down, across)).transpose(0, 1))
    return output


def _places(start: Tensor, cell: Tensor, cells: int, points: int) -> Tensor:
    """Coordinates [K, cells * points] of the sampling points on one axis."""
    steps = (torch.arange(cells * points, device=start.device) + 0.5) / points
    return start[:, None] + cell[:, None] * steps


def _interpolated(image: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """An image [C, H, W] at the points of K grids with columns x [K, X] and rows y [K, Y]: [C, K, Y, X]."""
    (height, width), (regions, columns), rows = image.shape[1:], x.shape, y.shape[1]
    grid = torch.stack(  # of the centres of pixels, in -1 to 1 from rim to rim
        [
            ((2 * x + 1) / width - 1)[:, None].expand(-1, rows, -1),
            ((2 * y + 1) / height - 1)[:, :, None].expand(-1, -1, columns),
        ],
        dim=-1,
    ).reshape(1, regions * rows, columns, 2)
    found = F.grid_sample(image[None].to(grid.dtype), grid, padding_mode="border", align_corners=False)
    inside = ((y >= -1) & (y <= height))[:, :, None] & ((x >= -1) & (x <= width))[:, None]  # [K, Y, X]
    return found.view(-1, regions, rows, columns) * inside


def _shape_of_roi_align(input: Tensor, rois: Tensor, _scale: float, height: int, width: int, *_: Any) -> Tensor:
    return input.new_empty(rois.shape[0], input.shape[1], height, width)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    input, rois, *others = inputs
    ctx.save_for_backward(rois)
    ctx.shape, ctx.others = input.shape, others


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    """RoIAlign is linear in its input, so that its gradient needs no values."""
    (rois,) = ctx.saved_tensors
    with torch.enable_grad():
        input = grad.new_zeros(ctx.shape).requires_grad_()
        (found,) = torch.autograd.grad(roi_align(input, rois, *ctx.others), input, grad)
    return (found, *[None] * (1 + len(ctx.others)))
