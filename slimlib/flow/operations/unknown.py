"""Operations without a rule: what enters stays full, and so does what comes out."""

from __future__ import annotations

from torch import Tensor

from slimlib.flow.ids import everywhere, layer_of, tracked
from slimlib.flow.operations.operation import Operation, Result, table


def no_rule(op: Operation, why: str = "no rule for this operation") -> Result:
    """Keep everything full that meets in the operation."""
    if not op.weights and not any(tracked(ids) for ids in op.tensors):
        return None
    for ids, x in op.operands:
        op.fix_all(ids, why)
        name = op.context.source_of(x)
        if name is not None and op.context.tensors[name].dim() > 1:
            op.context.ties.blocked.setdefault(layer_of(name), f"{why}: {op.context.here}")
    stay = op.stay(why)
    outs = op.out if isinstance(op.out, (tuple, list)) else [op.out]
    return [everywhere(stay, o.shape) if isinstance(o, Tensor) else None for o in outs]


def nothing(op: Operation) -> Result:
    """Makes a tensor that has no channels, or reads a number."""
    return None


def like(op: Operation) -> Result:
    """Makes or overwrites a tensor of the shape of another, and so with its channels."""
    return op.x if op.first.shape == op.x.shape else None


OPERATIONS = table(
    (
        nothing,
        "empty zeros ones arange full new_zeros new_ones new_empty new_full rand randn randint randperm scalar_tensor "
        "linspace eye empty_strided _local_scalar_dense item is_nonzero sym_size set_ resize_",
    ),
    (
        like,
        "empty_like zeros_like ones_like full_like rand_like randn_like randint_like bernoulli uniform normal random "
        "exponential zero",
    ),
)
