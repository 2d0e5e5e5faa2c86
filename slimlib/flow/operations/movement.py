"""Data movement: the same operation moves the ids, so segments and units come out by themselves."""

from __future__ import annotations

from functools import partial
from math import gcd

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from slimlib.flow.ids import compact, distinct, holds_channels, matching_dims, of_none, reshaped, varies, varying
from slimlib.flow.operations.operation import Operation, Result, table
from slimlib.flow.operations.unknown import no_rule
from slimlib.flow.steps import VIEWS
from slimlib.flow.undecided import Cut, Slices

STAYS = "a part of the channels that always stays"
IGNORED = {"dtype", "device", "layout", "memory_format", "pin_memory", "non_blocking", "copy"}


def _replay(op: Operation, *args: object) -> Result:
    """Run the operation on ids, which are on the CPU as the positions must be."""
    args = tree_map(lambda x: x.cpu() if isinstance(x, Tensor) else x, args)
    kwargs = {name: value for name, value in op.kwargs.items() if name not in IGNORED}
    moved = getattr(torch.ops.aten, op.name)(*args, **kwargs)
    return [compact(part) for part in moved] if isinstance(moved, (tuple, list)) else compact(moved)


def move(op: Operation) -> Result:
    return _replay(op, op.x, *op.args[1:])


def same(op: Operation) -> Result:
    return op.x


def as_strided(op: Operation) -> Result:
    """A view by strides, such as overlapping windows: the ids lie in memory as the elements do."""
    x = op.args[0]
    if op.x.shape == op.first.shape and x.stride() == op.first.stride():
        return op.x
    memory = torch.zeros(x.untyped_storage().nbytes() // x.element_size(), dtype=torch.long)
    memory.as_strided(x.shape, x.stride(), x.storage_offset()).copy_(op.x)
    return compact(memory.as_strided(op.first.shape, op.first.stride(), op.first.storage_offset()))


def join(op: Operation) -> Result:
    """cat and stack take parts of one size in all other dimensions, and so with the same channels there."""
    dims = op.first.dim() - (op.name == "stack")  # cat also takes empty vectors
    parts = [few for ids in op.ids[0] if ids.dim() == dims and (few := distinct(ids)).numel()]
    if op.name == "cat" and parts:
        dim = op.argument(1, "dim", 0) % parts[0].dim()
        parts = [ids.narrow(dim, 0, 1) for ids in parts if not varies(ids, dim)]
    tied = len(parts) > 1 and any(map(varying, parts))
    for ids in parts[1:] if tied else ():
        op.tie(ids, parts[0])
    joined = _replay(op, list(op.ids[0]), *op.args[1:])
    assert isinstance(joined, Tensor)
    return compact(op.context.ties.canonical(joined)) if tied else joined  # branches now have the same ids


def split(op: Operation) -> Result:
    """Equal parts keep equal channels, so that the cuts stay in the same places; or each is a head, whole."""
    dim, known = op.argument(2, "dim", 0) % op.x.dim(), compact(op.context.ties.canonical(op.x))
    parts = _replay(op, known, *op.args[1:])
    assert isinstance(parts, list)
    sizes = [part.shape[dim] for part in parts]
    if not holds_channels(known, dim):
        return parts
    if len(set(sizes)) == 1 and op.context.site in op.context.choices.whole:
        for part in parts:
            op.tie(part, part.narrow(dim, 0, 1))
        return [compact(op.context.ties.canonical(part)) for part in parts]
    if sizes[0] == 1 or any(varies(part, dim) for part in parts):  # else it cuts apart what is whole by now
        _divide(op, dim, sizes)
    return parts


def _divide(op: Operation, dim: int, sizes: list[int]) -> None:
    """Unequal parts shrink each by itself, as queries and their fewer keys do; or, if that fails, in proportion.

    Parts that are unequal in the full network may be equal in a narrow one, by chance.
    """
    context, ties = op.context, op.context.ties
    equal = len(set(sizes)) == 1 and context.moment not in ties.unequal
    if equal or context.site in context.choices.proportional:
        _in_proportion(op, op.x, dim, sizes)
    else:
        ties.unequal.add(context.moment)
        ties.divided.append(list(distinct(op.x).split(sizes, dim)))


def cut(op: Operation) -> Result:
    """A part along the channels shrinks as those of a split do; or else it stays whole."""
    part = _replay(op, op.x, *op.args[1:])
    assert isinstance(part, Tensor)
    dim, size = op.argument(1, "dim", 0) % op.x.dim(), op.first.numel()
    if not size or not holds_channels(op.x, dim) or part.shape == op.x.shape:
        return part
    positions = op.func(torch.arange(op.x.shape[dim]), 0, *op.args[2:], **op.kwargs)
    begin, end = int(positions[0]), int(positions[-1]) + 1
    sizes = [n for n in (begin, end - begin, op.x.shape[dim] - end) if n]
    step = op.argument(4, "step", 1) if op.name == "slice" else 1
    if op.context.site in op.context.choices.parts:
        _stays(op, part, dim)
    elif step > 1 and begin < step and op.x.shape[dim] % step == 0:  # one of every few
        blocks = distinct(op.x).movedim(dim, -1).unflatten(-1, (-1, step))
        op.tie(blocks, blocks[..., :1])
    elif step > 1 or (gcd(*sizes) == 1 and op.context.site in op.context.choices.proportional):
        _stays(op, part, dim)
    elif op.context.site in op.context.choices.proportional:
        _in_proportion(op, op.x, dim, sizes)
    else:
        _slices(op, dim).update((begin, end))
    return part


def _slices(op: Operation, dim: int) -> set[int]:
    """Where the slices of a tensor begin and end along a dimension; what they are parts of is divided there."""
    edges: dict[int, set[int]] = op.context.slices.setdefault(op.args[0], {})
    if dim not in edges:
        edges[dim] = {0, op.x.shape[dim]}
        op.context.ties.leave_open(Slices(edges[dim], partial(_divide, op, dim)))
    return edges[dim]


def _stays(op: Operation, part: Tensor, dim: int, why: str = STAYS) -> None:
    """What is cut out of the channels stays full; cut out of each head, only whole heads slim."""
    if any(d != dim for d in varying(op.x)):
        op.tie(op.x, op.x.narrow(dim, 0, 1))
    else:
        op.fix(part, why)


def _in_proportion(op: Operation, ids: Tensor, dim: int, sizes: list[int]) -> None:
    """Each unit has as many channels of a part as its share in the whole."""
    units = gcd(*sizes)
    if units == 1 and len(sizes) > 1:
        _stays(op, ids, dim, "cut into unequal parts")
        return
    rows = distinct(ids).movedim(dim, -1)
    parts = torch.cat([part.unflatten(-1, (units, -1)) for part in rows.split(sizes, -1)], -1)
    op.tie(parts, parts[..., :1])


def pick(op: Operation) -> Result:
    """One place, or some: those of the channels are looked for where they are, or always stay."""
    part = _replay(op, op.x, *op.args[1:])
    if op.context.site in op.context.choices.parts and isinstance(part, Tensor):
        op.fix(part, STAYS)
    return part


def view(op: Operation) -> Result:
    """Where one axis becomes several, one of these shrinks with the width, the others keep their size.

    Which one cannot be seen in the sizes. It is left open for later operations to decide; if the sliced network
    proves that wrong, `readings` are tried in turn.
    """
    old, ties = op.x, op.context.ties
    new = reshaped(old, op.first.shape)
    for wide in _cuts(old, new):
        reading = op.context.choices.views.get((op.context.site[0], len(wide)))
        if reading is None:
            ties.leave_open(Cut(new, wide, partial(ties.tie, here=op.context.here), ties.are_tied))
        else:
            shrinks = readings(len(wide))[reading]
            for dim in (*wide[:shrinks], *wide[shrinks + 1 :]):
                op.tie(new, new.narrow(dim, 0, 1))
    return compact(ties.canonical(new)) if len(varying(new)) > 1 else new


def readings(dims: int) -> list[int]:
    """Which of the dimensions that an axis became may be the one that shrinks, likeliest first."""
    return list(range(dims - 1, -1, -1))


def is_split_axis(step_inputs: list[Tensor], out: Tensor) -> int:
    """Into how many dimensions a view cut an axis of channels; 0 where it did not."""
    cuts = _cuts(step_inputs[0], out) if step_inputs else []
    return len(cuts[0]) if cuts else 0


def _cuts(old: Tensor, new: Tensor) -> list[list[int]]:
    """The dimensions of `new` that one axis of channels of `old` became, where it became several."""
    cuts = []
    for kept, made in matching_dims(old.shape, new.shape):
        wide = [dim for dim in made if new.shape[dim] > 1]
        if sum(varies(old, dim) for dim in kept) == 1 and len(wide) > 1:
            cuts.append(wide)
    return cuts


def write(op: Operation) -> Result:
    """x with rows replaced by, or added to, those of a source: scatter, index_add and their like."""
    dim = op.args[1] % op.x.dim()
    source = next((ids for ids in op.ids[3:] if isinstance(ids, Tensor)), None)
    others = [ids for ids in (op.x, source) if ids is not None and ids.dim() == op.x.dim()]
    if any(varies(ids, dim) for ids in others):
        return no_rule(op)
    rows = [few for ids in others if (few := distinct(ids)).numel()]
    shape = list(op.x.shape)
    shape[dim] = 1
    return op.elementwise([ids[tuple(slice(n) for n in shape)] for ids in rows], torch.Size(shape)).expand(op.x.shape)


def put(op: Operation) -> Result:
    """index_put: the ids of the values come where the values do."""
    indices = [None if i is None else i.cpu() for i in op.args[1]]
    values = op.ids[2]
    if not values.numel():
        op.tie(of_none(op.x, values.shape), values)
        return op.x
    if op.argument(3, "accumulate", False):
        there = op.x[tuple(slice(None) if i is None else i for i in indices)]
        values = op.elementwise([there, values], there.shape)
    return compact(torch.ops.aten.index_put(op.x.contiguous(), indices, values.contiguous()))


def fill_in(op: Operation) -> Result:
    """masked_scatter: rows of x [..., C] are those of a source [..., C], in their order, as of images in a text."""
    x, _, source = op.ids
    if any(varying(ids) != [ids.dim() - 1] for ids in (x, source)) or x.shape[-1] != source.shape[-1]:
        return no_rule(op)
    op.tie(op.column(x, x.dim() - 1), op.column(source, source.dim() - 1))
    return op.x


def glu(op: Operation) -> Result:
    """The first half of the channels times the gate that the second half makes."""
    value, gate = op.x.chunk(2, op.argument(1, "dim", -1))
    op.tie(value, gate)
    return compact(value)


def as_complex(op: Operation) -> Result:
    """[..., 2] -> [...]: the two parts of a number are one channel."""
    op.tie(op.x[..., :1], op.x)
    return op.x[..., 0]


def as_real(op: Operation) -> Result:
    """[...] -> [..., 2]."""
    return op.x[..., None].expand(op.first.shape)


OPERATIONS = table(
    (
        move,
        "permute transpose t expand unsqueeze squeeze roll pixel_shuffle pixel_unshuffle channel_shuffle "
        "flip unfold repeat unbind tril triu movedim diagonal rot90 repeat_interleave",
    ),
    (pick, "select index index_select gather take_along_dim"),
    (same, "clone contiguous _to_copy lift_fresh detach alias positive"),
    (as_strided, "as_strided"),
    (join, "cat stack"),
    (split, "split split_with_sizes chunk"),
    (cut, "slice narrow"),
    (view, " ".join(VIEWS)),
    (write, "index_add index_copy index_fill scatter scatter_add scatter_reduce index_reduce"),
    (put, "index_put _index_put_impl _unsafe_index_put"),
    (fill_in, "masked_scatter"),
    (glu, "glu"),
    (as_complex, "view_as_complex"),
    (as_real, "view_as_real"),
)
