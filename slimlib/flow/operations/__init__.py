"""What each operation does to channels: a rule for an operation's name gives the shadow of its result."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from slimlib.flow.ids import WeightRef, untracked
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


def _also_as_data(op: Operation, result: Result) -> Result:
    """What is computed from kernels of samples alone is one, or data that is computed from their elements."""
    if not isinstance(result, WeightRef) or any(ref.as_data is None for ref in op.weights):
        return result
    data = op.copied()
    data.see_as_data()
    ids = OPERATIONS[op.name](data) if data.follows else None
    return replace(result, as_data=ids if isinstance(ids, Tensor) else untracked(op.first.shape))


def _rule_for(op: Operation) -> Result:
    if op.name in KNOW_WEIGHTS:
        return KNOW_WEIGHTS[op.name](op)
    if op.weights and op.name in weights.OPERATIONS and (result := weights.OPERATIONS[op.name](op)) is not None:
        return _also_as_data(op, result)
    if op.name not in OPERATIONS:
        return unknown.no_rule(op)
    op.see_as_data()
    return OPERATIONS[op.name](op)
