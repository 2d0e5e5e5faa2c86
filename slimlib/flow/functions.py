"""Functions that are followed as one operation, since their parts would look like something else.

RMSNorm in parts is a mean over channels, InstanceNorm a BatchNorm over images times channels, a
recurrent layer a loop over literal sizes, and dropout draws numbers that depend on the width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

from slimlib.flow.context import Context
from slimlib.flow.ids import varies

NORMS = {"rms_norm", "instance_norm"}
DROPOUTS = {
    "dropout",
    "alpha_dropout",
    "feature_dropout",
    "dropout1d",
    "dropout2d",
    "dropout3d",
    "feature_alpha_dropout",
}
RECURRENT = {"lstm", "gru", "rnn_tanh", "rnn_relu", "lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell"}
PACKED = {"_pack_padded_sequence", "_pad_packed_sequence"}  # a copy for each step, and slice writes
FOLLOWED = NORMS | DROPOUTS | RECURRENT | PACKED


class FunctionsAsOperations(TorchFunctionMode):
    """Hands functions whose meaning is lost in their parts to `step`, as one operation."""

    def __init__(self, context: Context, step: Callable[..., Any]) -> None:
        super().__init__()
        self.context, self.step = context, step

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        context, name = self.context, getattr(func, "__name__", "")
        if context.paused or name not in FOLLOWED:
            if name == "scaled_dot_product_attention" and not context.paused:
                attention_scale(context, args, kwargs)
            return func(*args, **kwargs)
        with context.pause():
            return self.step(name, func, args, kwargs, False)


def attention_scale(context: Context, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """The default scale of attention depends on the size of a head: channels inside a single head stay."""
    query = args[0] if args else kwargs.get("query")
    if kwargs.get("scale") is not None or not isinstance(query, Tensor):
        return
    with context.pause():
        ids = context.shadow(query, as_weight=False)
        if varies(ids, -1) and not any(varies(ids, dim) for dim in range(ids.dim() - 2)):
            context.operation = "scaled_dot_product_attention"
            context.ties.fix(ids, f"its default scale depends on the number of channels: {context.here}")
