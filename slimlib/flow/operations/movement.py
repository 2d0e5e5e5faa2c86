"""Data movement: the same operation moves the ids, so segments and units come out by themselves."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from slimlib.flow.ids import compact, varies
from slimlib.flow.operations.operation import Operation, Result, table
from slimlib.flow.operations.unknown import no_rule
from slimlib.flow.undecided import Cut

VIEWS = ("view", "_unsafe_view", "reshape", "_reshape_alias")
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
    """Adaptive pooling sets a memory format so; other strides are not followed."""
    return op.x if op.x.shape == op.first.shape else no_rule(op)


def join(op: Operation) -> Result:
    return _replay(op, list(op.ids[0]), *op.args[1:])


def pad(op: Operation) -> Result:
    return _replay(op, op.x, op.args[1], 0)


def split(op: Operation) -> Result:
    """Equal parts keep equal channels, so that the cut stays in the same place."""
    parts = _replay(op, op.x, *op.args[1:])
    assert isinstance(parts, list)
    dim = op.argument(2, "dim", 0)
    if varies(op.x, dim % op.x.dim()):
        for part in parts[1:]:
            if part.shape == parts[0].shape:
                op.tie(part, parts[0])
            else:
                op.fix(op.x, "cut into unequal parts")
    return parts


def cut(op: Operation) -> Result:
    """Both halves of the channels keep equal channels, as parts of a split do."""
    part = _replay(op, op.x, *op.args[1:])
    dim = op.argument(1, "dim", 0) % op.x.dim()
    size = op.x.shape[dim]
    begin = op.argument(2, "start", None) or 0
    if varies(op.x, dim) and op.first.shape[dim] * 2 == size and begin % size in (0, size // 2):
        low, high = op.x.chunk(2, dim)
        op.tie(low, high)
    return part


def view(op: Operation) -> Result:
    """Where one axis becomes several, one of these shrinks with the width, the others keep their size.

    Which one cannot be seen in the sizes. It is left open for later operations to decide; if the sliced network
    proves that wrong, `readings` are tried in turn.
    """
    old, ties = op.x, op.context.ties
    new = compact(old.reshape(op.first.shape))
    for wide in _cuts(old, new):
        reading = op.context.choices.views.get((op.context.site[0], len(wide)))
        if reading is None:
            ties.leave_open(Cut(new, wide, partial(ties.tie, here=op.context.here)))
        else:
            shrinks = readings(len(wide))[reading]
            for dim in (*wide[:shrinks], *wide[shrinks + 1 :]):
                op.tie(new, new.narrow(dim, 0, 1))
    return compact(ties.canonical(new))


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
    for kept, made in _matching_dims(old.shape, new.shape):
        wide = [dim for dim in made if new.shape[dim] > 1]
        if sum(varies(old, dim) for dim in kept) == 1 and len(wide) > 1:
            cuts.append(wide)
    return cuts


def _matching_dims(old: torch.Size, new: torch.Size) -> list[tuple[list[int], list[int]]]:
    """Runs of dimensions of two shapes that hold the same elements."""
    runs = []
    i = j = 0
    while i < len(old) and j < len(new):
        kept, made = [i], [j]
        a, b = old[i], new[j]
        while a != b:
            if a < b:
                i += 1
                a *= old[i]
                kept.append(i)
            else:
                j += 1
                b *= new[j]
                made.append(j)
        runs.append((kept, made))
        i, j = i + 1, j + 1
    return runs


def glu(op: Operation) -> Result:
    """The first half of the channels times the gate that the second half makes."""
    value, gate = op.x.chunk(2, op.argument(1, "dim", -1))
    op.tie(value, gate)
    return compact(value)


RULES = table(
    (
        move,
        "permute transpose t expand select unsqueeze squeeze roll pixel_shuffle pixel_unshuffle channel_shuffle "
        "flip unfold repeat unbind tril triu movedim index index_select gather diagonal narrow rot90",
    ),
    (same, "clone contiguous _to_copy lift_fresh detach alias positive"),
    (as_strided, "as_strided"),
    (join, "cat stack"),
    (pad, "constant_pad_nd"),
    (split, "split split_with_sizes chunk"),
    (cut, "slice"),
    (view, " ".join(VIEWS)),
    (glu, "glu"),
)
