"""einsum of two tensors as one operation: its parts depend on which sizes are 1."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from math import prod

import torch
from torch import Tensor

from slimlib.flow.context import Context
from slimlib.flow.ids import Dimension, WeightAxis, WeightRef, compact, varying
from slimlib.flow.operations.operation import Operation, Result, table
from slimlib.flow.operations.products import batched

PRODUCT = re.compile(r"(\w+),(\w+)->(\w+)")


def of_two_tensors(context: Context, args: Sequence[object]) -> tuple[str, Tensor, Tensor] | None:
    """The equation, without blanks, and the two tensors that are multiplied; None for any other use of einsum."""
    equation, *operands = args
    if len(operands) == 1 and isinstance(operands[0], (tuple, list)):
        operands = list(operands[0])
    if not isinstance(equation, str) or len(operands) != 2:
        return None
    x, y = operands
    if not isinstance(x, Tensor) or not isinstance(y, Tensor):
        return None
    found = PRODUCT.fullmatch(equation.replace(" ", ""))
    if found is None or any(isinstance(context.shadow(operand), WeightRef) for operand in (x, y)):
        return None
    left, right, out = found.groups()
    once = all(len(set(letters)) == len(letters) for letters in (left, right, out))
    return (found.string, x, y) if once and not (set(left) ^ set(right)) - set(out) else None


def einsum(op: Operation) -> Result:
    """Letters that all have are a batch, those of the result that one operand has are its rows or columns."""
    left, right, out = op.args[0].replace("->", ",").split(",")
    batch = [c for c in out if c in left and c in right]
    rows, columns = [c for c in out if c not in right], [c for c in out if c not in left]
    inner = [c for c in left if c in right and c not in out]
    size = dict(zip(left + right, (*op.args[1].shape, *op.args[2].shape), strict=True))

    def grouped(letters: str, ids: Tensor, groups: Sequence[list[str]]) -> Tensor:
        moved = ids.permute([letters.index(c) for group in groups for c in group])
        return moved.reshape([prod(size[c] for c in group) for group in groups])

    x = grouped(left, op.data(op.ids[1], op.args[1]), (batch, rows, inner))
    y = grouped(right, op.data(op.ids[2], op.args[2]), (batch, inner, columns))
    ids = batched(op, x, y, torch.Size((len(x), x.shape[1], y.shape[2])))
    if ids is None:
        return None
    made = [*batch, *rows, *columns]
    if isinstance(ids, WeightRef):
        dims = [*((),) * len(batch), *_spread(ids.dims[1], rows, size), *_spread(ids.dims[2], columns, size)]
        return WeightRef(ids.name, tuple(dims[made.index(c)] for c in out), own=False)
    return ids.reshape([size[c] for c in made]).permute([made.index(c) for c in out])


def _spread(axes: Dimension, letters: Sequence[str], size: Mapping[str, int]) -> list[Dimension]:
    """The dimensions of letters that were grouped: the axis is that of the one along which its ids vary."""
    (axis,) = axes
    ids = compact(axis.ids.view([size[c] for c in letters]))
    (along,) = varying(ids) or [0]
    column = ids.movedim(along, 0).reshape(ids.shape[along], -1)[:, 0]
    return [(WeightAxis(axis.keys, column),) if i == along else () for i in range(len(letters))]


OPERATIONS = table((einsum, "einsum"))
