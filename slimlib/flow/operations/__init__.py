"""What each operation does to channels: a rule for an operation's name gives the shadow of its result."""

from __future__ import annotations

from slimlib.flow.operations import (
    elementwise,
    movement,
    norms,
    products,
    recurrent,
    reductions,
    spatial,
    unknown,
    weights,
)
from slimlib.flow.operations.operation import Operation, Result, Rule

__all__ = ["RULES", "Operation", "apply_rule", "keeps_weights"]

TABLES = (elementwise, movement, norms, products, recurrent, reductions, spatial, unknown, weights)
RULES: dict[str, Rule] = {name: rule for table in TABLES for name, rule in table.RULES.items()}
USES_WEIGHTS = {
    "convolution",
    "mm",
    "addmm",
    "bmm",
    "embedding",
    "_weight_norm_interface",
    *recurrent.RULES,
} | weights.MOVES


def keeps_weights(name: str) -> bool:
    """Whether an operation knows a weight by its axes; to any other its elements are data."""
    return name in USES_WEIGHTS


def apply_rule(op: Operation) -> Result:
    """The shadows of an operation's results."""
    if weights.moved(op):
        return weights.move(op)
    rule = RULES.get(op.name)
    return unknown.no_rule(op) if rule is None else rule(op)
