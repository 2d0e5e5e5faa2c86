"""Functions that are followed as one operation, since their parts would look like something else.

RMSNorm in parts is a mean over channels, InstanceNorm a BatchNorm over images times channels, a
recurrent layer a loop over literal sizes, dropout draws numbers that depend on the width, and the parts
of a linear layer and of an einsum depend on sizes and strides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils._mode_utils import no_dispatch

from slimlib.flow.context import Context
from slimlib.flow.operations import einsum
from slimlib.flow.operations.operation import DROPOUTS

NORM_FUNCTIONS = {"rms_norm", "instance_norm"}
RECURRENT = {"lstm", "gru", "rnn_tanh", "rnn_relu", "lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell"}
PACKED = {"_pack_padded_sequence", "_pad_packed_sequence"}  # a copy for each step, and slice writes
PRODUCTS = {"linear", "bilinear", "cdist"}
ATTENTION = "scaled_dot_product_attention"
FOLLOWED = NORM_FUNCTIONS | DROPOUTS | RECURRENT | PACKED | PRODUCTS


class FunctionsAsOperations(TorchFunctionMode):
    """Hands functions whose meaning is lost in their parts to `step`, as one operation.

    `scale` gives that of attention for a query, where it has its default, which is of the number of channels;
    `see` is told the names of all other functions.
    """

    def __init__(
        self,
        context: Context,
        step: Callable[..., Any],
        scale: Callable[[Tensor], float | None],
        see: Callable[[str], None],
    ) -> None:
        super().__init__()
        self.context, self.step, self.scale, self.see = context, step, scale, see

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        context, name = self.context, getattr(func, "__name__", "")
        if name == "einsum" and (found := einsum.of_two_tensors(context, args)) is not None:
            with no_dispatch():
                return self.step(name, func, found, {}, False)
        if name not in FOLLOWED:
            self.see(name)
            return self._attend(func, args, kwargs) if name == ATTENTION else func(*args, **kwargs)
        args, kwargs = by_position(name, args, kwargs)
        with no_dispatch():
            return self.step(name, func, args, kwargs, False)

    def _attend(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Attention as matrix products and a softmax, whichever of its kernels forward asks for."""
        if kwargs.get("scale") is None:
            kwargs["scale"] = self.scale(args[0] if args else kwargs["query"])
        with sdpa_kernel(SDPBackend.MATH):
            return func(*args, **kwargs)


def by_position(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a product, all by position, where its rule looks for them."""
    names = ("input", "weight", "bias") if name == "linear" else ("input1", "input2", "weight", "bias")
    if name not in {"linear", "bilinear"} or not kwargs:
        return args, kwargs
    return (*args, *(kwargs.get(key) for key in names[len(args) :])), {}


@contextmanager
def python_functions_in_parts() -> Iterator[None]:
    """Let torch's functions that are written in Python run in parts, of which each is followed.

    Such a function hands itself to the mode as a whole, and within that no other is handed to it.
    """
    names = ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic")
    before = {name: getattr(functional, name) for name in names}
    try:
        for name in names:
            setattr(functional, name, lambda *_: False)
        yield
    finally:
        for name, own in before.items():
            setattr(functional, name, own)
