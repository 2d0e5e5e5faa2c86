"""What each operation does to channels: a rule for an operation's name gives the shadow of its result."""

from __future__ import annotations

from slimlib.flow.operations import (
    einsum,
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
from slimlib.flow.operations.operation import Operation, Result, Rule, each_tensor
from slimlib.flow.steps import FlowError, first_line

__all__ = ["OPERATIONS", "Operation", "apply_rule", "each_tensor"]

TABLES = (einsum, elementwise, movement, norms, reductions, spatial, unknown)
OPERATIONS: dict[str, Rule] = {name: rule for table in TABLES for name, rule in table.OPERATIONS.items()}
KNOW_WEIGHTS: dict[str, Rule] = {**products.OPERATIONS, **recurrent.OPERATIONS}  # by their axes


def apply_rule(op: Operation) -> Result:
    """The shadows of an operation's results; a rule that fails on what it did not foresee is none."""
    try:
        return _rule_for(op)
    except FlowError:
        raise
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError) as error:
        return unknown.no_rule(op, f"its rule fails ({first_line(error)})")


def _rule_for(op: Operation) -> Result:
    if op.name in KNOW_WEIGHTS:
        return KNOW_WEIGHTS[op.name](op)
    if op.weights and op.name in weights.OPERATIONS and (result := weights.OPERATIONS[op.name](op)) is not None:
        return result
    if op.name not in OPERATIONS:
        return unknown.no_rule(op)
    op.see_as_data()
    return OPERATIONS[op.name](op)
