"""What each operation does to channels: a rule for an operation's name gives the shadow of its result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch._decomp import decomposition_table

from slimlib.flow.ids import WeightRef, untracked
from slimlib.flow.operations import (
    convolutions,
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

__all__ = ["OPERATIONS", "Operation", "apply_rule", "each_tensor", "parts_of"]

TABLES = (einsum, elementwise, movement, norms, reductions, spatial, unknown)
OPERATIONS: dict[str, Rule] = {name: rule for table in TABLES for name, rule in table.OPERATIONS.items()}
BY_AXES = (convolutions, products, recurrent)
KNOW_WEIGHTS: dict[str, Rule] = {name: rule for table in BY_AXES for name, rule in table.OPERATIONS.items()}


def apply_rule(op: Operation) -> Result:
    """The shadows of an operation's results; a rule that fails on what it did not foresee is none."""
    try:
        return _rule_for(op)
    except FlowError:
        raise
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError) as error:
        return unknown.no_rule(op, f"its rule fails ({first_line(error)})")


def parts_of(name: str, func: Any) -> Callable[..., Any] | None:
    """An operation without a rule as torch itself puts it together of others; None if it has a rule, or no parts."""
    known = any(_known_as(name, func) in rules for rules in (OPERATIONS, KNOW_WEIGHTS, weights.OPERATIONS))
    if known or not isinstance(func, torch._ops.OpOverload):
        return None
    implicit = torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd")
    return func.decompose if implicit else decomposition_table.get(func)


def _known_as(name: str, func: Any) -> str:
    """What an operation is called in the tables: torch has more elementwise ones than are listed, and marks them."""
    marked = name not in OPERATIONS and torch.Tag.pointwise in getattr(func, "tags", ())
    return elementwise.POINTWISE if marked else name


def _also_as_data(op: Operation, name: str, result: Result) -> Result:
    """What is computed from kernels of samples alone is one, or data that is computed from their elements."""
    if not isinstance(result, WeightRef) or any(ref.as_data is None for ref in op.weights):
        return result
    data = op.copied()
    data.see_as_data()
    ids = OPERATIONS[name](data) if data.follows else None
    return replace(result, as_data=ids if isinstance(ids, Tensor) else untracked(op.first.shape))


def _rule_for(op: Operation) -> Result:
    if op.name in KNOW_WEIGHTS:
        return KNOW_WEIGHTS[op.name](op)
    name = _known_as(op.name, op.func)
    if op.weights and name in weights.OPERATIONS and (result := weights.OPERATIONS[name](op)) is not None:
        return _also_as_data(op, name, result)
    if name not in OPERATIONS:
        return unknown.no_rule(op)
    op.see_as_data()
    return OPERATIONS[name](op)
