"""Weights known by their axes: moved about, cut, joined, and computed with, as long as every channel goes its way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod

import torch
from torch import Tensor

from slimlib.flow.ids import Dimension, WeightAxis, WeightRef, kinds, tracked, untracked, varying
from slimlib.flow.operations import elementwise as entrywise
from slimlib.flow.operations import norms, reductions
from slimlib.flow.operations.operation import Operation, Result, table

# A rule here returns None where the elements of the weight are but data, as those of a table of positions may be.


def same(op: Operation) -> Result:
    return op.ids[0]  # type: ignore[no-any-return]


def permute(op: Operation) -> Result:
    ref: WeightRef = op.ids[0]
    order = list(range(len(ref.dims)))
    if op.name == "t":
        order.reverse()
    elif op.name == "transpose":
        a, b = op.args[1], op.args[2]
        order[a], order[b] = order[b], order[a]
    else:
        order = [dim % len(order) for dim in op.args[1]]
    return WeightRef(ref.name, tuple(ref.dims[dim] for dim in order), ref.own)


def regroup(op: Operation) -> Result:
    """A view: axes side by side become one dimension, or come apart again; none is cut, but what is repeated may be."""
    ref: WeightRef = op.ids[0]
    pieces: list[tuple[Dimension, int]] = []
    for axes, size in zip(ref.dims, op.args[0].shape, strict=True):
        pieces += [((axis,), len(axis.ids)) for axis in axes] if axes else [((), size)]
    dims: list[Dimension] = []
    for size in op.first.shape:
        axes, taken = (), 1
        while pieces and taken < size:
            more, length = pieces.pop(0)
            if 1 < (need := size // taken) < length and length % need == 0 and (parts := _apart(more, need)):
                pieces.insert(0, (parts[1], length // need))
                more, length = parts[0], need
            axes, taken = _merged(axes, taken, more, length), taken * length
        if taken != size or (axes and prod(len(axis.ids) for axis in axes) != size):
            return None
        dims.append(axes)
    rest = tuple(axis for more, _ in pieces for axis in more)  # of size 1
    return WeightRef(ref.name, (*dims[:-1], dims[-1] + rest), ref.own) if dims else None


def _apart(axes: Dimension, count: int) -> tuple[Dimension, Dimension] | None:
    """A dimension as two, the first of a size: what is repeated may be cut anywhere, an axis between repetitions."""
    if not axes:
        return (), ()
    (axis,) = axes
    blocks, every = axis.ids.view(count, -1), len(axis.ids) // count
    if bool((blocks == blocks[:1]).all()):
        return (), (axis.pick(torch.arange(every)),)
    if bool((blocks == blocks[:, :1]).all()):
        return (axis.pick(torch.arange(0, len(axis.ids), every)),), ()
    return None


def _merged(axes: Dimension, taken: int, more: Dimension, length: int) -> Dimension:
    """Two dimensions as one; what is repeated along one of them is so along the axis of the other."""
    if axes and not more:
        return (*axes[:-1], _repeated(axes[-1], length, 1))
    if more and not axes:
        return (_repeated(more[0], 1, taken), *more[1:])
    return (*axes, *more)


def _repeated(axis: WeightAxis, each: int, times: int) -> WeightAxis:
    if each == times == 1:
        return axis
    return axis.pick(torch.arange(len(axis.ids)).repeat_interleave(each).repeat(times))


def expand(op: Operation) -> Result:
    """Also `repeat`, which repeats what has size 1, or an axis."""
    ref, old, new = op.ids[0], op.args[0].shape, op.first.shape
    begin = len(new) - len(old)
    kept: list[Dimension] = []
    single: Dimension = ()
    for axes, size, wide in zip(ref.dims, old, new[begin:], strict=True):
        if size == 1 != wide:
            single += axes
            axes = ()
        elif size != wide and len(axes) > 1:
            return None
        elif size != wide:
            axes = tuple(_repeated(axis, 1, wide // size) for axis in axes)
        kept.append(axes)
    shown = next((dim for dim, axes in enumerate(kept) if axes), None)
    if shown is not None:
        kept[shown] += single
    return WeightRef(ref.name, ((),) * begin + tuple(kept), ref.own and (shown is not None or not single))


def cut(op: Operation) -> Result:
    """slice, select, narrow, flip, split and their like pick positions along one dimension."""
    ref: WeightRef = op.ids[0]
    dim = op.argument(2 if op.name in LATE else 1, "dim", 0)
    dims = [d % len(ref.dims) for d in (dim if isinstance(dim, (list, tuple)) else [dim])]
    if len(dims) != 1 or len(ref.dims[dim := dims[0]]) != 1:
        return None
    axis, shape = ref.dims[dim][0], [1] * len(ref.dims)
    shape[dim] = len(axis.ids)
    positions = op.func(torch.arange(len(axis.ids)).view(shape), *op.args[1:], **op.kwargs)
    parts = [_with_axis(op, ref, dim, axis.pick(p.reshape(-1))) for p in _listed(positions)]
    return parts if isinstance(positions, (tuple, list)) else parts[0]


def _with_axis(op: Operation, ref: WeightRef, dim: int, axis: WeightAxis) -> WeightRef | None:
    dims = list(ref.dims)
    dims[dim] = (axis,)
    if op.name in {"select", "unbind"}:
        del dims[dim]
        shown = [d for d, axes in enumerate(dims) if axes]
        if not shown:
            return None
        dims[shown[0]] += (axis,)  # of size 1
    return WeightRef(ref.name, tuple(dims), ref.own)


def _listed(x: Tensor | Sequence[Tensor]) -> Sequence[Tensor]:
    return [x] if isinstance(x, Tensor) else x


def pad(op: Operation) -> Result:
    """A kernel with zeros around it."""
    ref, widths = op.ids[0], op.args[1]
    dims = list(ref.dims)
    for i in range(len(widths) // 2):
        dim = len(dims) - 1 - i
        if (widths[2 * i] or widths[2 * i + 1]) and len(dims[dim]) != 1:
            return None
        dims[dim] = tuple(
            WeightAxis(axis.keys, torch.nn.functional.pad(axis.ids, tuple(widths[2 * i : 2 * i + 2])))
            for axis in dims[dim]
        )
    return WeightRef(ref.name, tuple(dims), own=False)


def look_up(op: Operation) -> Result:
    """Rows of a table, by their numbers."""
    ref: WeightRef = op.ids[0]
    if op.name == "index_select":
        dim, index = op.args[1] % len(ref.dims), op.args[2]
    else:
        found = [(d, i) for d, i in enumerate(op.args[1]) if i is not None]
        if len(found) != 1 or found[0][1].dtype in (torch.bool, torch.uint8):
            return None
        dim, index = found[0]
    for axis in ref.dims[dim]:
        op.fix(axis.ids, "rows of a table")
    dims = (*ref.dims[:dim], *[()] * index.dim(), *ref.dims[dim + 1 :])
    return WeightRef(ref.name, dims, own=False)


def join(op: Operation) -> Result:
    """cat of weights alone: their channels side by side."""
    refs = list(op.ids[0])
    if not all(isinstance(ref, WeightRef) for ref in refs):
        return None
    dim = op.argument(1, "dim", 0) % len(refs[0].dims)
    if any(len(ref.dims[dim]) != 1 for ref in refs):
        return None
    axes = [ref.dims[dim][0] for ref in refs]
    joined = WeightAxis(tuple(key for axis in axes for key in axis.keys), torch.cat([axis.ids for axis in axes]))
    dims = [merged(op, [ref.dims[d] for ref in refs]) for d in range(len(refs[0].dims))]
    dims[dim] = (joined,)
    return WeightRef(refs[0].name, tuple(dims), own=False)


def merged(op: Operation, dims: Sequence[Dimension]) -> Dimension:
    """One dimension of weights that meet element by element."""
    found: Dimension = ()
    for axes in dims:
        if found and axes:
            size = prod(len(axis.ids) for axis in axes)
            op.tie(WeightRef("", (found,)).column(0, size), WeightRef("", (axes,)).column(0, size))
        found = found or axes
    return found


def elementwise(op: Operation) -> Result:
    """Weights with numbers, with each other, or with vectors of parameters; and with activations, as positions are."""
    out = op.first
    refs = [ref for ref in op.weights if len(ref.dims) <= out.dim()]
    others = [(ids, x) for ids, x in op.operands if isinstance(ids, Tensor) and tracked(ids) and x.numel() > 1]
    if any(op.context.source_of(x) is None or not _is_vector(ids, x) for ids, x in others):
        return _with_activations(op, refs, [ids for ids, _ in others])
    dims: list[Dimension] = []
    for dim in range(-out.dim(), 0):
        along = [ref.dims[dim] for ref in refs if -dim <= len(ref.dims) and _shows(ref.dims[dim], out.shape[dim])]
        dims.append(merged(op, along))
    for ids, _ in others:
        along_dims = [dim - ids.dim() for dim in varying(ids)]
        if len(along_dims) > 1 or any(not dims[dim] for dim in along_dims):
            return None
        for dim in along_dims:
            op.tie(op.column(ids, dim % ids.dim()), WeightRef("", tuple(dims)).column(dim, out.shape[dim]))
    own = len(refs) == 1 and refs[0].own and not others
    return WeightRef(refs[0].name, tuple(dims), own)


def _is_vector(ids: Tensor, x: Tensor) -> bool:
    """Whether there is a number for each channel alone: what attention makes of a table of queries has one for each."""
    return x.numel() == prod(x.shape[dim] for dim in varying(ids))


def _shows(axes: Dimension, size: int) -> bool:
    return prod(len(axis.ids) for axis in axes) == size


def _with_activations(op: Operation, refs: Sequence[WeightRef], others: Sequence[Tensor]) -> Result:
    """Activations whose channels lie along one dimension tell along which the weight has the same."""
    shape = op.first.shape
    along = {dim - ids.dim() for ids in others for dim in varying(ids) if kinds(ids, dim) == ids.shape[dim]}
    if len(along) != 1:
        return None
    dim = along.pop()
    if any(-dim > len(ref.dims) or not ref.dims[dim] or not _shows(ref.dims[dim], shape[dim]) for ref in refs):
        return None  # it is repeated over them, as a rotation is over heads
    out = op.elementwise(others, shape)
    for ref in refs:
        op.tie(op.column(out, dim % len(shape)), ref.column(dim, shape[dim]))
        for axis in [axis for axes in ref.dims if axes is not ref.dims[dim] and not ref.name for axis in axes]:
            op.fix(axis.ids, "the same for all heads")
    return _kernel(op, refs, others, dim, out) or out


def _kernel(op: Operation, refs: Sequence[WeightRef], others: Sequence[Tensor], dim: int, out: Tensor) -> Result:
    """A weight times a number for each sample and channel: a kernel of each sample, or a table that is gated.

    Which of both is told by what it is used for. A table of positions has no axis over which all else is repeated.
    """
    shape = op.first.shape
    sizes = [max(1 if -d > ids.dim() else ids.shape[d] for ids in others) for d in range(-len(shape), 0)]
    dims = [
        refs[0].dims[d] if -d <= len(refs[0].dims) and _shows(refs[0].dims[d], shape[d]) else ()
        for d in range(-len(shape), 0)
    ]
    over = [d for d, axes in enumerate(dims) if axes and shape[d] > 1 == sizes[d] and d != dim % len(shape)]
    if len(refs) > 1 or not over or op.name != "mul":
        return None
    return WeightRef(refs[0].name, tuple(dims), own=False, as_data=out)


def reduce(op: Operation) -> Result:
    """A statistic of a weight over some of its axes: over those of its channels that are active."""
    ref: WeightRef = op.ids[0]
    if not isinstance(ref, WeightRef) or any(isinstance(x, Tensor) for x in op.args[1:]):
        return None
    over = reductions.dimensions(op, len(ref.dims))
    for axis in [axis for dim in over for axis in ref.dims[dim]]:
        op.context.statistic(axis.ids)
    if op.first.dim() == len(ref.dims):
        dims = [() if dim in over else axes for dim, axes in enumerate(ref.dims)]
    else:
        dims = [axes for dim, axes in enumerate(ref.dims) if dim not in over]
    made = WeightRef(ref.name, tuple(dims), own=False) if any(dims) else untracked(op.first.shape)
    return [made] * len(op.out) if isinstance(op.out, (tuple, list)) else made


def batch_norm(op: Operation) -> Result:
    """Standardised for each output: the weight is [1, O, I * k * k], and there are no running statistics."""
    ref: WeightRef = op.ids[0]
    if not isinstance(ref, WeightRef) or any(isinstance(x, Tensor) for x in op.args[3:5]):
        return None
    size = op.args[0].shape[1]
    for ids in op.ids[1:3]:
        if isinstance(ids, WeightRef):  # a gain [O, 1, 1, 1] that was viewed as a vector
            op.tie(ids.column(0, size), ref.column(1, size))
        elif isinstance(ids, Tensor) and ref.dims[1]:
            op.tie(op.column(ids, 0), ref.column(1, size))
    for axis in [axis for dim in (0, 2) for axis in ref.dims[dim]]:
        op.context.statistic(axis.ids)
    return [WeightRef(ref.name, ref.dims, own=False), None, None, None]


def layer_norm(op: Operation) -> Result:
    """Of a table of learned tokens, over the channels of its last axis."""
    if not isinstance(op.ids[0], WeightRef) or len(op.argument(1, "normalized_shape")) > 1:
        return None
    of_tokens = replace(op, ids=[op.along(op.ids[0], op.args[0], -1), *op.ids[1:]])
    of_tokens.see_as_data()
    return norms.layer_norm(of_tokens)


def weight_norm(op: Operation) -> Result:
    """v and g -> weight; g has one element for every channel along `dim`."""
    ref, g = op.ids[0], op.ids[1]
    dim: int = op.argument(2, "dim", 0)
    if not isinstance(ref, WeightRef):
        return None
    size = op.args[0].shape[dim]
    if size > 1:
        ids = g.column(dim, size) if isinstance(g, WeightRef) else g.reshape(-1)
        op.tie(ids, ref.column(dim, size))
    return [WeightRef(ref.name, ref.dims, own=False), None]


def fourier(op: Operation) -> Result:
    """A transform along axes of a table that hold no channels, as the time of long kernels: all of them is needed."""
    ref: WeightRef = op.ids[0]
    over = {dim % len(ref.dims) for dim in op.args[1]}
    if not any(axes for dim, axes in enumerate(ref.dims) if dim not in over):
        return None
    for axis in [axis for dim in over for axis in ref.dims[dim]]:
        op.fix(axis.ids, "mixes all positions")
    return WeightRef(ref.name, tuple(() if dim in over else axes for dim, axes in enumerate(ref.dims)), own=False)


def as_complex(op: Operation) -> Result:
    """[..., 2] -> [...]: the last axis holds the two parts of each number."""
    ref: WeightRef = op.ids[0]
    for axis in ref.dims[-1]:
        op.fix(axis.ids, "the parts of complex numbers")
    return WeightRef(ref.name, ref.dims[:-1], own=False) if any(ref.dims[:-1]) else None


def as_real(op: Operation) -> Result:
    """[...] -> [..., 2]."""
    return WeightRef(op.ids[0].name, (*op.ids[0].dims, ()), own=False)


LATE = {"split", "split_with_sizes", "chunk", "roll"}  # whose dimension is the third argument
OPERATIONS = table(
    (same, "detach alias clone contiguous _to_copy lift_fresh positive"),
    (permute, "t transpose permute"),
    (regroup, "unsqueeze squeeze view _unsafe_view reshape _reshape_alias"),
    (expand, "expand repeat"),
    (cut, "slice select narrow flip roll unbind split split_with_sizes chunk"),
    (look_up, "index index_select"),
    (join, "cat"),
    (pad, "constant_pad_nd"),
    (elementwise, " ".join(entrywise.OPERATIONS)),
    (reduce, " ".join(reductions.STATISTICS)),
    (batch_norm, "native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_functional cudnn_batch_norm"),
    (layer_norm, "native_layer_norm rms_norm"),
    (weight_norm, "_weight_norm_interface"),
    (fourier, "_fft_c2c _fft_r2c _fft_c2r"),
    (as_complex, "view_as_complex"),
    (as_real, "view_as_real"),
)
