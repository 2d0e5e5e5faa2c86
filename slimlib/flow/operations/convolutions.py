"""Convolutions: their kernels take channels in and hand channels out, all of them or those of a group."""

from __future__ import annotations

import torch
from torch import Tensor

from slimlib.flow.ids import Dimension, WeightRef, compact, tracked, untracked, varies, varying
from slimlib.flow.operations.operation import Operation, Result, table
from slimlib.flow.operations.products import ANOTHER_AXIS, by_ties, column
from slimlib.flow.operations.unknown import no_rule


def convolution(op: Operation) -> Result:
    """x [N, C, ...] and weight [O, C/groups, ...], or [C, O/groups, ...] where transposed."""
    ids, ref, bias = op.ids[:3]
    x = op.along(ids, op.args[0], 1) if isinstance(ids, WeightRef) and not ids.own else op.data(ids, op.args[0])
    transposed, groups = op.args[6], op.args[8]
    if not isinstance(ref, WeightRef):
        return _fixed_kernel(op, x, ref, groups)
    x = by_ties(op, x)
    outputs = column(op, ref, int(transposed), op.args[1].shape[int(transposed)])
    inputs = column(op, ref, 1 - transposed, op.args[1].shape[1 - transposed])
    op.hands_out(ref.dims[int(transposed)])
    if groups == 1 and varying(x) and not varies(x, 0) and not varies(x, 1):
        if all(x.shape[dim] == op.first.shape[dim] for dim in varying(x)):
            return _along_another_axis(op, x, [inputs, outputs, bias])
        x = _channels_in_space(op, x, ref, inputs)
    arriving = op.column(x, 1)
    if groups > 1:
        in_groups = _transposed_groups if transposed else _groups
        outputs = in_groups(op, ref, arriving, inputs, outputs, groups)
    else:
        op.tie(arriving, inputs)
        op.gives_channels(x, 1, inputs)
    if isinstance(bias, Tensor):
        op.tie(bias, outputs)
    return outputs.view(1, -1, *[1] * (op.first.dim() - 2)).expand(op.first.shape)


def _fixed_kernel(op: Operation, x: Tensor, kernel: Tensor, groups: int) -> Result:
    """A kernel made in forward: the same for every group, or else without a rule."""
    if tracked(kernel) or groups == 1:
        return no_rule(op)
    outputs = _of_each_group(op, op.column(x, 1), groups)
    return outputs.view(1, -1, *[1] * (op.first.dim() - 2)).expand(op.first.shape)


def _of_each_group(op: Operation, arriving: Tensor, groups: int) -> Tensor:
    """Ids of the outputs where all groups have the same kernels: each group is a unit, before as after."""
    into = arriving.reshape(groups, -1)
    op.tie(into, into[:, :1])
    return into[:, 0].repeat_interleave(op.first.shape[1] // groups)


def _repeats(axes: Dimension, groups: int) -> bool:
    """Whether a dimension shows the same kernels for each of the groups."""
    if len(axes) != 1:
        return not axes
    picked = axes[0].picked
    return picked is not None and _are_alike(picked.view(groups, -1))


def _are_alike(groups: Tensor) -> bool:
    return bool((groups == groups[:1]).all())


def _along_another_axis(op: Operation, x: Tensor, of_weight: list[object]) -> Result:
    """A convolution over tokens, whose channels lie in space: it stays, and they pass, since each keeps its place."""
    for ids in of_weight:
        if isinstance(ids, Tensor):
            op.fix(ids, ANOTHER_AXIS)
    return compact(x[:, :1].expand(op.first.shape))  # beyond the last one are zeros at any width


def _channels_in_space(op: Operation, x: Tensor, ref: WeightRef, inputs: Tensor) -> Tensor:
    """Channels along a side of what is taken for an image: a kernel over all of them is a product, others mix them."""
    (side, *others), (_, weight, _, _, padding, _, transposed, *_) = varying(x), op.args
    if others or transposed or weight.shape[side] != x.shape[side] or padding[side - 2]:
        op.fix(x, ANOTHER_AXIS)
    else:
        op.tie(op.column(x, side), column(op, ref, side, x.shape[side]))
    op.fix(inputs, ANOTHER_AXIS)
    return untracked(x.shape)


def _groups(op: Operation, ref: WeightRef, arriving: Tensor, inputs: Tensor, outputs: Tensor, groups: int) -> Tensor:
    """Ids of the outputs of a grouped convolution: the groups follow the channels where each has one input channel."""
    out = outputs.view(groups, -1)
    if len(inputs) == 1:
        op.fix(inputs, "the one input channel of a group")
        if _repeats(ref.dims[0], groups):
            op.fix(out, "the same for every channel")
            return _of_each_group(op, arriving, groups)
        op.tie(arriving[:, None], out)
    else:  # every group keeps the same leading channels
        into = arriving.reshape(groups, -1)
        op.tie(into, into[:1])
        op.tie(into[0], inputs)
        op.tie(out, out[:1])
    return outputs


def _transposed_groups(
    op: Operation, ref: WeightRef, arriving: Tensor, inputs: Tensor, outputs: Tensor, groups: int
) -> Tensor:
    """The same for a transposed convolution, whose weight [C, O/groups, ...] lists the outputs of one group."""
    into = inputs.view(groups, -1)
    of_samples = into.shape[1] > 1 and _are_alike(arriving.view(groups, -1))  # whose channels are side by side
    if _repeats(ref.dims[0], groups) and not of_samples:
        op.fix(torch.cat((inputs, outputs)), "the same for every channel")
        return _of_each_group(op, arriving, groups)
    op.tie(arriving, inputs)
    if len(inputs) == groups:
        op.fix(outputs, "the outputs of one group of a transposed convolution")
        for axis in ref.dims[1]:
            for key in axis.keys:
                op.context.ties.producers.pop(key, None)
        op.hands_out(ref.dims[0])
        return inputs.repeat_interleave(len(outputs))
    op.tie(into, into[:1])
    return outputs.repeat(groups)


OPERATIONS = table((convolution, "convolution"))
