"""The modules of a network in which something depends on the width, by its layout."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils import parametrize

from slimlib.core.heads import Bounds
from slimlib.core.layers import SLIM_LAYERS
from slimlib.core.layout import Axis, Layout, axis_size
from slimlib.core.norms.batchnorm import PLAIN_NORMS, PlainBatchNorm, SlimBatchNorm
from slimlib.core.statistics import AFFINE, STATISTICS, tracks
from slimlib.core.swapping import (
    Gathers,
    GathersFlat,
    Owner,
    Part,
    Slot,
    Swaps,
    SwapsOut,
    logical_weight,
    slim_class,
)

FULL_STATISTICS: Swaps = {"track_running_stats": True}


def find_parts(net: nn.Module, layout: Layout, heads: Mapping[str, Bounds] = MappingProxyType({})) -> list[Part]:
    """Every module of `net` that holds an axis of the layout, a number that depends on one, or a BatchNorm."""
    axes: dict[str, dict[str, Any]] = {}
    for name, dims in layout.axes.items():
        owner, _, attribute = name.rpartition(".")
        axes.setdefault(owner, {})[attribute] = dims
    parts = []
    for name, module in net.named_modules(remove_duplicate=True):
        if isinstance(module, torch.jit.ScriptModule):
            continue
        own = axes.get(name, {})
        if tracks(module):  # whatever its channels do, its statistics depend on the width
            own = {key: {} for key in (*AFFINE, *STATISTICS) if _store(module, key).get(key) is not None} | own
        bounds = heads.get(name, ())
        if bounds:
            own = {key: {} for key in AFFINE if module._parameters.get(key) is not None} | own
        if outputs := _of_new_bias(module, own):
            own = own | {"bias": {0: outputs}}
        # Interned like the attribute names of code, so that a look-up in `__dict__` compares pointers.
        slots = [
            Slot(_store(module, key), sys.intern(key), dims, f"{name}.{key}".lstrip(".") in layout.contiguous, bounds)
            for key, dims in own.items()
        ]
        for slot in slots:
            _check_size(f"{name}.{slot.name}".lstrip("."), slot, layout)
        weight = _weight_slot(module, name, net, axes)
        entering: Axis | None = layout.norm_inputs.get(name)
        held = layout.numbers.get(name, {})
        if slots or weight or entering or held:
            parts.append(Part(module, slots, weight, entering, held))
    return parts


def slim_part(part: Part, name: str | None, slimming: Owner, layout: Layout) -> None:
    """Give a module the class that can be sliced; without a `name`, a layer reads its inputs off what arrives."""
    module = part.module
    mixins: list[type] = []
    full = part.numbers(layout.full)
    narrow = part.numbers((1,) * len(layout.groups))
    numbers = {key: value for key, value in full.items() if narrow[key] != value}
    if tracks(module):
        numbers |= FULL_STATISTICS
        mixins.append(PlainBatchNorm if type(module) in PLAIN_NORMS else SlimBatchNorm)
    if isinstance(module, nn.RNNBase):
        mixins.insert(0, GathersFlat)
    elif part.gathers:
        mixins.insert(0, Gathers)
    module.__dict__.update(full_numbers=numbers, slimming=slimming)
    computed = tuple(module.parametrizations) if parametrize.is_parametrized(module) else ()  # type: ignore[arg-type]
    kind = type(module).__mro__[1] if computed else type(module)
    base = SLIM_LAYERS.get(kind, kind)
    if base in SLIM_LAYERS.values():
        module.__dict__["name_in_network"] = name
    if not issubclass(base, SwapsOut) and not mixins:
        mixins.append(SwapsOut)
    module.__class__ = slim_class(base, tuple(mixins), computed) if mixins or computed else base


def as_buffers(net: nn.Module, names: Iterable[str]) -> None:
    """Make buffers, which are in no state_dict, of tensors that are plain attributes, so that they can be sliced."""
    for name in names:
        owner, _, attribute = name.rpartition(".")
        module = net.get_submodule(owner)
        if isinstance(module.__dict__.get(attribute), Tensor) and attribute not in (
            *module._parameters,
            *module._buffers,
        ):
            module.register_buffer(attribute, module.__dict__.pop(attribute), persistent=False)


def _check_size(path: str, slot: Slot, layout: Layout) -> None:
    if slot.name not in slot.store:
        raise ValueError(f"'{path}' was removed after slimlib.convert; change layers (pruning, weight norm) before it")
    tensor = slot.store[slot.name]
    if hasattr(tensor, "placements"):  # a DTensor, of which no leading part can be seen
        raise ValueError(
            f"'{path}' is spread over several processes (fully_shard); use DistributedDataParallel, where each has all"
        )
    for dim, axis in slot.axes.items():
        if tensor is not None and (tensor.ndim <= dim or tensor.shape[dim] != axis_size(axis, layout.full)):
            wanted = f"must be {axis_size(axis, layout.full)} in dimension {dim}, as when the network was converted"
            raise ValueError(f"'{path}' is {list(tensor.shape)}, and {wanted}; convert a network of other sizes anew")


def _of_new_bias(layer: nn.Module, own: Mapping[str, Any]) -> Axis | None:
    """The outputs of a layer whose bias came after its channels were followed."""
    if not isinstance(layer, _ConvNd | nn.Linear) or layer._parameters["bias"] is None or "bias" in own:
        return None
    axes: Mapping[int, Axis] = own.get("weight", {})
    if not isinstance(layer, _ConvTransposeNd):
        return axes.get(0)
    inputs, outputs = layer._parameters["weight"].shape[:2]  # type: ignore[union-attr]
    groups = len(layer._parameters["bias"]) // outputs  # the layer's own number may be that of a width
    return axes[1] * groups if 1 in axes else axes.get(0) if 1 < groups == inputs else None


def _store(module: nn.Module, attribute: str) -> dict[str, Any]:
    return module._parameters if attribute in module._parameters else module._buffers


def _weight_slot(module: nn.Module, name: str, net: nn.Module, axes: dict[str, dict[str, Any]]) -> Slot | None:
    """The slot from which the active shape of a layer's weight is read, if any of it slims."""
    found = logical_weight(module)
    if found is None:
        return None
    owner, attribute = found
    path = name if owner is module else f"{name}.parametrizations.weight".lstrip(".")
    dims: Sequence[Any] | dict[int, Axis] = axes.get(path, {}).get(attribute, {})
    return Slot(owner._parameters, attribute, dims) if isinstance(dims, dict) and dims else None
