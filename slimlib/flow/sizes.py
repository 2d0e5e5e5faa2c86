"""Products of which only the size is computed, in runs that ask which channels meet and not for numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from slimlib.flow.operations.operation import Operation, each_tensor

PRODUCTS = {"convolution", "linear", "mm", "addmm", "bmm", "baddbmm"}
WORTHWHILE = 50_000  # elements of the factors, of which fewer are multiplied as soon as their size is known
READS = {
    "_local_scalar_dense", "is_nonzero", "item", "equal", "nonzero", "nonzero_static", "masked_select", "_unique2",
    "unique_dim", "unique_consecutive", "unique_dim_consecutive", "bincount", "histc", "multinomial", "tolist", "numpy",
    "__array__", "__dlpack__",
}  # fmt: skip
"""Operations and functions that show numbers to forward, or give results of a shape that depends on numbers."""


class LooksAtNumbers(Exception):
    """Forward looks at numbers, so that they must be computed."""


def reads(op: Operation) -> bool:
    """Whether forward, or the shape of the result, may depend on the numbers that an operation is given."""
    if op.name.startswith(("index", "_index")):
        return any(x.dtype in (torch.bool, torch.uint8) for _, x in op.operands[1:])
    return op.name in READS or (op.name == "repeat_interleave" and any(x.dtype == torch.int64 for _, x in op.operands))


def zeros_for(name: str, func: Callable[..., Any], args: Any, kwargs: Any) -> Tensor | None:
    """Zeros of the size of a large product, with its errors; None for anything else."""
    if name not in PRODUCTS:
        return None
    factors = [x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)]
    if sum(x.numel() for x in factors) < WORTHWHILE or any(x.layout is not torch.strided for x in factors):
        return None
    made: Tensor = func(*each_tensor(_without_numbers, args), **each_tensor(_without_numbers, kwargs))
    return torch.zeros_like(made, device=factors[0].device)


def _without_numbers(x: Tensor) -> Tensor:
    return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="meta")
