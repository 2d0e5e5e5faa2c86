"""Norms: their parameters and statistics follow the channels that enter."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from slimlib.flow.ids import compact, distinct, varies, varying
from slimlib.flow.operations.operation import Operation, Result, table
from slimlib.flow.undecided import Repeated

NORM_LAYERS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)


def _enters(op: Operation, column: Tensor) -> None:
    """Remember which channels enter a norm module, also where it has no parameters that tell."""
    if not isinstance(op.context.modules[op.context.module], NORM_LAYERS):
        return  # a norm called as a function
    ids = op.context.ties.fresh((op.context.module, "input"), len(column))
    op.tie(ids, column)


def _per_channel(op: Operation, parameters: list[object]) -> Tensor:
    column = op.column(op.x, 1)
    _enters(op, column)
    for ids in parameters:
        if isinstance(ids, Tensor):
            op.tie(ids, column)
    return column


def batch_norm(op: Operation) -> Result:
    _per_channel(op, list(op.ids[1:5]))
    return [compact(op.x), None, None, None]


def instance_norm(op: Operation) -> Result:
    named = [op.kwids.get(name) for name in ("running_mean", "running_var", "weight", "bias")]
    _per_channel(op, [*op.ids[1:5], *named])
    return compact(op.x)


def group_norm(op: Operation) -> Result:
    """A norm group keeps its size: all its channels are one unit. One group of all is a statistic over channels."""
    groups: int = op.args[6]
    column = _per_channel(op, list(op.ids[1:3]))
    if groups == 1:
        op.context.statistic(column)
    else:
        blocks = column.reshape(groups, -1)
        op.tie(blocks, blocks[:, :1])
    return [compact(op.x), None, None]


def _holds_shape(op: Operation, axes: int) -> None:
    """A norm without parameters knows its shape by an attribute alone."""
    for dim in range(op.x.dim() - axes, op.x.dim()):
        if varies(op.x, dim):
            path = f"normalized_shape.{dim - op.x.dim() + axes}"
            op.context.ties.numbers[op.context.module, path] = op.column(op.x, dim)


def layer_norm(op: Operation) -> Result:
    """Normalises over the last axes, one of which may hold the channels."""
    axes = len(op.argument(1, "normalized_shape"))
    parameters = [
        ids for ids in (*op.ids[2:4], op.kwids.get("weight"), op.kwids.get("bias")) if isinstance(ids, Tensor)
    ]
    if axes == 1 and len(varying(op.x)) > 1 and varies(op.x, -1):
        return _norm_of_each_head(op, parameters)
    if any(varies(op.x, dim) for dim in range(op.x.dim() - axes, op.x.dim())):
        op.context.statistic(op.x)
        if axes == 1:
            _enters(op, op.column(op.x, -1))
        elif not parameters and isinstance(op.context.modules[op.context.module], NORM_LAYERS):
            _holds_shape(op, axes)
    out = op.elementwise([op.x, *parameters], op.x.shape)
    return out if op.name == "rms_norm" else [out, None, None]


def _norm_of_each_head(op: Operation, parameters: list[Tensor]) -> Result:
    """x [..., H, D]: whole heads slim, and what the norm learns is for each of them; or D shrinks alike for all."""
    ties, here, x = op.context.ties, op.context.here, op.x
    name = op.context.module if isinstance(op.context.modules[op.context.module], NORM_LAYERS) else None

    def whole() -> None:
        ties.tie(x, x[..., :1], here)
        for ids in parameters:
            ties.keep_apart(ids, f"the same for all heads: {here}")

    def alike() -> None:
        column = distinct(x)[(0,) * (x.dim() - 1)]
        for ids in parameters:
            ties.tie(ids, column, here)
        if name is not None:
            ties.tie(ties.fresh((name, "input"), len(column)), column, here)

    ties.leave_open(Repeated(x, [x.dim() - 1], whole, alike, likeliest=whole))
    return x if op.name == "rms_norm" else [x, None, None]


OPERATIONS = table(
    (
        batch_norm,
        "native_batch_norm _native_batch_norm_legit cudnn_batch_norm miopen_batch_norm _batch_norm_with_update "
        "_native_batch_norm_legit_no_training _batch_norm_no_update _native_batch_norm_legit_functional",
    ),
    (instance_norm, "instance_norm"),
    (group_norm, "native_group_norm"),
    (layer_norm, "native_layer_norm rms_norm"),
)
