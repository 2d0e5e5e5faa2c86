"""Data movement: the same operation moves the ids, so segments and units come out by themselves."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from slimlib.flow.ids import compact, varies
from slimlib.flow.operations.operation import Operation, Result, table
from slimlib.flow.operations.unknown import no_rule

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

    Which one cannot be seen in the sizes: first the last two are left open, with equal blocks of the first; if the
    sliced network proves that wrong, `readings` are tried in turn.
    """
    old = op.x
    new = compact(old.reshape(op.first.shape))
    for kept, made in _matching_dims(old.shape, new.shape):
        wide = [dim for dim in made if new.shape[dim] > 1]
        if len(kept) == 1 and len(wide) > 1 and sum(varies(new, dim) for dim in wide) > 1:
            reading = op.context.choices.views.get((op.context.site[0], len(wide)))
            if reading is None:
                _tie_along(op, new, wide[:1])
            else:
                shrinks = readings(len(wide))[reading]
                _tie_along(op, new, wide[:shrinks])
                _tie_along(op, new, wide[shrinks + 1 :])
            new = compact(op.context.ties.canonical(new))
    return new


def readings(dims: int) -> list[int]:
    """Which of the dimensions that an axis became may be the one that shrinks, likeliest first."""
    return list(range(dims - 2, -1, -1)) if dims == 2 else list(range(dims - 1, -1, -1))


def is_split_axis(step_inputs: list[Tensor], out: Tensor) -> int:
    """Into how many dimensions a view cut an axis of channels; 0 where it did not."""
    if not step_inputs:
        return 0
    old = step_inputs[0]
    for kept, made in _matching_dims(old.shape, out.shape):
        wide = [dim for dim in made if out.shape[dim] > 1]
        if len(kept) == 1 and len(wide) > 1 and varies(old, kept[0]):
            return len(wide)
    return 0


def _tie_along(op: Operation, ids: Tensor, dims: list[int]) -> None:
    """Tie the ids along dimensions."""
    for dim in dims:
        op.tie(ids, ids.narrow(dim, 0, 1))


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
