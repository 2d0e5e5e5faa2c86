"""Functions that are followed as one operation, since their parts would look like something else.

RMSNorm in parts is a mean over channels, InstanceNorm a BatchNorm over images times channels, a
recurrent layer a loop over literal sizes, and dropout draws numbers that depend on the width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

from slimlib.flow.ids import varies

if TYPE_CHECKING:
    from slimlib.flow.trace import Trace

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
WHOLE = NORMS | DROPOUTS | RECURRENT


class WholeFunctions(TorchFunctionMode):
    """Hands functions whose meaning is lost in their parts to the trace as one operation."""

    def __init__(self, trace: Trace) -> None:
        super().__init__()
        self.trace = trace

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        trace = self.trace
        name = getattr(func, "__name__", "")
        if trace.whole or name not in WHOLE:
            if name == "scaled_dot_product_attention" and not trace.whole:
                attention_scale(trace, args, kwargs)
            return func(*args, **kwargs)
        trace.whole = True
        try:
            return trace.step(name, func, args, kwargs, False)
        finally:
            trace.whole = False


def attention_scale(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """The default scale of attention depends on the size of a head: channels inside a single head stay."""
    query = args[0] if args else kwargs.get("query")
    if kwargs.get("scale") is not None or not isinstance(query, Tensor):
        return
    trace.whole = True
    try:
        ids = trace.shadow(query, as_weight=False)
        if varies(ids, -1) and not any(varies(ids, dim) for dim in range(ids.dim() - 2)):
            trace.operation = "scaled_dot_product_attention"
            trace.ties.fix(ids, f"its default scale depends on the number of channels: {trace.here}")
    finally:
        trace.whole = False
