"""The weights that make the channels of a group, and those that read them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils.weight_norm import WeightNorm

from slimlib.core.layout import Axis
from slimlib.core.slimming import Slimming
from slimlib.core.swapping import logical_weight, no_inference_mode

OF_SEVERAL_WEIGHTS = (nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention, nn.Bilinear)
"""Their outputs lie along dimension 0 of each weight, and what they read along the others."""


@dataclass(frozen=True)
class Weight:
    """A weight at full width, and the axis of it on which the units of a group lie.

    value: what the layer computes with.
    parameters: what that is computed from: itself, or the two of weight normalisation.
    """

    name: str
    value: Tensor
    parameters: tuple[Tensor, ...]
    dim: int
    axis: Axis

    def per_unit(self, elements: Tensor, group: int, units: int) -> Tensor:
        """Elements [shape of the weight] added up for each unit of the group, [units], in double precision."""
        return sum_over_units(per_channel(elements, self.dim), self.axis, group, units)


@contextmanager
def at_full_width(slimming: Slimming) -> Iterator[None]:
    """Every module shows its full tensors and numbers, also where that is no width that may be set."""
    if slimming.stale():
        slimming.refresh()  # or the next forward would, and set the width again
    with torch.enable_grad(), no_inference_mode():
        for part in slimming.parts:
            part.module.__dict__.update(part.swaps(slimming.layout.full))
    try:
        yield
    finally:
        slimming.refresh()


def makers(slimming: Slimming, group: int) -> list[Weight]:
    """The weights that make the channels of a group; depthwise ones, which follow, only where there are no others."""
    net, layers = slimming.net(), slimming.layout.groups[group].layers
    modules = dict(net.named_modules())
    making = [layer for layer in layers if not is_depthwise(modules.get(layer))] or layers
    found = []
    for layer in making:
        module = modules.get(layer)
        dim = output_dim(module)
        if module is not None and dim is not None:
            found += _weight(slimming, layer, module, dim, group)
        elif isinstance(module, OF_SEVERAL_WEIGHTS):
            found += _of_several_weights(slimming, layer, group, reading=False)
        else:
            found += _raw_parameters(slimming, layer, group)
    return found


def readers(slimming: Slimming, group: int) -> list[Weight]:
    """The weights that read the channels of a group; depthwise ones follow, and do not count."""
    found = []
    for name, module in slimming.net().named_modules():
        dim = None if is_depthwise(module) else input_dim(module)
        if dim is not None:
            found += _weight(slimming, name, module, dim, group)
        elif isinstance(module, OF_SEVERAL_WEIGHTS):
            found += _of_several_weights(slimming, name, group, reading=True)
    return found


def is_depthwise(module: nn.Module | None) -> bool:
    """Whether this is a convolution of each channel by itself; it must show its full numbers."""
    return isinstance(module, _ConvNd) and 1 < module.groups == module.in_channels


def units_on(axis: Axis, group: int) -> Tensor:
    """The unit of `group` that each channel of an axis belongs to, [channels]; -1 for those of others."""
    found = []
    for segment in axis:
        if segment.group == group:
            units = torch.arange(segment.start, segment.start + segment.units)
            found.append(units.repeat_interleave(segment.channels))
        else:
            found.append(torch.full((segment.size,), -1))
    return torch.cat(found)


def per_channel(elements: Tensor, dim: int) -> Tensor:
    """Elements added up for each channel along a dimension, in double precision."""
    return elements.detach().double().cpu().movedim(dim, 0).reshape(elements.shape[dim], -1).sum(1)


def sum_over_units(channels: Tensor, axis: Axis, group: int, units: int) -> Tensor:
    """Values of the channels of an axis added up for each unit of a group, [units]."""
    index = units_on(axis, group)
    return torch.zeros(units, dtype=torch.double).index_add_(0, index[index >= 0], channels[index >= 0])


def output_dim(module: nn.Module | None) -> int | None:
    """The dimension of a layer's weight along which its outputs lie; None for a module of another kind."""
    if isinstance(module, _ConvTransposeNd):
        return 0 if is_depthwise(module) else 1
    if isinstance(module, _ConvNd | nn.Linear):
        return 0
    return 1 if isinstance(module, nn.Embedding | nn.EmbeddingBag) else None


def input_dim(module: nn.Module | None) -> int | None:
    if isinstance(module, _ConvTransposeNd):
        return 0
    return 1 if isinstance(module, _ConvNd | nn.Linear) else None


def _weight(slimming: Slimming, layer: str, module: nn.Module, dim: int, group: int) -> list[Weight]:
    """The weight of a layer, where units of the group lie along `dim` of it."""
    found = logical_weight(module)
    if found is None:
        return []
    owner, attribute = found
    path = attribute if owner is module else f"parametrizations.weight.{attribute}"
    axis = slimming.layout.axes.get(f"{layer}.{path}".lstrip("."), {}).get(dim)
    if axis is None or all(segment.group != group for segment in axis):
        return []
    held = tuple(
        p for name, p in owner._parameters.items() if name.startswith(("weight", "original")) and p is not None
    )
    value = _computed_weight(module)
    fitting = tuple(p for p in held if p.dim() > dim and p.shape[dim] == value.shape[dim])
    return [Weight(f"{layer}.weight".lstrip("."), value, fitting, dim, axis)]


def _computed_weight(module: nn.Module) -> Tensor:
    """What the layer computes with, also where weight normalisation makes it."""
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, WeightNorm) and hook.name == "weight":
            computed: Tensor = hook.compute_weight(module)
            return computed
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight


def _of_several_weights(slimming: Slimming, layer: str, group: int, *, reading: bool) -> list[Weight]:
    """Those of a layer in `OF_SEVERAL_WEIGHTS` that make the units of a group, or that read them; no biases."""
    found = _raw_parameters(slimming, layer, group)
    return [w for w in found if "weight" in w.name.rpartition(".")[2] and (w.dim > 0) == reading]


def _raw_parameters(slimming: Slimming, layer: str, group: int) -> list[Weight]:
    """The parameters of a module of another kind, or the one of this name, where units of the group lie on them."""
    found = []
    for name, parameter in slimming.net().named_parameters():
        if name == layer or name.rpartition(".")[0] == layer:
            for dim, axis in slimming.layout.axes.get(name, {}).items():
                if any(segment.group == group for segment in axis):
                    found.append(Weight(name, parameter, (parameter,), dim, axis))
    return found
