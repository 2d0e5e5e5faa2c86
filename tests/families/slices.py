"""The dense network of the slices: the network as it was built, every weight outside of a width's slices zero.

No other channel reaches those of the slices then, so its outputs are those of the active part. Only a statistic
over channels would see the others: norms are told which channels to count, and means written by hand, and the scale
of attention, count those that are not zero everywhere. Nothing of slimlib runs in it: the slices are all that it
takes from a layout.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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

    def forward(self, *args: Any) -> Any:
        with self.norms:
            return self.net(*args)


class OverActive(TorchFunctionMode):
    """Norms over the active channels, which are known by their weight, and means over them."""

    def __init__(self, active: Mapping[int, Tensor]) -> None:
        super().__init__()
        self.active = active

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name, kwargs = getattr(func, "__name__", ""), dict(kwargs or {})
        if name in MEANS and args and isinstance(args[0], Tensor) and self.active:
            dims = kwargs.get("dim", args[1] if len(args) > 1 else None)
            dims = range(args[0].dim()) if dims is None else [dims] if isinstance(dims, int) else dims
            return func(not_zero(args[0], list(dims)), *args[1:], **kwargs)
        if name == "scaled_dot_product_attention" and kwargs.get("scale") is None:
            query = args[0] if args else kwargs["query"]
            size = int((query != 0).flatten(0, -2).any(0).sum())
            return func(*args, **kwargs | {"scale": max(size, 1) ** -0.5})
        if name == "batch_norm" and args[1] is None:
            return standardised(func, *args, **kwargs)
        if name in NORMS:
            found = dict(zip(NORMS[name], args, strict=False)) | kwargs
            on = self.active.get(id(found.get("weight")))
            if on is not None and found.get("num_groups", 1) == 1:
                return norm(name, on, **found)
        return func(*args, **kwargs)


MEANS = {"mean", "var", "std"}
NORMS = {
    "layer_norm": ("input", "shape", "weight", "bias", "eps"),
    "rms_norm": ("input", "shape", "weight", "eps"),
    "group_norm": ("input", "num_groups", "weight", "bias", "eps"),
}


def not_zero(x: Tensor, dims: Sequence[int]) -> Tensor:
    """What is left of some dimensions without the places where everything is zero."""
    for dim in dims:
        on = (x != 0).movedim(dim, 0).flatten(1).any(1) if x.dim() > 1 else x != 0
        x = x if bool(on.all()) or not bool(on.any()) else x.index_select(dim, on.nonzero()[:, 0])
    return x


def standardised(func: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Weights [1, O, I], each of whose outputs is standardised over the inputs that are active."""
    on = (x != 0).flatten(0, 1).any(0).nonzero()[:, 0]
    out = torch.zeros_like(x)
    return out.index_copy(2, on, func(x.index_select(2, on), *args, **kwargs))


def norm(
    name: str, on: Tensor, input: Tensor, weight: Tensor, bias: Tensor | None = None, eps: float | None = 1e-5, **_: Any
) -> Tensor:
    """A norm over the active channels: the last, or those of images in one group; the others come out as zero."""
    channels = [-1] + [1] * (input.dim() - 2) if name == "group_norm" else [-1]
    dims = list(range(1, input.dim())) if name == "group_norm" else [-1]
    on, weight = on.view(channels), weight.view(channels)
    count = (on.expand(input.shape[1:]) if name == "group_norm" else on).sum()
    mean = 0.0 if name == "rms_norm" else (input * on).sum(dims, keepdim=True) / count
    centred = (input - mean) * on
    variance = centred.square().sum(dims, keepdim=True) / count
    eps = torch.finfo(input.dtype).eps if eps is None else eps
    scaled = centred / (variance + eps).sqrt() * weight
    return scaled if bias is None else scaled + bias.view(channels)
