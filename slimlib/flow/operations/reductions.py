"""Reductions and softmax: over space they leave the channels alone; over channels they are statistics."""

from __future__ import annotations

from torch import Tensor

from slimlib.flow.context import Statistic
from slimlib.flow.ids import compact, varies
from slimlib.flow.operations.elementwise import elementwise
from slimlib.flow.operations.operation import Operation, Result, table

STATISTICS = (
    "mean", "sum", "amax", "amin", "max", "min", "var", "std", "var_mean", "std_mean", "linalg_vector_norm", "norm",
    "prod", "nanmean", "nansum", "all", "any", "aminmax", "logsumexp", "count_nonzero",
)  # fmt: skip
"""Functions of a set of numbers, whatever their order: well defined for the channels that are active."""


def reduce(op: Operation) -> Result:
    """mean(x, dim) and its like; also max(x, y), which is elementwise.

    Where channels lie along other dimensions, too, those that meet are tied: branches that were stacked and are added,
    or all channels of a head. Else it is a statistic of all channels, taken over the active ones.
    """
    if op.name in {"max", "min"} and len(op.args) > 1 and isinstance(op.args[1], Tensor):
        return elementwise(op)
    dims = dimensions(op, op.x.dim())
    if not any(varies(op.x, dim) for dim in dims):
        return _without(op, op.x, dims)
    if any(varies(op.x, dim) for dim in range(op.x.dim()) if dim not in dims):
        return _without(op, _tied_along(op, dims), dims)
    if op.name not in STATISTICS:
        op.fix(op.x, "depends on the order of channels")
        return None
    for x in op.out if isinstance(op.out, (tuple, list)) else [op.out]:
        op.context.sums[x] = op.x
        if op.name != "sum":  # which is no statistic, but a product with ones
            op.context.statistics[x] = Statistic(op.x, f"statistic over channels: {op.context.here}")
    if op.name != "sum":
        op.context.statistic(op.x)
    return None


def _tied_along(op: Operation, dims: list[int]) -> Tensor:
    for dim in dims:
        op.tie(op.x, op.x.narrow(dim, 0, 1))
    return compact(op.context.ties.canonical(op.x))


def dimensions(op: Operation, count: int) -> list[int]:
    """The dimensions that are reduced, of so many."""
    position = 2 if op.name in {"linalg_vector_norm", "norm"} else 1
    dim = op.argument(position, "dim")
    if dim is None or isinstance(dim, bool):
        return list(range(count))
    dims = [dim] if isinstance(dim, int) else list(dim)
    return [d % count for d in dims] or list(range(count))


def _without(op: Operation, ids: Tensor, dims: list[int]) -> Result:
    """The ids without the reduced dimensions."""
    keep = op.first.dim() == ids.dim()
    for dim in sorted(dims, reverse=True):
        ids = ids.narrow(dim, 0, 1) if keep else ids.select(dim, 0)
    return ids if not isinstance(op.out, (tuple, list)) else [ids] * len(op.out)


def softmax(op: Operation) -> Result:
    """Over space or branches; over all channels these must stay."""
    dim = op.args[1] % max(op.x.dim(), 1)
    if not op.x.dim() or not varies(op.x, dim):
        return op.x
    if any(varies(op.x, d) for d in range(op.x.dim()) if d != dim):
        return _tied_along(op, [dim])
    op.fix(op.x, "softmax over channels")
    return op.x


def ordered(op: Operation) -> Result:
    """Along space these leave the channels alone."""
    position = {"topk": 2, "kthvalue": 2}.get(op.name, 1)
    dim = op.argument(position, "dim", -1) % op.x.dim()
    if varies(op.x, dim):
        op.fix(op.x, "ordered along channels")
    ids = op.x.narrow(dim, 0, 1)
    ids = ids.expand(op.first.shape) if op.first.dim() == ids.dim() else ids.select(dim, 0)
    return ids if not isinstance(op.out, (tuple, list)) else [ids] * len(op.out)


OPERATIONS = table(
    (softmax, "_softmax _log_softmax _safe_softmax"),
    (reduce, " ".join((*STATISTICS, "argmax", "argmin", "median", "nanmedian", "mode"))),
    (ordered, "cumsum cumprod cummax cummin logcumsumexp sort topk kthvalue"),
)
