"""What each operation does to channels: a rule for an operation's name gives the shadow of its result."""

from __future__ import annotations

from slimlib.flow.operations import elementwise, movement, norms, products, reductions, spatial, weights
from slimlib.flow.operations.operation import RULES, Operation, Result
from slimlib.flow.operations.unknown import no_rule

__all__ = ["Operation", "apply_rule", "elementwise", "keeps_weights", "movement"]
_REGISTERED = (elementwise, movement, norms, products, reductions, spatial, weights)

USES_WEIGHTS = {"convolution", "mm", "addmm", "bmm", "embedding", "_weight_norm_interface"} | weights.MOVES


def keeps_weights(name: str) -> bool:
    """Whether an operation knows a weight by its axes; to any other its elements are data."""
    return name in USES_WEIGHTS


def apply_rule(op: Operation) -> Result:
    """The shadows of an operation's results."""
    if weights.moved(op):
        return weights.move(op)
    rule = RULES.get(op.name)
    return no_rule(op) if rule is None else rule(op)
