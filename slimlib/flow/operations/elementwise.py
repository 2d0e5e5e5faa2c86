"""Elementwise operations: the channels that meet are tied."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from slimlib.flow.ids import Shadow, tracked, varying
from slimlib.flow.operations.operation import Operation, Result, table


def elementwise(op: Operation) -> Result:
    return meet(op, op.operands)


def meet(op: Operation, operands: Sequence[tuple[Shadow, Tensor]]) -> Tensor:
    """Tie what is broadcast to the result, and give its channels to what forward made for each of them."""
    data = [(ids, x) for ids, x in operands if isinstance(ids, Tensor) and ids.dim() <= op.first.dim()]
    ids = op.elementwise([own for own, _ in data], op.first.shape)
    for own, x in data:
        if varying(ids) and not tracked(own):
            _belongs_with(op, x, ids)
    return ids


def _belongs_with(op: Operation, x: Tensor, ids: Tensor) -> None:
    """A tensor that forward made for every channel has these channels, also where it meets others later."""
    begin = ids.dim() - x.dim()
    if all(dim >= begin and x.shape[dim - begin] == ids.shape[dim] for dim in varying(ids)):
        own = ids[(0,) * begin]
        for dim, size in enumerate(x.shape):
            own = own.narrow(dim, 0, size)
        op.context.shadows[x] = own


POINTWISE = "pointwise"  # stands for all operations that torch itself marks so
OPERATIONS = table(
    (
        elementwise,
        f"{POINTWISE} rsub gelu hardswish mish abs masked_fill _prelu_kernel gt lt ge le eq ne threshold copy xlogy "
        "log_sigmoid_forward rrelu_with_noise floor_divide fill complex polar real imag conj _conj resolve_conj "
        "_neg_view resolve_neg dropout alpha_dropout feature_dropout dropout1d dropout2d dropout3d "
        "feature_alpha_dropout native_dropout fake_quantize_per_tensor_affine_cachemask "
        "_fake_quantize_per_tensor_affine_cachemask_tensor_qparams _fake_quantize_learnable_per_tensor_affine",
    ),
)
