"""The dense network of the slices: the network as it was built, every weight outside of a width's slices zero.

No other channel reaches those of the slices then, so its outputs are those of the active part. Only a LayerNorm
would see the others; it is told which channels to count. Nothing of slimlib runs in it: the slices are all that it
takes from a layout.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from slimlib.core.layout import Layout, axis_index


def active_elements(net: nn.Module, layout: Layout, channels: tuple[int, ...]) -> dict[str, Tensor]:
    """Name of every parameter and buffer that slims -> whether each element of it is in the slice."""
    tensors = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    found: dict[str, Tensor] = {}
    for name, dims in layout.axes.items():
        if name not in tensors:
            continue  # a second name of a tensor that is shared
        on = torch.ones(tensors[name].shape, dtype=torch.bool)
        for dim, axis in dims.items():
            index = axis_index(axis, channels)
            off = torch.ones(on.shape[dim], dtype=torch.bool)
            off[slice(index) if isinstance(index, int) else index] = False
            on.index_fill_(dim, off.nonzero()[:, 0], False)
        found[name] = on
    return found


class DenseOfSlices(nn.Module):
    """A dense network, of which `keep` leaves the slices of a width."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.tensors = {**dict(net.named_parameters()), **dict(net.named_buffers())}
        self.full: dict[str, Tensor] = {}
        self.norms = OverActive({})

    def keep(self, active: Mapping[str, Tensor]) -> None:
        """Zeros outside of `active`: name of a parameter or buffer -> whether an element is in the slice."""
        for name, on in active.items():
            full = self.full.setdefault(name, self.tensors[name].detach().clone())
            self.tensors[name].data.copy_(full * on)
        self.norms = OverActive({id(self.tensors[name]): on for name, on in active.items() if on.dim() == 1})

    def forward(self, x: Tensor) -> Any:
        with self.norms:
            return self.net(x)


class OverActive(TorchFunctionMode):
    """LayerNorm over the active channels, which are known by its weight; the others come out as zero."""

    def __init__(self, active: Mapping[int, Tensor]) -> None:
        super().__init__()
        self.active = active

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__name__", "") == "layer_norm":
            return self.layer_norm(func, *args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def layer_norm(
        self,
        func: Any,
        x: Tensor,  # [..., C]
        normalized_shape: Any,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        eps: float = 1e-5,
        *rest: Any,
    ) -> Tensor:
        on = self.active.get(id(weight))
        if weight is None or on is None:
            out: Tensor = func(x, normalized_shape, weight, bias, eps, *rest)
            return out
        count = on.sum()
        mean = (x * on).sum(-1, keepdim=True) / count
        centred = (x - mean) * on
        variance = centred.square().sum(-1, keepdim=True) / count
        scaled = centred / (variance + eps).sqrt() * weight
        return scaled if bias is None else scaled + bias
