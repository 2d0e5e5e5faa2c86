"""Matrix products and embeddings: their weights take channels in and hand channels out."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from slimlib.flow.ids import (
    Shadow,
    WeightAxis,
    WeightRef,
    compact,
    distinct,
    everywhere,
    tracked,
    untracked,
    varies,
    varying,
)
from slimlib.flow.operations.elementwise import meet
from slimlib.flow.operations.operation import Operation, Result, table
from slimlib.flow.operations.unknown import no_rule
from slimlib.flow.undecided import Pair

NO_ID = torch.iinfo(torch.long).max
ANOTHER_AXIS = "acts along another axis than the channels"


def column(op: Operation, ref: WeightRef, dim: int, size: int, arriving: Tensor | None = None) -> Tensor:
    """One id for every position of a weight's dimension, and of the channels that arrive there.

    Of several axes that it shows, as heads and the channels of each, only one can be followed: the one along which
    what arrives varies, or else the first. The others stay.
    """
    axes = ref.dims[dim]
    if len(axes) < 2:
        return ref.column(dim, size)
    ties, sizes = op.context.ties, [len(axis.ids) for axis in axes]
    known = [i for i, axis in enumerate(axes) if not ties.inner.issuperset(axis.keys)] or list(range(len(axes)))
    along = [] if arriving is None else varying(compact(ties.canonical(arriving).reshape(sizes)))
    long = along if len(along) == 1 else [i for i in known if sizes[i] > 1]
    shown = next((i for i in long if i in known), known[0])
    for i, axis in enumerate(axes):
        if i != shown and sizes[i] > 1:
            ties.inner.update(axis.keys)
            op.fix(axis.ids, "lies within the channels of another axis")
    return axes[shown].ids.view([-1 if i == shown else 1 for i in range(len(axes))]).expand(sizes).reshape(size)


def by_ties(op: Operation, x: Tensor) -> Tensor:
    """The ids, in which those that are tied are the same: branches side by side may have one channel each."""
    return compact(op.context.ties.canonical(x)) if len(varying(x)) > 1 else x


def linear(op: Operation) -> Result:
    """x [..., C], weight [O, C], bias [O]."""
    x, ref, bias = op.along(op.ids[0], op.args[0], -1), op.ids[1], op.argument_ids(2, "bias")
    if not isinstance(ref, WeightRef):
        if op.args[1].numel() == 1:  # a number, which may be what is left of a weight
            passing = op.data(x, op.args[0])
            return passing if varying(passing) else untracked(op.first.shape)
        return mv(op) if ref.dim() == 1 and bias is None else no_rule(op)
    return _contract(op, x, ref, bias, inputs=1, outputs=0, along=-1)


def _contract(
    op: Operation, x: Tensor, ref: WeightRef, bias: object, *, inputs: int, outputs: int, along: int
) -> Tensor:
    """The product of dimension `along` of x and dimension `inputs` of a weight, with `outputs` in its place."""
    weight = next(tensor for ids, tensor in op.operands if ids is ref)
    shape, size, x = op.first.shape, weight.shape[inputs], by_ties(op, x)
    if _acts_on_each_head(op, x, along % x.dim()):
        return _of_whole_heads(op, x, ref, bias, along % x.dim())
    made = column(op, ref, outputs, weight.shape[outputs])
    op.hands_out(ref.dims[outputs])
    if x.shape[along] > 1 and varying(x) and not varies(x, along):  # a mixer's tokens
        for ids in (ref.column(inputs, size), made, bias):
            if isinstance(ids, Tensor):
                op.context.ties.keep_apart(ids, f"{ANOTHER_AXIS}: {op.context.here}")
        return compact(x.narrow(along, 0, 1).expand(shape))
    arriving = op.column(x, along % x.dim())
    entering = column(op, ref, inputs, size, arriving)
    op.tie(arriving, entering)
    op.gives_channels(x, along % x.dim(), entering)
    if isinstance(bias, Tensor):
        op.tie(bias, made)
    return made.view([-1 if dim == along % len(shape) else 1 for dim in range(len(shape))]).expand(shape)


def _acts_on_each_head(op: Operation, x: Tensor, along: int) -> bool:
    """Whether one weight acts on each head [..., H, D], of which whole ones are to slim; else D shrinks for all."""
    few = distinct(x)
    if varies(x, along) and len(varying(x)) > 1 and len(torch.unique(few)) == few.numel():
        op.context.ties.shared.add(op.context.site)
    return op.context.site in op.context.choices.whole


def _of_whole_heads(op: Operation, x: Tensor, ref: WeightRef, bias: object, along: int) -> Tensor:
    op.tie(x, x.narrow(along, 0, 1))
    for ids in (*(axis.ids for axis in ref.axes), bias):
        if isinstance(ids, Tensor):
            op.context.ties.keep_apart(ids, f"the same for all heads: {op.context.here}")
    return compact(x.narrow(along, 0, 1).expand(op.first.shape))


def mm(op: Operation) -> Result:
    return _product(op, op.ids[0], op.ids[1], op.args[0], op.args[1], None)


def addmm(op: Operation) -> Result:
    bias = op.data(op.ids[0], op.args[0])
    return _product(op, op.ids[1], op.ids[2], op.args[1], op.args[2], bias)


def _product(op: Operation, a: Shadow, b: Shadow, x: Tensor, y: Tensor, bias: Tensor | None) -> Result:
    """x [M, K] @ y [K, N] (+ bias), of ids a and b."""
    vector = bias if bias is not None and bias.dim() == 1 else None
    if isinstance(a, WeightRef) and isinstance(b, WeightRef):
        if bias is None:
            return _of_two_weights(op, a, b, x, y)
        a = op.data(a, x)
    if isinstance(b, WeightRef):
        assert isinstance(a, Tensor)
        if bias is None and len(b.dims[1]) > 3:  # kernels of images, flattened, in a mixture for each sample
            for ids in (op.column(a, 1), b.column(0, len(y))):
                op.fix(ids, "experts")
            return WeightRef(b.name, ((), b.dims[1]), own=False)
        out: Tensor | None = _contract(op, a, b, vector, inputs=0, outputs=1, along=1)
        bias = bias if vector is None else None
    elif isinstance(a, WeightRef):
        out = _contract(op, b, a, None, inputs=1, outputs=0, along=0)
    else:
        made = batched(op, a[None], b[None], torch.Size((1, *op.first.shape)))
        if isinstance(made, WeightRef):
            return WeightRef(made.name, made.dims[1:], own=False) if bias is None else no_rule(op)
        out = None if made is None else made[0]
    return out if bias is None or out is None else op.elementwise([out, bias], op.first.shape)


def _of_two_weights(op: Operation, a: WeightRef, b: WeightRef, x: Tensor, y: Tensor) -> WeightRef:
    """x [..., M, K] @ y [..., K, N], which can be sliced as they can."""
    rows, inner = x.dim() - 2, x.dim() - 1
    op.tie(column(op, a, inner, x.shape[inner]), column(op, b, rows, y.shape[rows]))
    batch = (one or other for one, other in zip(a.dims[:rows], b.dims, strict=False))
    return WeightRef(a.name, (*batch, a.dims[rows], b.dims[inner]), own=False)


def bmm(op: Operation) -> Result:
    """x [B, M, K] @ y [B, K, N]."""
    a, b = op.ids
    if isinstance(a, WeightRef) and isinstance(b, WeightRef):
        x, y = op.args
        op.tie(column(op, a, 0, len(x)), column(op, b, 0, len(y)))
        return _of_two_weights(op, a, b, x, y)
    if isinstance(b, WeightRef) and not isinstance(a, WeightRef) and not varies(a, 0):
        return _contract(op, a, b, None, inputs=1, outputs=2, along=2)
    if isinstance(a, WeightRef) and not isinstance(b, WeightRef) and not varies(b, 0):
        return _contract(op, b, a, None, inputs=2, outputs=1, along=1)
    return batched(op, op.data(a, op.args[0]), op.data(b, op.args[1]), op.first.shape)


def baddbmm(op: Operation) -> Result:
    op.see_as_data()
    out = batched(op, op.ids[1], op.ids[2], op.first.shape)
    if out is None:
        return op.x.expand(op.first.shape)
    if isinstance(out, WeightRef):
        return no_rule(op)
    return meet(op, [(out, op.first), (op.x, op.args[0])])


def grouped(op: Operation) -> Result:
    """x [T, C], of which some rows each go to one expert of weight [E, C, O]."""
    x, ref = op.data(op.ids[0], op.args[0]), op.ids[1]
    if not isinstance(ref, WeightRef) or len(ref.dims) != 3 or x.dim() != 2:
        return no_rule(op)
    for axis in ref.dims[0]:
        op.fix(axis.ids, "experts")
    return _contract(op, x, ref, None, inputs=1, outputs=2, along=1)


def batched(op: Operation, x: Tensor, y: Tensor, shape: torch.Size) -> Shadow | None:
    """A product of two tensors that both follow channels, as attention has it.

    The outer product of channels, as of keys and values in linear attention, is known by its axes, as a weight is.
    """
    ties = op.context.ties
    x, y = (_of_one(compact(ties.canonical(ids))) for ids in (x, y))
    if varies(x, 0) or varies(y, 0):
        return _heads(op, x, y, shape)
    if varies(x, 1) and varies(y, 2) and not varies(x, 2) and not varies(y, 1):
        axes = (WeightAxis((), op.column(ids, dim)) for ids, dim in ((x, 1), (y, 2)))
        return WeightRef("", ((), *((axis,) for axis in axes)), own=False)
    if varies(x, 1) and varies(y, 2):
        why = "outer product of channels"
        op.fix(x, why)
        op.fix(y, why)
        return everywhere(op.stay(why), shape)
    if varies(x, 2) and varies(x, 1) and not varies(y, 1):  # what is added up are branches, not channels
        op.tie(x, x[..., :1])
    elif varies(y, 1) and varies(y, 2) and not varies(x, 2):
        op.tie(y, y[:, :1])
    elif varies(x, 1) and varies(y, 1):  # each channel, or whole head, of x with the same of y
        op.tie(x, x[..., :1])
        ties.keep_apart(distinct(y), f"the same for all heads: {op.context.here}")
    elif varies(y, 2) and varies(x, 2):
        op.tie(y, y[:, :1])
        ties.keep_apart(distinct(x), f"the same for all heads: {op.context.here}")
    elif varies(x, 2) or varies(y, 1):
        op.tie(op.column(x, 2), op.column(y, 1))
    if varies(x, 1):
        return compact(x[:, :, :1].expand(shape))
    if varies(y, 2):
        return compact(y[:, :1, :].expand(shape))
    outer = [ids[(0,) * ids.dim()] for ids in (x, y) if tracked(ids) and not varies(ids, 1) and not varies(ids, 2)]
    if len(outer) == 2:
        ties.leave_open(Pair(outer[0], outer[1], partial(ties.tie, here=op.context.here)))
    if outer:
        return outer[0].expand(shape)
    op.context.sums[op.first] = x if tracked(x) else y
    return None


def _of_one(ids: Tensor) -> Tensor:
    """What forward put between elements of one unit, as zeros around windows, is no channel of its own."""
    largest = distinct(ids).max() if ids.numel() else ids.new_zeros(())
    return ids if bool(((distinct(ids) != largest) & (distinct(ids) > 0)).any()) else largest.expand(ids.shape)


def _heads(op: Operation, x: Tensor, y: Tensor, shape: torch.Size) -> Tensor:
    """All channels of a head are one unit; what is the same for all heads stays, also where it is a part of each."""
    of_heads = [ids for ids in (x, y) if varies(ids, 0)]
    heads = torch.cat([distinct(ids).reshape(len(ids), -1) for ids in of_heads], 1)
    shared = (heads == heads[:1]).all(0)
    if bool(heads[0, shared].any()):
        op.context.ties.keep_apart(heads[0, shared], f"the same for all heads: {op.context.here}")
        heads = torch.where(shared, 0, heads)
    first = torch.where(heads > 0, heads, NO_ID).min(1).values
    first = torch.where(first < NO_ID, first, 0)
    op.tie(heads, first[:, None])
    for ids in (x, y):
        if not varies(ids, 0) and tracked(ids):
            op.context.ties.keep_apart(distinct(ids), f"the same for all heads: {op.context.here}")
    op.context.ties.heads.append(first)
    return first.view(-1, 1, 1).expand(shape)


def embedding(op: Operation) -> Result:
    """weight [rows, O]: rows are looked up (and added up, by embedding_bag), columns are channels."""
    ref, weight = op.ids[0], op.args[0]
    if isinstance(ref, WeightRef):
        for axis in ref.dims[0]:
            op.fix(axis.ids, "rows of an embedding")
        op.hands_out(ref.dims[1])
        column = ref.column(1, weight.shape[1])
    else:
        column = op.column(ref, 1)
    ids = column.expand(op.first.shape)
    return [ids] + [None] * (len(op.out) - 1) if isinstance(op.out, (tuple, list)) else ids


def bilinear(op: Operation) -> Result:
    """x [..., A], y [..., B], weight [O, A, B], bias [O]."""
    x, y = (op.data(ids, arg) for ids, arg in zip(op.ids[:2], op.args[:2], strict=True))
    ref, bias = op.ids[2], op.argument_ids(3, "bias")
    if not isinstance(ref, WeightRef):
        return no_rule(op)
    op.tie(op.column(y, y.dim() - 1), ref.column(2, y.shape[-1]))
    return _contract(op, x, ref, bias, inputs=1, outputs=0, along=-1)


def distances(op: Operation) -> Result:
    """cdist: x [..., P, C] and y [..., R, C] -> [..., P, R]; also products of vectors, x [C] and y [C]."""
    columns = [
        ids.column(len(ids.dims) - 1, x.shape[-1]) if isinstance(ids, WeightRef) else op.column(ids, x.dim() - 1)
        for ids, x in zip(op.ids[:2], op.args[:2], strict=True)
    ]
    op.tie(*columns)
    op.context.sums[op.first] = columns[0]
    return None


def mv(op: Operation) -> Result:
    """x [..., M, C] and y [C] -> [..., M]."""
    x: Shadow = op.ids[0]
    distances(op)
    if isinstance(x, WeightRef):
        op.hands_out(x.dims[0])
        return x.column(0, len(op.args[0]))
    return compact(op.context.ties.canonical(x)[..., 0]) if set(varying(x)) - {x.dim() - 1} else None


OPERATIONS = table(
    (linear, "linear"),
    (mm, "mm _sparse_mm"),
    (addmm, "addmm _sparse_addmm"),
    (bmm, "bmm"),
    (baddbmm, "baddbmm"),
    (grouped, "_grouped_mm transformers.grouped_mm_fallback"),
    (embedding, "embedding _embedding_bag _embedding_bag_forward_only"),
    (bilinear, "bilinear"),
    (distances, "cdist _cdist_forward _euclidean_dist dot vdot"),
    (mv, "mv"),
)
