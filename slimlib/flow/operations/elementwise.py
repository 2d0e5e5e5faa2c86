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


OPERATIONS = table(
    (
        elementwise,
        "add sub rsub mul div pow relu gelu silu sigmoid tanh hardswish hardsigmoid hardtanh leaky_relu elu selu "
        "celu relu6 softplus mish exp expm1 log log1p log2 sqrt rsqrt abs neg clamp clamp_min clamp_max maximum "
        "minimum where masked_fill fmod remainder addcmul addcdiv erf erfc sin cos tan atan atan2 asin acos sinh "
        "cosh asinh acosh atanh square reciprocal lerp _prelu_kernel logical_not logical_and logical_or gt lt ge "
        "le eq ne threshold copy log_sigmoid log_sigmoid_forward sign bitwise_and bitwise_or bitwise_not round "
        "floor ceil trunc frac nan_to_num softshrink hardshrink rrelu_with_noise isnan isinf xlogy floor_divide "
        "logit fill dropout alpha_dropout feature_dropout dropout1d dropout2d dropout3d feature_alpha_dropout "
        "native_dropout complex polar real imag angle conj _conj conj_physical resolve_conj _neg_view resolve_neg",
    ),
)
