"""Operations without a rule: what enters stays full, and so does what comes out."""

from __future__ import annotations

from torch import Tensor
from torch.utils._pytree import tree_leaves

from slimlib.flow.ids import everywhere, tracked
from slimlib.flow.operations.operation import Operation, Result, table


def no_rule(op: Operation) -> Result:
    """Keep everything full that meets in the operation."""
    if not any(tracked(ids) for ids in op.tensors):
        return None
    why = "no rule for this operation"
    for ids in op.tensors:
        op.fix(ids, why)
    for leaf in tree_leaves((op.args, op.kwargs)):
        name = op.context.name_of(leaf)
        if name is not None and leaf.dim() > 1:
            op.context.ties.blocked.setdefault(op.context.module or name, f"{why}: {op.context.here}")
    stay = op.stay(why)
    outs = op.out if isinstance(op.out, (tuple, list)) else [op.out]
    return [everywhere(stay, o.shape) if isinstance(o, Tensor) else None for o in outs]


def nothing(op: Operation) -> Result:
    """Makes a tensor that has no channels, or reads a number."""
    return op.x if op.name in {"bernoulli", "zero"} and op.out is op.args[0] else None


RULES = table(
    (
        nothing,
        "empty empty_like zeros ones zeros_like ones_like arange full full_like new_zeros new_ones new_empty "
        "new_full rand randn rand_like randn_like randperm scalar_tensor linspace bernoulli uniform normal random "
        "eye empty_strided _local_scalar_dense item is_nonzero sym_size set_ resize_ zero",
    ),
)
