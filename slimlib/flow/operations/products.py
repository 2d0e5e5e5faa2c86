"""Convolutions, matrix products and embeddings: their weights take channels in and hand channels out."""

from __future__ import annotations

import torch
from torch import Tensor

from slimlib.flow.ids import WeightRef, compact, distinct, everywhere, tracked, varies, varying
from slimlib.flow.operations.operation import Operation, Result, table
from slimlib.flow.operations.unknown import no_rule
from slimlib.flow.steps import FlowError


def _weight_channels(op: Operation, ref: WeightRef, weight: Tensor, dim: int, produces: bool) -> Tensor:
    """The ids of one axis of a weight; 0 for an axis of size 1 that is none of the parameter's."""
    axis = ref.dims[dim]
    if axis is None:
        return torch.zeros(weight.shape[dim], dtype=torch.long)
    key = (ref.name, axis)
    if produces:
        op.context.ties.producers[key] = None
    return op.context.ties.fresh(key, weight.shape[dim])


def _refuse_computed(op: Operation, weight: Tensor) -> None:
    """A weight that forward computes by other operations than a known parametrization."""
    if weight in op.context.computed:
        name, how = op.context.computed[weight]
        raise FlowError(
            f"the weight of {op.context.here} is computed from '{name}' by {how}: slimlib follows weights as they are, "
            "or by torch's weight_norm. Remove the parametrization, or compute the weight outside of the network."
        )


def convolution(op: Operation) -> Result:
    """x [N, C, ...] and weight [O, C/groups, ...], or [C, O/groups, ...] where transposed."""
    ref, weight = op.ids[1], op.args[1]
    if not isinstance(ref, WeightRef):
        _refuse_computed(op, weight)
        return no_rule(op)
    transposed, groups = op.args[6], op.args[8]
    outputs = _weight_channels(op, ref, weight, 1 if transposed else 0, produces=True)
    inputs = _weight_channels(op, ref, weight, 0 if transposed else 1, produces=False)
    if groups == 1 and op.x.shape[1] > 1 and varying(op.x) and not varies(op.x, 0) and not varies(op.x, 1):
        return _along_another_axis(op, inputs, outputs)
    arriving = op.column(op.x, 1)
    if groups > 1:
        in_groups = _transposed_groups if transposed else _groups
        outputs = in_groups(op, arriving, inputs, outputs, groups)
    else:
        op.tie(arriving, inputs)
    if isinstance(op.ids[2], Tensor):
        op.tie(op.ids[2], outputs)
    return outputs.view(1, -1, *[1] * (op.first.dim() - 2)).expand(op.first.shape)


def _along_another_axis(op: Operation, inputs: Tensor, outputs: Tensor) -> Result:
    """A convolution over tokens, whose channels lie in space: it stays, and they pass where its kernel is 1."""
    why = "acts along another axis than the channels"
    for ids in (inputs, outputs, op.ids[2]):
        if isinstance(ids, Tensor):
            op.fix(ids, why)
    kernel = op.args[1].shape[2:]
    if all(kernel[dim - 2] == 1 and op.x.shape[dim] == op.first.shape[dim] for dim in varying(op.x)):
        return compact(op.x[:, :1].expand(op.first.shape))
    op.fix(op.x, why)
    return everywhere(op.stay(why), op.first.shape)


def _groups(op: Operation, arriving: Tensor, inputs: Tensor, outputs: Tensor, groups: int) -> Tensor:
    """Ids of the outputs of a grouped convolution: the groups follow the channels where each has one input channel."""
    out = outputs.view(groups, -1)
    if len(inputs) == 1:
        op.tie(arriving[:, None], out)
        op.fix(inputs, "the one input channel of a group")
    else:  # every group keeps the same leading channels
        into = arriving.reshape(groups, -1)
        op.tie(into, into[:1])
        op.tie(into[0], inputs)
        op.tie(out, out[:1])
    return outputs


def _transposed_groups(op: Operation, arriving: Tensor, inputs: Tensor, outputs: Tensor, groups: int) -> Tensor:
    """The same for a transposed convolution, whose weight [C, O/groups, ...] lists the outputs of one group."""
    op.tie(arriving, inputs)
    if len(inputs) == groups:
        op.fix(outputs, "the outputs of one group of a transposed convolution")
        op.context.ties.producers.pop((op.ids[1].name, op.ids[1].dims[1]), None)
        op.context.ties.producers[(op.ids[1].name, op.ids[1].dims[0])] = None
        return inputs.repeat_interleave(len(outputs))
    into = inputs.view(groups, -1)
    op.tie(into, into[:1])
    return outputs.repeat(groups)


def mm(op: Operation) -> Result:
    return _product(op, op.x, 1, bias=None)


def addmm(op: Operation) -> Result:
    bias = op.ids[0]
    return _product(op, op.ids[1], 2, bias=bias if isinstance(bias, Tensor) else None)


def _product(op: Operation, x: Tensor, position: int, bias: Tensor | None) -> Result:
    """x [M, C] @ weight [C, O] (+ bias)."""
    ref, weight = op.ids[position], op.args[position]
    if not isinstance(ref, WeightRef):
        _refuse_computed(op, weight)
    if not isinstance(x, Tensor) and not isinstance(ref, WeightRef):
        x = op.context.shadow(op.args[position - 1], as_weight=False)
    if not isinstance(x, Tensor):
        return no_rule(_as_data(op))
    if isinstance(ref, WeightRef):
        return _linear(op, x, ref, weight, bias)
    batched = _batched(op, x[None], ref[None], torch.Size((1, *op.first.shape)))
    out = None if batched is None else batched[0]
    return out if bias is None or out is None else op.elementwise([out, bias], op.first.shape)


def _linear(op: Operation, x: Tensor, ref: WeightRef, weight: Tensor, bias: Tensor | None) -> Result:
    outputs = _weight_channels(op, ref, weight, 1, produces=True)
    inputs = _weight_channels(op, ref, weight, 0, produces=False)
    if x.shape[1] > 1 and varies(x, 0) and not varies(x, 1):  # a mixer's tokens
        why = "acts along another axis than the channels"
        op.fix(outputs, why)
        op.fix(inputs, why)
        if bias is not None:
            op.fix(bias, why)
        return compact(x[:, :1].expand(op.first.shape))
    op.tie(op.column(x, 1), inputs)
    if bias is not None:
        op.tie(bias, outputs)
    return outputs.expand(op.first.shape)


def bmm(op: Operation) -> Result:
    """x [B, M, K] @ y [B, K, N]."""
    x, y = op.ids
    if isinstance(y, WeightRef) and isinstance(x, Tensor) and op.args[0].shape[0] == 1:
        flat = WeightRef(y.name, y.dims[1:])
        out = _linear_of_einsum(op, x[0], flat, op.args[1][0])
        return None if out is None else out[None]
    if isinstance(x, WeightRef) or isinstance(y, WeightRef):
        for weight, ref in zip(op.args, (x, y), strict=True):
            if isinstance(ref, WeightRef):
                op.context.computed[weight] = (ref.name, "a batched product")
                _refuse_computed(op, weight)
    return _batched(op, x, y, op.first.shape)


def _linear_of_einsum(op: Operation, x: Tensor, ref: WeightRef, weight: Tensor) -> Tensor | None:
    out = op.out
    op.out = out[0]
    shadow = _linear(op, x, ref, weight, None)
    op.out = out
    return shadow if isinstance(shadow, Tensor) else None


def baddbmm(op: Operation) -> Result:
    out = _batched(op, op.ids[1], op.ids[2], op.first.shape)
    return op.elementwise([out, op.x], op.first.shape) if out is not None else op.x.expand(op.first.shape)


def _batched(op: Operation, x: Tensor, y: Tensor, shape: torch.Size) -> Tensor | None:
    """A product of two tensors that both follow channels, as attention has it."""
    canonical = op.context.ties.canonical
    x, y = compact(canonical(x)), compact(canonical(y))
    if varies(x, 0) or varies(y, 0):
        heads = torch.cat([_rows(x), _rows(y)], 1)  # all channels of a head are one unit
        first = torch.where(heads > 0, heads, heads.max() + 1).min(1).values
        op.tie(heads, first[:, None])
        return first.view(-1, 1, 1).expand(shape)
    if varies(x, 1) and varies(y, 2):
        why = "outer product of channels"
        op.fix(x, why)
        op.fix(y, why)
        return everywhere(op.stay(why), shape)
    if varies(x, 2) or varies(y, 1):
        op.tie(op.column(x, 2), op.column(y, 1))
    if varies(x, 1):
        return compact(x[:, :, :1].expand(shape))
    if varies(y, 2):
        return compact(y[:, :1, :].expand(shape))
    outer = [ids[(0,) * ids.dim()] for ids in (x, y) if tracked(ids) and not varies(ids, 1) and not varies(ids, 2)]
    return outer[0].expand(shape) if outer else None


def _rows(ids: Tensor) -> Tensor:
    small = distinct(ids)
    return small.reshape(small.shape[0], -1).expand(ids.shape[0], -1)


def _as_data(op: Operation) -> Operation:
    """The same operation, its weights seen as data."""
    op.ids = [op.context.shadow(x, as_weight=False) for x in op.args]
    return op


def embedding(op: Operation) -> Result:
    """weight [rows, O]: rows are looked up, columns are channels."""
    ref, weight = op.ids[0], op.args[0]
    if not isinstance(ref, WeightRef):
        return op.elementwise([op.column(op.x, 1)], op.first.shape)
    op.fix(_weight_channels(op, ref, weight, 0, produces=False), "rows of an embedding")
    return _weight_channels(op, ref, weight, 1, produces=True).expand(op.first.shape)


RULES = table(
    (convolution, "convolution"),
    (mm, "mm"),
    (addmm, "addmm"),
    (bmm, "bmm"),
    (baddbmm, "baddbmm"),
    (embedding, "embedding"),
)
