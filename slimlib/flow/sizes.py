"""Products of which only the size is computed, in runs that ask which channels meet and not for numbers."""

from __future__ import annotations

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


def zeros_for_product(op: Operation) -> Tensor | None:
    """Zeros of the size of a large product, with its errors; None for anything else."""
    if op.name not in PRODUCTS or sum(x.numel() for _, x in op.operands) < WORTHWHILE:
        return None
    if any(x.layout is not torch.strided for _, x in op.operands):
        return None
    made: Tensor = op.func(*each_tensor(_without_numbers, op.args), **each_tensor(_without_numbers, op.kwargs))
    return torch.zeros_like(made, device=op.operands[0][1].device)


def _without_numbers(x: Tensor) -> Tensor:
    return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="meta")
