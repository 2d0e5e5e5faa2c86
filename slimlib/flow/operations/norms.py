"""Norms: their parameters and statistics follow the channels that enter."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from slimlib.flow.ids import compact, varies
from slimlib.flow.operations.operation import Operation, Result, table

NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)


def _enters(op: Operation, column: Tensor) -> None:
    """Remember which channels enter a norm module, also where it has no parameters that tell."""
    if not isinstance(op.context.modules[op.context.module], NORMS):
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
    """A norm group keeps its size: all its channels are one unit."""
    groups: int = op.args[6]
    column = _per_channel(op, list(op.ids[1:3]))
    blocks = column.reshape(groups, -1)
    op.tie(blocks, blocks[:, :1])
    return [compact(op.x), None, None]


def layer_norm(op: Operation) -> Result:
    """Normalises over the last axes; follows channels on the last."""
    axes = len(op.argument(1, "normalized_shape"))
    for dim in range(op.x.dim() - axes, op.x.dim() - 1):
        if varies(op.x, dim):
            op.fix(op.x, "normalised over several axes at once")
    if axes == 1 and varies(op.x, -1):
        _enters(op, op.column(op.x, -1))
    parameters = [*op.ids[2:4], op.kwids.get("weight"), op.kwids.get("bias")]
    out = op.elementwise([op.x, *(ids for ids in parameters if isinstance(ids, Tensor))], op.x.shape)
    return out if op.name == "rms_norm" else [out, None, None]


RULES = table(
    (
        batch_norm,
        "native_batch_norm _native_batch_norm_legit cudnn_batch_norm miopen_batch_norm _batch_norm_with_update "
        "_native_batch_norm_legit_no_training _batch_norm_no_update _native_batch_norm_legit_functional",
    ),
    (instance_norm, "instance_norm"),
    (group_norm, "native_group_norm"),
    (layer_norm, "native_layer_norm rms_norm"),
)
