"""Products of which only the size is computed, in runs that ask which channels meet and not for numbers."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from slimlib.flow.operations.operation import Operation

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
    shape, strides, dtype = _result(func, *map(_hashable, args), **{key: _hashable(x) for key, x in kwargs.items()})
    return torch.empty_strided(shape, strides, dtype=dtype, device=factors[0].device).zero_()


class _Size(NamedTuple):
    """Of a tensor, what the size of a product depends on."""

    shape: torch.Size
    strides: tuple[int, ...]
    dtype: torch.dtype


def _size(x: Tensor) -> _Size:
    return _Size(x.shape, x.stride(), x.dtype)


def _hashable(x: Any) -> Any:
    return _size(x) if isinstance(x, Tensor) else tuple(x) if isinstance(x, list) else x


@lru_cache(maxsize=1000)
def _result(func: Callable[..., Any], *args: Any, **kwargs: Any) -> _Size:
    """The size of a product. Layers of one size repeat in a network, and proofs run them again."""
    return _size(func(*map(_without_numbers, args), **{key: _without_numbers(x) for key, x in kwargs.items()}))


def _without_numbers(x: Any) -> Any:
    return torch.empty_strided(x.shape, x.strides, dtype=x.dtype, device="meta") if isinstance(x, _Size) else x
