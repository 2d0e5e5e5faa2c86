"""Weights known by their axes: moving them about, and weight normalisation."""

from __future__ import annotations

from torch import Tensor

from slimlib.flow.ids import WeightRef
from slimlib.flow.operations.operation import Operation, Result, table

REORDERS = {"t", "transpose", "permute"}
RESHAPES = {"unsqueeze", "squeeze", "view", "_unsafe_view", "reshape", "_reshape_alias", "expand"}
MOVES = REORDERS | RESHAPES | {"detach", "alias", "clone", "contiguous", "_to_copy", "lift_fresh"}


def moved(op: Operation) -> bool:
    """Whether a weight is moved in a way that keeps its axes apart; else its elements become data."""
    ref = op.ids[0] if op.ids else None
    if not isinstance(ref, WeightRef):
        return False
    if op.name in MOVES and _moved_dims(op, ref) is None:
        op.ids = [op.context.shadow(op.args[0], as_weight=False), *op.ids[1:]]
    return isinstance(op.ids[0], WeightRef) and op.name in MOVES


def move(op: Operation) -> Result:
    """The weight with its dimensions in another order, or with dimensions of size 1 more or less."""
    ref: WeightRef = op.ids[0]
    dims = _moved_dims(op, ref)
    assert dims is not None
    return WeightRef(ref.name, dims)


def _moved_dims(op: Operation, ref: WeightRef) -> tuple[int | None, ...] | None:
    old: Tensor = op.args[0]
    dims = list(ref.dims)
    if op.name == "t":
        return tuple(reversed(dims))
    if op.name == "transpose":
        a, b = op.args[1], op.args[2]
        dims[a], dims[b] = dims[b], dims[a]
        return tuple(dims)
    if op.name == "permute":
        return tuple(dims[d] for d in op.args[1])
    if old.shape == op.first.shape:
        return tuple(dims)
    wide = [d for d, size in zip(dims, old.shape, strict=True) if size > 1]
    if [n for n in old.shape if n > 1] != [n for n in op.first.shape if n > 1]:
        return None
    left = iter(wide)
    return tuple(next(left) if size > 1 else None for size in op.first.shape)


def weight_norm(op: Operation) -> Result:
    """v and g -> weight; g has one element for every channel along `dim`."""
    ref, g = op.ids[0], op.ids[1]
    dim: int = op.argument(2, "dim", 0)
    if not isinstance(ref, WeightRef):
        return None
    if isinstance(g, WeightRef):  # g has the dimensions of v, all but one of size 1
        g = op.context.shadow(op.args[1], as_weight=False)
    axis = ref.dims[dim]
    size = op.args[0].shape[dim]
    if size > 1:
        op.tie(g.reshape(-1), op.context.ties.fresh((ref.name, axis), size))
    return [ref, None]


RULES = table(
    (weight_norm, "_weight_norm_interface"),
)
