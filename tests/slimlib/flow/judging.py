"""Small networks, and what must hold for each that `convert` takes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import slimlib as slim
from slimlib.core.layout import axis_index, axis_size
from slimlib.core.structures import tensors


class Net(nn.Module):
    """Its layers, and a forward that is given: `compute(net, *args)`."""

    def __init__(self, compute: Callable[..., Any], **layers: nn.Module | nn.Parameter | Tensor) -> None:
        super().__init__()
        self.compute = compute
        for name, layer in layers.items():
            if isinstance(layer, Tensor) and not isinstance(layer, nn.Parameter):
                self.register_buffer(name, layer)
            else:
                setattr(self, name, layer)

    def forward(self, *args: Any) -> Any:
        return self.compute(self, *args)


def conv(inputs: int, outputs: int, kernel: int = 3, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, padding=options.pop("padding", kernel // 2), **options)


def image(side: int = 8, count: int = 2) -> Tensor:
    return torch.randn(count, 3, side, side)


def tokens(length: int = 5) -> Tensor:
    return torch.randn(2, length, 16)


def parameter(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape))


def between_convolutions(middle: Callable[[Any, Tensor], Tensor], **layers: Any) -> Net:
    """conv 3 -> 32, ReLU, the middle, conv 32 -> 32, ReLU, conv 32 -> 3."""

    def forward(net: Any, x: Tensor) -> Tensor:
        return net.last(F.relu(net.second(middle(net, F.relu(net.first(x))))))

    return Net(forward, first=conv(3, 32), second=conv(32, 32), last=conv(32, 3), **layers)


def between_linears(middle: Callable[[Any, Tensor], Tensor], **layers: Any) -> Net:
    """Linear 16 -> 32, ReLU, the middle, Linear 32 -> 64, ReLU, Linear 64 -> 3."""

    def forward(net: Any, x: Tensor) -> Tensor:
        return net.last(F.relu(net.second(middle(net, F.relu(net.first(x))))))

    return Net(forward, first=nn.Linear(16, 32), second=nn.Linear(32, 64), last=nn.Linear(64, 3), **layers)


def share_left(net: nn.Module, example: Any, width: float = 0.5) -> float:
    """Convert; the share of parameters left at a width, after checks that hold for every network.

    Full width is the dense network bit for bit; at a width the outputs have their shapes and are those of `extract`;
    what is cut off does not matter.
    """
    args = example if isinstance(example, tuple) else (example,)
    dense = copy.deepcopy(net).eval()
    slim.convert(net, example, norm="shared")
    net.eval()
    with torch.no_grad():
        full = tensors(net(*args))
        assert all(torch.equal(a, b) for a, b in zip(full, tensors(dense(*args)), strict=True))
        slim.set_width(net, width)
        narrow = tensors(net(*args))
        assert [x.shape for x in narrow] == [x.shape for x in full]
        same(narrow, tensors(slim.extract(net, width, example)(*args)))
        spoilt = copy.deepcopy(net)
        spoil(spoilt, width)
        same(narrow, tensors(spoilt(*args)))
    return parameters_left(net, width)


def same(ours: list[Tensor], theirs: list[Tensor]) -> None:
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def share_left_as_twin(make: Callable[[int], nn.Module], example: Any) -> float:
    """Convert `make(32)`; the share left at half width, where it is `make(16)` with the weights that are left."""
    torch.manual_seed(0)
    net, twin = make(32).eval(), make(16).eval()
    args = example if isinstance(example, tuple) else (example,)
    slim.convert(net, example, norm="shared")
    slim.set_width(net, 0.5)
    twin.load_state_dict(slim.extract(net, 0.5, example).state_dict())
    with torch.no_grad():
        same(tensors(net(*args)), tensors(twin(*args)))
    return parameters_left(net, 0.5)


def spoil(net: Any, width: float) -> None:
    """NaN in every element that is cut off at a width."""
    held = dict(net.named_parameters()) | dict(net.named_buffers())
    channels = net.slim.channels_at(width)
    for name, axes in net.slim.layout.axes.items():
        active = torch.ones(held[name].shape, dtype=torch.bool)
        for dim, axis in axes.items():
            index = axis_index(axis, channels)
            on = torch.zeros(active.shape[dim], dtype=torch.bool)
            on[slice(index) if isinstance(index, int) else index] = True
            active &= on.view([-1 if d == dim else 1 for d in range(active.dim())])
        held[name].data[~active] = torch.nan


def parameters_left(net: Any, width: float) -> float:
    channels, left, layout = net.slim.channels_at(width), 0, net.slim.layout
    for name, tensor in net.named_parameters():
        axes = layout.axes.get(name, {})
        sizes = [axis_size(axes[d], channels) if d in axes else tensor.shape[d] for d in range(tensor.dim())]
        left += torch.Size(sizes).numel()
    return left / sum(tensor.numel() for tensor in net.parameters())
