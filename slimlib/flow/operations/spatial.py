"""Pooling, resizing and padding in space: every channel by itself."""

from __future__ import annotations

import re

import torch

from slimlib.flow.ids import compact, distinct, varies, varying
from slimlib.flow.operations.operation import Operation, Result, table
from slimlib.flow.operations.unknown import no_rule


def spatial(op: Operation) -> Result:
    """x [N, C, ...] or [C, ...]: channels keep their place, other dimensions change."""
    ids, shape, alone = op.x, op.first.shape, _alone(op)
    space = [dim for dim in range(ids.dim()) if ids.shape[dim] != shape[dim] or (dim >= 2 and dim not in alone)]
    if any(varies(ids, dim) for dim in space):
        column = op.column(ids, 1)
        ids = column.view(1, -1, *[1] * (ids.dim() - 2))
        return ids.expand(shape)
    for dim in space:
        ids = ids.narrow(dim, 0, 1)
    return compact(ids.expand(shape))


def _alone(op: Operation) -> list[int]:
    """The dimensions along which a pool sees each place by itself: its window and stride there are 1."""
    if "adaptive" in op.name or not (pools := re.search(r"_pool(\d)d", op.name)):
        return []
    count = int(pools[1])
    window = op.argument(1, "kernel_size")
    options = (window, op.argument(2, "stride") or window, op.argument(3, "padding", 0))
    sizes = [list(o) * (count // len(o)) if isinstance(o, (list, tuple)) else [o] * count for o in options]
    return [op.x.dim() - count + i for i, found in enumerate(zip(*sizes, strict=True)) if found == (1, 1, 0)]


def unpool(op: Operation) -> Result:
    """x and the places of its values, which pooling told of as many channels."""
    channels = -1 - len(op.args[2])
    op.tie(op.column(op.ids[0], channels), op.column(op.ids[1], channels))
    return spatial(op)


def unfold(op: Operation) -> Result:
    """x [N, C, H, W] -> [N, C * window, L]: a channel becomes as many as a window has places."""
    column, shape = op.column(op.x, -3), op.first.shape
    return column.repeat_interleave(shape[-2] // len(column)).view(-1, 1).expand(shape)


def fold(op: Operation) -> Result:
    """x [N, C * window, L] -> [N, C, H, W]: what lies in one window is one channel again."""
    shape = op.first.shape
    windows = op.column(op.x, -2).view(shape[-3], -1)
    op.tie(windows, windows[:, :1])
    return windows[:, :1].reshape(-1, 1, 1).expand(shape)


def pad(op: Operation) -> Result:
    """Zeros, or another number, around space; new channels of zeros are channels that forward makes by itself."""
    widths = op.args[1]
    padded = [op.x.dim() - 1 - i for i in range(len(widths) // 2) if widths[2 * i] or widths[2 * i + 1]]
    if any(varies(op.x, dim) for dim in padded):
        return compact(torch.ops.aten.constant_pad_nd(op.x, widths, 0))
    ids = op.x
    for dim in padded:
        ids = ids.narrow(dim, 0, 1)
    return ids.expand(op.first.shape)


def fourier(op: Operation) -> Result:
    """Over space, each channel by itself; over channels it mixes them all."""
    ids = distinct(op.x)
    dims = [dim % ids.dim() for dim in op.args[1]]
    if varying(ids) and set(varying(ids)) <= set(dims):
        return no_rule(op, "mixes all channels")
    for dim in dims:
        first = ids.amax(dim, keepdim=True)  # 0: what forward added
        op.tie(ids, first)
        ids = first
    return compact(ids.expand(op.first.shape))


OPERATIONS = table(
    (
        spatial,
        "avg_pool1d avg_pool2d avg_pool3d max_pool2d_with_indices max_pool3d_with_indices max_pool1d max_pool2d "
        "max_pool3d _adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_avg_pool1d adaptive_max_pool2d "
        "adaptive_max_pool3d upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact2d "
        "upsample_linear1d upsample_bilinear2d upsample_bicubic2d upsample_trilinear3d _upsample_bilinear2d_aa "
        "_upsample_bicubic2d_aa reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d "
        "replication_pad2d replication_pad3d grid_sampler_2d grid_sampler_3d fractional_max_pool2d",
    ),
    (unpool, "max_unpool2d max_unpool3d"),
    (unfold, "im2col"),
    (fold, "col2im"),
    (pad, "constant_pad_nd"),
    (fourier, "_fft_c2c _fft_r2c _fft_c2r"),
)
