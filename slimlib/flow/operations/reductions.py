"""Reductions and softmax: over space they leave the channels alone; over channels the channels must stay."""

from __future__ import annotations

from torch import Tensor

from slimlib.flow.ids import varies
from slimlib.flow.operations.elementwise import elementwise
from slimlib.flow.operations.operation import Operation, Result, table


def softmax(op: Operation) -> Result:
    dims = op.args[1] if isinstance(op.args[1], (list, tuple)) else [op.args[1]]
    if any(varies(op.x, dim % op.x.dim()) for dim in dims):
        op.fix(op.x, "softmax over channels")
    return op.x if op.first.shape == op.x.shape else _without(op, [dim % op.x.dim() for dim in dims])


def reduce(op: Operation) -> Result:
    """mean(x, dim) and its like; also max(x, y), which is elementwise."""
    if op.name in {"max", "min"} and len(op.args) > 1 and isinstance(op.args[1], Tensor):
        return elementwise(op)
    dims = _dims(op)
    if not any(varies(op.x, dim) for dim in dims):
        return _without(op, dims)
    why = "statistic over channels"
    if op.first.dim() == 0:
        op.context.statistics[op.first] = (op.x, f"{why}: {op.context.here}")
    elif op.name != "sum":  # the sum of the active channels is what a narrow network should have
        op.fix(op.x, why)
    return None


def _dims(op: Operation) -> list[int]:
    position = 2 if op.name in {"linalg_vector_norm", "norm"} else 1
    dim = op.argument(position, "dim")
    if dim is None or isinstance(dim, bool):
        return list(range(op.x.dim()))
    dims = [dim] if isinstance(dim, int) else list(dim)
    return [d % op.x.dim() for d in dims] or list(range(op.x.dim()))


def _without(op: Operation, dims: list[int]) -> Result:
    """The ids without the reduced dimensions."""
    ids = op.x
    keep = op.first.dim() == ids.dim()
    for dim in sorted(dims, reverse=True):
        ids = ids.narrow(dim, 0, 1) if keep else ids.select(dim, 0)
    return ids if not isinstance(op.out, (tuple, list)) else [ids] * len(op.out)


def ordered(op: Operation) -> Result:
    """Along space these leave the channels alone."""
    position = {"cumsum": 1, "cumprod": 1, "sort": 1, "topk": 2}[op.name]
    dim = op.argument(position, "dim", -1) % op.x.dim()
    if varies(op.x, dim):
        op.fix(op.x, "ordered along channels")
    ids = op.x.narrow(dim, 0, 1).expand(op.first.shape)
    return ids if not isinstance(op.out, (tuple, list)) else [ids] * len(op.out)


RULES = table(
    (softmax, "_softmax _log_softmax _safe_softmax logsumexp"),
    (
        reduce,
        "mean sum amax amin max min var std var_mean std_mean argmax argmin linalg_vector_norm norm prod median "
        "nanmean all any aminmax",
    ),
    (ordered, "cumsum cumprod sort topk"),
)
