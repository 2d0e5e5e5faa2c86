"""Elementwise operations: the channels that meet are tied."""

from __future__ import annotations

from slimlib.flow.operations.operation import Operation, Result, table


def elementwise(op: Operation) -> Result:
    out = op.first
    return op.elementwise([ids for ids in op.tensors if ids.dim() <= out.dim()], out.shape)


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
        "native_dropout",
    ),
)
